//! JSON log on stderr, one object per line, for log collectors.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::terminal;
use super::terminal::to_stderr;
use ctseg_base::process::scheduler_job::Job;
use ctseg_base::progress::{Observer, Task};
use ctseg_base::progress_counts::TaskCount;
use ctseg_base::{Error, Result};

/// Interval of progress lines of a task; one more is written when it ends.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Format of the log on stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Progress bars on a terminal, lines elsewhere.
    #[default]
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::usage(format!(
                "'{text}' is not a log format; expected text or json"
            ))),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Log {
    format: LogFormat,
    fields: Fields,
}

/// Fields of every line besides the message.
#[derive(Debug, Clone)]
struct Fields {
    command: String,
    job: Job,
}

impl Log {
    /// The log of `command`, such as `fit`; empty if unknown.
    pub fn new(format: LogFormat, command: &str) -> Self {
        Self {
            format,
            fields: Fields {
                command: command.to_owned(),
                job: Job::current().clone(),
            },
        }
    }

    /// Receives progress, messages and warnings.
    pub fn observer(&self) -> Arc<dyn Observer> {
        match self.format {
            LogFormat::Text => terminal::for_stderr(),
            LogFormat::Json => Arc::new(JsonLines(self.fields.clone())),
        }
    }

    /// Logs the error that ends the command with this exit code.
    pub fn error(&self, message: &str, exit_code: u8) {
        match self.format {
            LogFormat::Text => to_stderr(&format!("error: {message}")),
            LogFormat::Json => self
                .fields
                .write("error", message, json!({"exit_code": exit_code})),
        }
    }

    /// Logs panics in the same format.
    pub fn log_panics(&self) {
        if self.format == LogFormat::Text {
            return;
        }
        let fields = self.fields.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or("unknown cause");
            let place = panic.location().map(ToString::to_string);
            fields.write("error", &format!("panic: {text}"), json!({"place": place}));
        }));
    }
}

impl Fields {
    /// Writes a line with the additional members of `more`.
    fn write(&self, level: &str, message: &str, more: Value) {
        to_stderr(&self.line(level, message, more));
    }

    fn line(&self, level: &str, message: &str, more: Value) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let mut line = Map::new();
        let mut add = |name: &str, value: Value| {
            if !value.is_null() {
                line.insert(name.to_owned(), value);
            }
        };
        add("time", time.to_string().into());
        add("level", level.into());
        add("message", message.trim_end().into());
        add("command", self.command.as_str().into());
        add("pid", std::process::id().into());
        add("job", json!(self.job.id));
        add("rank", json!(self.job.rank));
        if let Value::Object(more) = more {
            more.into_iter().for_each(|(name, value)| add(&name, value));
        }
        Value::Object(line).to_string()
    }
}

struct JsonLines(Fields);

impl Observer for JsonLines {
    fn info(&self, line: &str) {
        self.0.write("info", line, Value::Null);
    }

    fn warn(&self, line: &str) {
        self.0.write("warning", line, Value::Null);
    }

    fn log(&self, line: &str) {
        self.info(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        Box::new(JsonTask {
            fields: self.0.clone(),
            count: TaskCount::new(name, total, unit),
            last_line: Mutex::new(Instant::now()),
        })
    }
}

struct JsonTask {
    fields: Fields,
    count: TaskCount,
    /// Time of the last line.
    last_line: Mutex<Instant>,
}

impl JsonTask {
    fn write_progress(&self, ended: bool) {
        let TaskCount {
            name, total, unit, ..
        } = &self.count;
        let done = self.count.done();
        let of = match total {
            0 => String::new(),
            total => format!("/{total}"),
        };
        let note = Some(self.count.note()).filter(|note| !note.is_empty());
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        let seconds_left = self.count.seconds_left().filter(|_| !ended);
        self.fields.write(
            "info",
            &format!("{name}: {done}{of} {unit}"),
            json!({
                "task": name, "unit": unit, "done": done,
                "total": (*total > 0).then_some(*total),
                "per_second": rounded(self.count.per_second()),
                "seconds": rounded(self.count.seconds()),
                "seconds_left": seconds_left.map(rounded), "note": note, "ended": ended,
            }),
        );
    }
}

impl Task for JsonTask {
    fn advance(&self, steps: u64) {
        self.count.advance(steps);
        let mut last_line = self
            .last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            drop(last_line);
            self.write_progress(false);
        }
    }

    fn note(&self, text: &str) {
        self.count.set_note(text);
    }
}

impl Drop for JsonTask {
    fn drop(&mut self) {
        self.write_progress(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_object_whatever_the_message() {
        let fields = Fields {
            command: "fit".to_owned(),
            job: Job {
                id: Some("70_3".to_owned()),
                rank: Some(1),
            },
        };
        let message = "a \"b\"\n\u{1b}[1mc\\ ü\n";
        let line = fields.line("warning", message, json!({"exit_code": 3, "note": null}));
        assert!(!line.contains('\n'), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], message.trim_end());
        let time: jiff::Timestamp = value["time"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(time).as_secs() < 60);
        let known = [&value["level"], &value["command"], &value["job"]];
        assert_eq!(known, ["warning", "fit", "70_3"]);
        assert_eq!(
            (&value["rank"], &value["exit_code"]),
            (&1.into(), &3.into())
        );
        assert!(value.get("note").is_none(), "{line}");
    }

    #[test]
    fn formats_have_names() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        let error = "xml".parse::<LogFormat>().unwrap_err().to_string();
        assert!(error.contains("text or json"), "{error}");
    }
}
