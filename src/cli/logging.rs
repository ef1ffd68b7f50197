//! How commands report on their work while it runs: log lines as text or JSON, and a metrics file.

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
use ctseg_tracking::prometheus::{MeteredObserver, MetricsFile};

/// The exit code of [`super::Outcome::WrongUsage`].
const WRONG_USAGE: u8 = 2;

/// Environment variable of `--log-format`.
const LOG_FORMAT: &str = "CTSEG_LOG_FORMAT";

#[derive(Args)]
pub(super) struct ObservingArgs {
    /// Format of progress, warnings and errors on stderr: text, or json (one object per line)
    #[arg(long, global = true, env = LOG_FORMAT, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Write Prometheus metrics to FILE while running, for node_exporter's textfile collector (which reads *.prom)
    #[arg(long, global = true, env = "CTSEG_METRICS_FILE", value_name = "FILE")]
    metrics_file: Option<PathBuf>,
}

impl ObservingArgs {
    pub(super) fn log(&self, command: &str) -> Log {
        Log::new(self.log_format, command)
    }

    /// Starts the log, and the metrics file if one was requested and the command `writes_metrics`.
    ///
    /// # Errors
    /// The metrics file cannot be written.
    pub(super) fn start(&self, command: &str, writes_metrics: bool) -> Result<Observing> {
        let metrics = self.metrics_file.as_deref().filter(|_| writes_metrics);
        let metrics = metrics.map(|path| MetricsFile::start(path, command));
        Ok(Observing {
            log: self.log(command),
            metrics: metrics.transpose()?.map(Arc::new),
        })
    }
}

/// The log and the metrics file of a command.
pub(super) struct Observing {
    log: Log,
    metrics: Option<Arc<MetricsFile>>,
}

impl Observing {
    /// Receives progress, messages and warnings.
    pub(super) fn observer(&self) -> Arc<dyn Observer> {
        match &self.metrics {
            Some(metrics) => Arc::new(MeteredObserver::new(self.log.observer(), metrics)),
            None => self.log.observer(),
        }
    }

    /// Receives a run's epochs, if there is a metrics file.
    pub(super) fn tracker(&self) -> Option<Arc<dyn Tracker>> {
        let metrics = self.metrics.clone();
        metrics.map(|metrics| metrics as Arc<dyn Tracker>)
    }

    /// Reports the devices in use.
    pub(super) fn set_engine(&self, computes: &[Compute]) {
        if let Some(metrics) = &self.metrics {
            let names: Vec<String> = computes.iter().map(Compute::to_string).collect();
            metrics.set_engine(&names.join(","));
        }
    }

    /// Reports the end of the command.
    pub(super) fn ended(&self, exit_code: u8) {
        let Some(metrics) = &self.metrics else { return };
        if let Err(error) = metrics.finish(exit_code) {
            self.log.observer().warn(&error.to_string());
        }
    }
}

/// Exits with the requested help or the usage error.
pub(super) fn refuse(error: &clap::Error) -> ! {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let format = format_of_invalid(&arguments);
    if format == LogFormat::Text || !error.use_stderr() {
        let text = error.to_string();
        if let Cow::Owned(escaped) = lines(&text) {
            // Without colours: an argument contains control characters, such as a file name expanded by the shell.
            eprint!("{escaped}");
            std::process::exit(error.exit_code());
        }
        error.exit();
    }
    // The first paragraph is the error, the others are usage hints.
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let words: Vec<&str> = message.split_whitespace().collect();
    Log::new(format, "").error(&words.join(" "), WRONG_USAGE);
    std::process::exit(WRONG_USAGE.into());
}

/// The log format that an invalid command line asks for.
fn format_of_invalid(arguments: &[String]) -> LogFormat {
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
    fn the_log_format_of_an_invalid_command_line_is_found() {
        let of = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            format_of_invalid(&words)
        };
        assert_eq!(of("ctseg fit --stge 1 --log-format json"), LogFormat::Json);
        assert_eq!(of("ctseg --log-format=json fit --stge"), LogFormat::Json);
        assert_eq!(of("ctseg fit --log-format=text"), LogFormat::Text);
        assert_eq!(of("ctseg fit --log-format"), LogFormat::Text);
    }
}
