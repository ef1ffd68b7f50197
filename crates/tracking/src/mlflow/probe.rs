//! Checks a server and lists runs with pending uploads, without changing anything on the server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::api::{Api, ExperimentInfo};
use super::cursor::Delivered;
use super::error::Fault;
use super::event_reader::complete_bytes;
use super::http::Http;
use super::settings::Server;
use super::sync::runs_at;
use ctseg_base::Result;

/// What a server returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// MLflow's version, if known.
    pub version: Option<String>,
    /// The configured experiment, if it exists.
    pub experiment: Option<ExperimentInfo>,
    pub skew: Option<ClockSkew>,
    pub response_time: Duration,
}

/// The difference between a server's clock and this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    pub difference: Duration,
    pub server_is_ahead: bool,
}

/// Requests the version and the experiment of `server`.
pub fn probe(server: &Server) -> Result<ServerInfo, Fault> {
    let http = Http::open(server)?;
    let started = Instant::now();
    let (version, date) = match http.line("/version") {
        Ok((text, date)) => (is_version(&text).then_some(text), date),
        // A proxy may hide it; only the experiment is essential.
        Err(Fault::Refused(_)) => (None, None),
        Err(fault) => return Err(fault),
    };
    // The date has whole seconds and was set during the request.
    let skew = date.map(|date| ClockSkew::between(date, SystemTime::now()));
    let experiment = Api { http: &http }.get_experiment_by_name(&server.experiment)?;
    Ok(ServerInfo {
        version,
        experiment,
        skew,
        response_time: started.elapsed(),
    })
}

impl ClockSkew {
    fn between(server: SystemTime, own: SystemTime) -> Self {
        let ahead = server.duration_since(own);
        Self {
            server_is_ahead: ahead.is_ok(),
            difference: ahead.unwrap_or_else(|behind| behind.duration()),
        }
    }
}

fn is_version(text: &str) -> bool {
    text.len() < 40 && text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.')
}

/// The runs at or below `folder` that are not completely uploaded to `server`.
///
/// # Errors
/// A folder that cannot be read.
pub fn pending_runs(folder: &Path, server: &Server) -> Result<Vec<PathBuf>> {
    let mut runs = runs_at(folder)?;
    runs.retain(|run| {
        let recorded = complete_bytes(run).unwrap_or_default();
        let cursor = Delivered::read(run, &server.uri);
        cursor.numbers.min(cursor.files) < recorded
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
        for (server, server_is_ahead) in [(now + hour, true), (now - hour, false)] {
            let expected = ClockSkew {
                difference: hour,
                server_is_ahead,
            };
            assert_eq!(ClockSkew::between(server, now), expected);
        }
    }

    #[test]
    fn other_pages_are_not_versions() {
        assert!(is_version("3.12.0rc1"));
        for other in ["", "<!DOCTYPE html>", "OK", "404 page not found"] {
            assert!(!is_version(other), "{other}");
        }
    }
}
