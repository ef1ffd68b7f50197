//! The metrics, with names and help texts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::exposition::{Exposition, Kind, Labels};
use ctseg_base::limits::threads::resident_bytes;
use ctseg_base::process::owner::Worker;
use ctseg_base::progress::CaseCounts;
use ctseg_base::progress_counts::TaskCount;

/// Units of tasks within an epoch or case; these are short and have many names.
const FINE_UNITS: [&str; 2] = ["slices", "patches"];

/// The state of the command.
#[derive(Default)]
pub(super) struct Metrics {
    pub command: String,
    pub engine: String,
    /// Seconds since 1970.
    pub started_at: f64,
    pub last_progress: f64,
    pub warnings: u64,
    pub cases: Option<CaseCounts>,
    pub networks: BTreeMap<String, Network>,
    /// Finished tasks by name: unit, steps done, steps in total.
    pub finished: BTreeMap<String, (&'static str, u64, u64)>,
    /// Set when the command ends.
    pub exit_code: Option<u8>,
}

/// A network in training.
#[derive(Default, Clone, Copy)]
pub(super) struct Network {
    pub epoch: usize,
    pub loss: f64,
    pub step_loss: Option<f64>,
    pub learning_rate: f64,
    /// `None` where undefined.
    pub dice: Option<f64>,
    pub best_dice: Option<f64>,
    /// Whether an epoch is finished.
    pub validated: bool,
}

impl Metrics {
    /// Keeps a finished task, unless it was within an epoch or case.
    pub(super) fn record_finished(&mut self, task: &TaskCount) {
        if !FINE_UNITS.contains(&task.unit) {
            let state = (task.unit, task.done(), task.total);
            self.finished.insert(task.name.clone(), state);
        }
    }

    /// The content of the file, including running tasks.
    pub(super) fn text(&self, tasks: &[Arc<TaskCount>]) -> String {
        let worker = Worker::current();
        let mut common = vec![
            ("command", self.command.clone()),
            ("pid", worker.pid.to_string()),
        ];
        common.extend(worker.job.map(|job| ("job_id", job)));
        common.extend(worker.rank.map(|rank| ("rank", rank.to_string())));
        let mut to = Exposition::new(common);
        self.process(&worker.host, &mut to);
        self.tasks(tasks, &mut to);
        self.cases(&mut to);
        self.training(&mut to);
        to.text()
    }

    fn process(&self, host: &str, to: &mut Exposition) {
        let up = f64::from(self.exit_code.is_none());
        to.value(
            "ctseg_up",
            Kind::Gauge,
            "1 while the command runs, 0 after it ends; stays 1 after a kill, see ctseg_last_written_timestamp_seconds.",
            up,
        );
        let info: Labels = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("engine", self.engine.clone()),
            ("host", host.to_owned()),
        ];
        let help = "Version, engine and host; always 1.";
        to.family("ctseg_info", Kind::Gauge, help, [(info, 1.0)]);
        let gauges = [
            (
                "ctseg_start_timestamp_seconds",
                "Start time of the command.",
                self.started_at,
            ),
            (
                "ctseg_last_progress_timestamp_seconds",
                "Time of the last progress: a step, a case, an epoch or a log line.",
                self.last_progress,
            ),
            (
                "ctseg_last_written_timestamp_seconds",
                "Time of the last write of this file; every few seconds while the command runs.",
                seconds_now(),
            ),
            (
                "ctseg_resident_memory_bytes",
                "Resident memory of the process.",
                resident_bytes() as f64,
            ),
        ];
        for (name, help, value) in gauges {
            to.value(name, Kind::Gauge, help, value);
        }
        to.value(
            "ctseg_warnings_total",
            Kind::Counter,
            "Warnings issued.",
            self.warnings as f64,
        );
        let code = self.exit_code.map(|code| (Labels::new(), f64::from(code)));
        let help = "Exit code, after the command ends: 0 done, 1 nothing done, 2 wrong usage, 3 some cases failed, 75 interrupted.";
        to.family("ctseg_exit_code", Kind::Gauge, help, code);
    }

    /// Running and finished tasks. Those within epochs and cases are summed by unit.
    fn tasks(&self, tasks: &[Arc<TaskCount>], to: &mut Exposition) {
        let mut rows = self.finished.clone();
        let mut rate = None;
        for task in tasks {
            let fine = FINE_UNITS.contains(&task.unit);
            let name = match fine {
                true => task.unit,
                false => task.name.as_str(),
            };
            let row = (task.unit, task.done(), task.total);
            let before = rows.insert(name.to_owned(), row);
            if fine {
                *rate.get_or_insert(0.0) += task.per_second();
                if let Some((unit, done, total)) = before {
                    rows.insert(name.to_owned(), (unit, done + row.1, total + row.2));
                }
            }
        }
        let labels = |name: &String, unit: &'static str| {
            vec![("task", name.clone()), ("unit", unit.to_owned())]
        };
        let done = rows.iter();
        let done = done.map(|(name, (unit, done, _))| (labels(name, unit), *done as f64));
        to.family("ctseg_task_done", Kind::Gauge, "Steps done per task.", done);
        let known = rows.iter().filter(|(_, (.., total))| *total > 0);
        let total = known.map(|(name, (unit, _, total))| (labels(name, unit), *total as f64));
        let help = "Steps in total per task, where known.";
        to.family("ctseg_task_size", Kind::Gauge, help, total);
        let help =
            "Slices, or patches of volumes, per second: mean over the current epoch or case.";
        let rate = rate.map(|rate| (Labels::new(), rate));
        to.family("ctseg_slices_per_second", Kind::Gauge, help, rate);
    }

    fn cases(&self, to: &mut Exposition) {
        let Some(cases) = self.cases else { return };
        let state = |name: &str, count: u64| (vec![("state", name.to_owned())], count as f64);
        let finished = [
            state("done", cases.done),
            state("failed", cases.failed),
            state("skipped", cases.skipped),
        ];
        let help = "Cases by outcome in this process; skipped: results existed already.";
        to.family("ctseg_cases_total", Kind::Counter, help, finished);
        let help = "Cases still to do.";
        to.value(
            "ctseg_cases_pending",
            Kind::Gauge,
            help,
            cases.pending as f64,
        );
    }

    fn training(&self, to: &mut Exposition) {
        let mut family = |name: &str, help: &str, of: &dyn Fn(&Network) -> Option<f64>| {
            let samples = self.networks.iter().filter_map(|(name, network)| {
                Some((vec![("network", name.clone())], of(network)?))
            });
            to.family(name, Kind::Gauge, help, samples);
        };
        let validated = |of: fn(&Network) -> f64| {
            move |network: &Network| network.validated.then(|| of(network))
        };
        family(
            "ctseg_epoch",
            "Epochs done.",
            &validated(|n| n.epoch as f64),
        );
        family(
            "ctseg_loss",
            "Training loss, mean over the last epoch.",
            &validated(|n| n.loss),
        );
        family("ctseg_step_loss", "Training loss of the last step.", &|n| {
            n.step_loss
        });
        let rate = validated(|network| network.learning_rate);
        family(
            "ctseg_learning_rate",
            "Learning rate of the last epoch.",
            &rate,
        );
        family(
            "ctseg_validation_dice",
            "Validation Dice of the last epoch.",
            &|network| network.dice,
        );
        family(
            "ctseg_validation_dice_best",
            "Best validation Dice so far.",
            &|network| network.best_dice,
        );
    }
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> f64 {
    jiff::Timestamp::now().as_millisecond() as f64 / 1e3
}
