//! Progress on stderr: bars on a terminal, plain lines with rate and time left everywhere else.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle};

use crate::pipeline::observer::{Observer, Task};

/// In a log file, a long piece of work says a line this often.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Bars that stay at the bottom of the terminal while lines scroll above them.
struct Bars(MultiProgress);

/// Lines for log files and pipes.
struct Lines;

/// What suits where stderr goes.
pub fn for_stderr() -> Arc<dyn Observer> {
    let bars = MultiProgress::new();
    // Hidden also on terminals that cannot move the cursor.
    if std::io::stderr().is_terminal() && !bars.is_hidden() {
        Arc::new(Bars(bars))
    } else {
        Arc::new(Lines)
    }
}

impl Observer for Bars {
    fn say(&self, line: &str) {
        // Fails only when stderr is gone, and then there is nobody to tell.
        let _ = self.0.println(line);
    }

    fn warn(&self, line: &str) {
        let _ = self.0.println(format!("warning: {line}"));
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        let template = if total > 0 {
            "{prefix:<28} {bar:24} {pos}/{len} {unit} {per_sec:>10} {eta:>5} left {msg}"
        } else {
            "{prefix:<28} {spinner} {pos} {unit} {per_sec:>10} {elapsed} {msg}"
        };
        let style = ProgressStyle::with_template(&template.replace("{unit}", unit))
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = if total > 0 {
            ProgressBar::new(total)
        } else {
            ProgressBar::new_spinner()
        };
        let bar = self
            .0
            .add(bar.with_style(style).with_prefix(name.to_owned()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Box::new(BarTask(bar))
    }
}

struct BarTask(ProgressBar);

impl Task for BarTask {
    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    fn note(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }
}

impl Drop for BarTask {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A reader that has gone away must not end hours of work.
fn to_stderr(line: &str) {
    let _ = std::io::stderr()
        .lock()
        .write_all(format!("{line}\n").as_bytes());
}

impl Observer for Lines {
    fn say(&self, line: &str) {
        to_stderr(line);
    }

    fn warn(&self, line: &str) {
        to_stderr(&format!("warning: {line}"));
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        let now = Instant::now();
        Box::new(LineTask {
            name: name.to_owned(),
            total,
            unit,
            done: AtomicU64::new(0),
            started: now,
            state: Mutex::new((now, String::new())),
        })
    }
}

struct LineTask {
    name: String,
    total: u64,
    unit: &'static str,
    done: AtomicU64,
    started: Instant,
    /// When the last line was said, and the note to say with the next.
    state: Mutex<(Instant, String)>,
}

impl Task for LineTask {
    fn advance(&self, steps: u64) {
        let done = self.done.fetch_add(steps, Ordering::Relaxed) + steps;
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        if state.0.elapsed() >= LINE_EVERY {
            state.0 = Instant::now();
            to_stderr(&self.line(done, &state.1));
        }
    }

    fn note(&self, text: &str) {
        if let Ok(mut state) = self.state.lock() {
            text.clone_into(&mut state.1);
        }
    }
}

impl LineTask {
    fn line(&self, done: u64, note: &str) -> String {
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        let mut line = format!("  {}: {done}", self.name);
        if self.total > 0 {
            line += &format!("/{}", self.total);
        }
        line += &format!(" {}, {rate:.1}/s", self.unit);
        if self.total > done && rate > 0.0 {
            let left = Duration::from_secs_f64((self.total - done) as f64 / rate);
            line += &format!(", {} left", HumanDuration(left));
        }
        if !note.is_empty() {
            line += &format!(", {note}");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_rate_time_left_and_note() {
        let task = LineTask {
            name: "segmenting".to_owned(),
            total: 40,
            unit: "cases",
            done: AtomicU64::new(0),
            started: Instant::now() - Duration::from_secs(20),
            state: Mutex::new((Instant::now(), String::new())),
        };
        let line = task.line(10, "loss 0.5");
        assert!(
            line.starts_with("  segmenting: 10/40 cases, 0.5/s, 60 seconds left")
                || line.contains("1 minute left"),
            "{line}"
        );
        assert!(line.ends_with("loss 0.5"));
    }
}
