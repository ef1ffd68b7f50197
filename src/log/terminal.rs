//! Progress on stderr: bars on a terminal, lines with rate and time left elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressStyle, WeakProgressBar};

use ctseg_base::limits::spawn::spawn;
use ctseg_base::progress::{Observer, Task};
use ctseg_base::text::printable::{lines, one_line};

/// Interval of progress lines in a log file.
const LINE_EVERY: Duration = Duration::from_secs(30);

const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Bars that stay at the bottom of the terminal while lines scroll above them, and a live table below the bars.
struct Bars {
    bars: MultiProgress,
    live_table: Mutex<Option<ProgressBar>>,
    /// Bars of running tasks; a thread redraws them as long as this exists.
    shown: Arc<Mutex<Vec<WeakProgressBar>>>,
    redraws: Once,
}

/// Lines for log files and pipes.
struct Lines;

/// Bars if stderr is a terminal, lines otherwise.
pub fn for_stderr() -> Arc<dyn Observer> {
    let bars = MultiProgress::new();
    // Bars are also hidden on terminals that cannot move the cursor.
    if std::io::stderr().is_terminal() && !bars.is_hidden() {
        Arc::new(Bars::on(bars))
    } else {
        Arc::new(Lines)
    }
}

impl Bars {
    fn on(bars: MultiProgress) -> Self {
        Self {
            bars,
            live_table: Mutex::default(),
            shown: Arc::default(),
            redraws: Once::new(),
        }
    }

    /// Redraws the bar regularly, so that its times advance during long steps. If no thread can be started for that,
    /// they advance with the steps.
    fn redraw(&self, bar: &ProgressBar) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.push(bar.downgrade());
        drop(shown);
        self.redraws.call_once(|| {
            let shown = Arc::downgrade(&self.shown);
            let _ = spawn("progress", move || {
                while let Some(shown) = shown.upgrade() {
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    shown.retain(|bar| bar.upgrade().is_some_and(|bar| !bar.is_finished()));
                    let bars: Vec<ProgressBar> =
                        shown.iter().filter_map(|bar| bar.upgrade()).collect();
                    drop(shown);
                    bars.iter().for_each(ProgressBar::tick);
                    drop(bars);
                    std::thread::sleep(DRAW_EVERY);
                }
            });
        });
    }
}

impl Observer for Bars {
    fn info(&self, line: &str) {
        // Fails only if stderr is closed.
        let _ = self.bars.println(one_line(line));
    }

    fn warn(&self, line: &str) {
        let _ = self.bars.println(format!("warning: {}", one_line(line)));
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
        // Above the live table.
        let bar = self.bars.insert(
            0,
            bar.with_style(style)
                .with_prefix(one_line(name).into_owned()),
        );
        self.redraw(&bar);
        Box::new(BarTask(bar))
    }

    fn set_live_table(&self, text: &str) {
        let mut live_table = self
            .live_table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() {
            if let Some(live_table) = live_table.take() {
                live_table.finish_and_clear();
            }
            return;
        }
        let live_table = live_table.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bars.add(ProgressBar::new_spinner().with_style(style))
        });
        live_table.set_message(lines(text).into_owned());
        live_table.tick();
    }
}

struct BarTask(ProgressBar);

impl Task for BarTask {
    fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }

    fn note(&self, text: &str) {
        self.0.set_message(one_line(text).into_owned());
    }
}

impl Drop for BarTask {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Writes a line with control characters escaped. A closed pipe must not end hours of work.
pub(super) fn to_stderr(line: &str) {
    let _ = std::io::stderr()
        .lock()
        .write_all(format!("{}\n", one_line(line)).as_bytes());
}

impl Observer for Lines {
    fn info(&self, line: &str) {
        to_stderr(line);
    }

    fn warn(&self, line: &str) {
        to_stderr(&format!("warning: {line}"));
    }

    fn log(&self, line: &str) {
        to_stderr(line);
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
    /// Time of the last line, and the note for the next.
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
    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal whose screen can be read: the last text of each line.
    #[derive(Debug, Default, Clone)]
    struct Screen(Arc<Mutex<(Vec<String>, usize)>>);

    impl Screen {
        fn at(&self, change: impl FnOnce(&mut Vec<String>, &mut usize)) -> std::io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            let (lines, row) = &mut *screen;
            change(lines, row);
            let rows = *row + 1;
            lines.resize(lines.len().max(rows), String::new());
            Ok(())
        }

        fn text(&self) -> String {
            self.0.lock().unwrap().0.join("\n")
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
            self.at(|_, row| *row = row.saturating_sub(n))
        }
        fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
            self.at(|_, row| *row += n)
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)?;
            self.move_cursor_down(1)
        }
        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.at(|lines, row| {
                lines.resize(lines.len().max(*row + 1), String::new());
                lines[*row] += text;
            })
        }
        fn clear_line(&self) -> std::io::Result<()> {
            self.at(|lines, row| {
                if let Some(line) = lines.get_mut(*row) {
                    line.clear();
                }
            })
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_live_table_stays_below_the_bars_until_it_is_removed() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let bars = Bars::on(MultiProgress::with_draw_target(target));
        bars.set_live_table("structure  dice\nliver  0.5");
        let task = bars.task("epoch 2", 4, "steps");
        bars.set_live_table("structure  dice\nliver  0.9\nspleen  0.8");
        task.advance(1);
        // Bars are drawn at intervals.
        let started = Instant::now();
        while !screen.text().contains("epoch 2") && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let shown = screen.text();
        let place = |what: &str| {
            shown
                .find(what)
                .unwrap_or_else(|| panic!("{what} in {shown}"))
        };
        assert!(place("epoch 2") < place("structure") && place("liver  0.9") < place("spleen"));
        assert!(!shown.contains("0.5"), "{shown}");
        bars.set_live_table("");
        drop(task);
        assert!(!screen.text().contains("liver"), "{}", screen.text());
    }

    #[test]
    fn lines_have_rate_time_left_and_note() {
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
