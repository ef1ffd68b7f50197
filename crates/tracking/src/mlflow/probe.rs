//! Whether a server can be used, and what of runs it has not yet; nothing is changed there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::api::{Api, KnownExperiment};
use super::cursor::Delivered;
use super::error::Fault;
use super::event_reader::whole_bytes;
use super::http::Http;
use super::settings::Server;
use super::sync::runs_at;
use ctseg_base::Result;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// MLflow's, where the server tells.
    pub version: Option<String>,
    /// The server's experiment, where there is one of that name.
    pub experiment: Option<KnownExperiment>,
    /// How far the server's clock is ahead of ours, and whether it is ahead.
    pub skew: Option<(Duration, bool)>,
    pub took: Duration,
}

/// Asks for its version, and for the experiment of `server`.
pub fn probed(server: &Server) -> Result<Answer, Fault> {
    let http = Http::open(server)?;
    let begun = Instant::now();
    let (version, date) = match http.line("/version") {
        Ok((text, date)) => (is_version(&text).then_some(text), date),
        // Somebody in between may hide it; the experiment is what counts.
        Err(Fault::Refused(_)) => (None, None),
        Err(fault) => return Err(fault),
    };
    // The date has whole seconds, and was written on the way.
    let skew = date.map(|date| skew(date, SystemTime::now()));
    let experiment = Api { http: &http }.known_experiment(&server.experiment)?;
    Ok(Answer {
        version,
        experiment,
        skew,
        took: begun.elapsed(),
    })
}

fn skew(theirs: SystemTime, ours: SystemTime) -> (Duration, bool) {
    match theirs.duration_since(ours) {
        Ok(ahead) => (ahead, true),
        Err(behind) => (behind.duration(), false),
    }
}

fn is_version(text: &str) -> bool {
    text.len() < 40 && text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.')
}

/// The runs at or below `folder` of which `server` has not everything.
///
/// # Errors
/// A folder that cannot be read.
pub fn waiting(folder: &Path, server: &Server) -> Result<Vec<PathBuf>> {
    let mut runs = runs_at(folder)?;
    runs.retain(|run| {
        let told = whole_bytes(run).unwrap_or_default();
        let standing = Delivered::read(run, &server.uri);
        standing.numbers.min(standing.files) < told
    });
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_in_both_directions() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        assert_eq!(skew(now + hour, now), (hour, true));
        assert_eq!(skew(now - hour, now), (hour, false));
    }

    #[test]
    fn pages_of_others_are_no_versions() {
        assert!(is_version("3.12.0rc1"));
        for other in ["", "<!DOCTYPE html>", "OK", "404 page not found"] {
            assert!(!is_version(other), "{other}");
        }
    }
}
