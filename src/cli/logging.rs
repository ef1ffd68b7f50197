//! How commands tell of their work while it goes on: lines for people or programs, and figures in a file.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::log::json::{Log, LogFormat};
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_base::text::printable::lines;
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::device::Compute;
use ctseg_tracking::prometheus::{Metered, MetricsFile};

/// The exit code of [`super::Outcome::WrongUsage`].
const WRONG_USAGE: u8 = 2;

/// The environment's variable for `--log-format`.
const LOG_FORMAT: &str = "CTSEG_LOG_FORMAT";

#[derive(Args)]
pub(super) struct ObservingArgs {
    /// How progress, warnings and errors are written to stderr: text, or json, an object a line
    #[arg(long, global = true, env = LOG_FORMAT, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Keep figures of the work in FILE, in Prometheus' text format, for node_exporter's textfile collector
    /// (whose files end in .prom)
    #[arg(long, global = true, env = "CTSEG_METRICS_FILE", value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

impl ObservingArgs {
    /// Where the lines of `command` go.
    pub(super) fn log(&self, command: &str) -> Log {
        Log::new(self.log_format, command)
    }

    /// Begins with the figures, where they are wanted and the command `has_figures`.
    ///
    /// # Errors
    /// Their file cannot be written.
    pub(super) fn begun(&self, command: &str, has_figures: bool) -> Result<Observing> {
        let metrics = self.metrics_file.as_deref().filter(|_| has_figures);
        let metrics = metrics.map(|path| MetricsFile::begin(path, command));
        Ok(Observing {
            log: self.log(command),
            metrics: metrics.transpose()?.map(Arc::new),
        })
    }
}

/// Who hears of a command's work.
pub(super) struct Observing {
    log: Log,
    metrics: Option<Arc<MetricsFile>>,
}

impl Observing {
    /// Hears what long work tells.
    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        match &self.metrics {
            Some(metrics) => Arc::new(Metered::new(self.log.observer(), metrics)),
            None => self.log.observer(),
        }
    }

    /// Hears of a run's epochs, if anybody wants to.
    pub(super) fn tracker(&self) -> Option<&dyn Tracker> {
        self.metrics
            .as_deref()
            .map(|metrics| metrics as &dyn Tracker)
    }

    /// Tells what is computed on.
    pub(super) fn computes_on(&self, computes: &[Compute]) {
        if let Some(metrics) = &self.metrics {
            let names: Vec<String> = computes.iter().map(Compute::to_string).collect();
            metrics.computes_on(&names.join(","));
        }
    }

    /// The command is over.
    pub(super) fn ended(&self, exit_code: u8) {
        let Some(metrics) = &self.metrics else { return };
        if let Err(error) = metrics.ended(exit_code) {
            self.log.observer().warn(&error.to_string());
        }
    }
}

/// Ends the process: with help that was asked for, or with what is wrong with the command line.
pub(super) fn refuse(error: &clap::Error) -> ! {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let format = format_of_unread(&arguments);
    if format == LogFormat::Text || !error.use_stderr() {
        let text = error.to_string();
        if let Cow::Owned(escaped) = lines(&text) {
            // Without colours: an argument has control characters, such as the name of a file that the shell found.
            eprint!("{escaped}");
            std::process::exit(error.exit_code());
        }
        error.exit();
    }
    // The first paragraph says what is wrong, the others how commands are written.
    let text = error.to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    let said = said.strip_prefix("error: ").unwrap_or(said);
    let words: Vec<&str> = said.split_whitespace().collect();
    Log::new(format, "").error(&words.join(" "), WRONG_USAGE);
    std::process::exit(WRONG_USAGE.into());
}

/// The format that a command line which cannot be read asks for.
fn format_of_unread(arguments: &[String]) -> LogFormat {
    let named = arguments.iter().enumerate().find_map(|(index, argument)| {
        let rest = argument.strip_prefix("--log-format")?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            None if rest.is_empty() => arguments.get(index + 1).cloned(),
            None => None,
        }
    });
    let named = named.or_else(|| std::env::var(LOG_FORMAT).ok());
    named.and_then(|name| name.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_known_where_the_rest_is_wrong() {
        let of = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            format_of_unread(&words)
        };
        assert_eq!(of("ctseg fit --stge 1 --log-format json"), LogFormat::Json);
        assert_eq!(of("ctseg --log-format=json fit --stge"), LogFormat::Json);
        assert_eq!(of("ctseg fit --log-format=text"), LogFormat::Text);
        assert_eq!(of("ctseg fit --log-format"), LogFormat::Text);
    }
}
