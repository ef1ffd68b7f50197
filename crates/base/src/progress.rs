//! Progress reporting. Progress bars, log files and tests implement [`Observer`].

use crate::text::printable::one_line;

/// Receives messages and progress. All methods may be called from several threads.
pub trait Observer: Send + Sync {
    /// A message for the user.
    fn info(&self, line: &str);

    /// A warning; the work continues.
    fn warn(&self, line: &str);

    /// A message for logs only, since progress bars show it on a terminal.
    fn log(&self, _line: &str) {}

    /// Starts a task of `total` steps (0 if unknown); dropping the handle ends it.
    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task>;

    /// Case counts by state; called after each change.
    fn cases(&self, _counts: &CaseCounts) {}

    /// Shows a table at the bottom of a terminal, in place of the previous one; an empty text removes it. Not shown
    /// elsewhere.
    fn set_live_table(&self, _text: &str) {}
}

/// Cases of a batch by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaseCounts {
    pub done: u64,
    pub failed: u64,
    /// Cases whose results existed already.
    pub skipped: u64,
    pub pending: u64,
}

/// A running task.
pub trait Task: Send + Sync {
    /// Adds `steps` done.
    fn advance(&self, steps: u64);

    /// A short text beside the bar, such as the current loss.
    fn note(&self, text: &str);
}

/// Ignores everything; for tests and library users.
pub struct Silent;

impl Observer for Silent {
    fn info(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
}

impl Task for Silent {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// Forwards everything and appends every message, with its time, to a log file.
pub struct Logged<'a> {
    inner: &'a dyn Observer,
    log: std::sync::Mutex<std::fs::File>,
}

impl<'a> Logged<'a> {
    pub fn new(inner: &'a dyn Observer, log: std::fs::File) -> Self {
        Self {
            inner,
            log: std::sync::Mutex::new(log),
        }
    }

    fn write(&self, kind: &str, line: &str) {
        use std::io::Write;
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if let Ok(mut log) = self.log.lock() {
            // A full disk must not end a training over its log.
            let _ = log.write_all(format!("{time} {kind} {}\n", one_line(line)).as_bytes());
        }
    }
}

impl Observer for Logged<'_> {
    fn info(&self, line: &str) {
        self.write("info", line);
        self.inner.info(line);
    }

    fn warn(&self, line: &str) {
        self.write("warning", line);
        self.inner.warn(line);
    }

    fn log(&self, line: &str) {
        self.write("info", line);
        self.inner.log(line);
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        self.inner.task(name, total, unit)
    }

    fn set_live_table(&self, text: &str) {
        self.inner.set_live_table(text);
    }

    fn cases(&self, counts: &CaseCounts) {
        self.inner.cases(counts);
    }
}
