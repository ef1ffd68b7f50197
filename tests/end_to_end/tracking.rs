//! What trackers receive from a run: everything, in order, once, with the numbers of the run folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::captured_log::CapturedLog;
use crate::common::phantoms;
use crate::common::runs::{fit_job, only_run};
use ctseg_base::Error;
use ctseg_base::progress::{Observer, Silent};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::run::metric_names;
use ctseg_core::run::tracker::{EpochRecord, Event, Outcome, Point, RunIdentity, Tracker};
use ctseg_report::curves::Curves;
use ctseg_report::pictures::comparison;
use ctseg_train::fit::{FitJob, FitSummary, fit};
use serde_json::Value;

mod everything;

/// A call that a tracker receives.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Started(PathBuf),
    Epoch {
        network: String,
        epoch: usize,
        steps: u64,
        points: BTreeMap<String, f64>,
    },
    Event(Event),
    Ended(Outcome),
}

#[derive(Default)]
struct Recording {
    calls: Mutex<Vec<Call>>,
    /// Requests a stop of the training after this number of epochs.
    stop_after: Option<usize>,
    stop: AtomicBool,
}

impl Recording {
    fn keep(&self, call: Call) -> ctseg_base::Result<()> {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<Event> {
        let events = self.calls().into_iter().filter_map(|call| match call {
            Call::Event(event) => Some(event),
            _ => None,
        });
        events.collect()
    }

    /// Points of a network's steps, in the order received.
    fn points(&self, of: Option<&str>) -> Vec<Point> {
        let events = self.events().into_iter().filter_map(|event| match event {
            Event::Metrics { network, points } if network.as_deref() == of => Some(points),
            _ => None,
        });
        events.flatten().collect()
    }

    fn epochs(&self) -> Vec<(String, usize, u64, BTreeMap<String, f64>)> {
        let epochs = self.calls().into_iter().filter_map(|call| match call {
            Call::Epoch {
                network,
                epoch,
                steps,
                points,
            } => Some((network, epoch, steps, points)),
            _ => None,
        });
        epochs.collect()
    }
}

impl Tracker for Recording {
    fn run_started(&self, run: &RunIdentity) -> ctseg_base::Result<()> {
        self.keep(Call::Started(run.folder.to_path_buf()))
    }

    fn log_epoch(&self, record: &EpochRecord) -> ctseg_base::Result<()> {
        self.keep(Call::Epoch {
            network: record.network.to_owned(),
            epoch: record.progress.epoch,
            steps: record.progress.optimiser_steps,
            points: metric_names::epoch_metrics(record).into_iter().collect(),
        })?;
        if Some(self.epochs().len()) == self.stop_after {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn log_event(&self, event: &Event) -> ctseg_base::Result<()> {
        if let Event::Artifact { path, .. } = event {
            assert!(path.exists(), "{}", path.display());
        }
        self.keep(Call::Event(event.clone()))
    }

    fn run_ended(&self, _: &RunIdentity, outcome: &Outcome) -> ctseg_base::Result<()> {
        self.keep(Call::Ended(outcome.clone()))
    }
}

/// Fits a small stage 1 below `folder`, or resumes the run there.
fn fit_small(
    folder: &Path,
    set: &[&str],
    trackers: &[&dyn Tracker],
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> ctseg_base::Result<FitSummary> {
    let descriptor = folder.join("data/dataset.toml");
    if !descriptor.exists() {
        assert_eq!(phantoms(&folder.join("data"), 4, 0), descriptor);
    }
    let job = FitJob {
        trackers,
        tags: vec![("mlflow.user".to_owned(), "ada".to_owned())],
        draw_comparison: Some(comparison::draw),
        ..fit_job(&descriptor, folder, set, stop)
    };
    fit(&job, observer)
}

/// The lines of `metrics.jsonl` by name, in the form in which trackers receive them.
fn written(run: &Path, structures: &[String]) -> Vec<(String, usize, BTreeMap<String, f64>)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut points = BTreeMap::new();
        for (key, value) in line.as_object().unwrap() {
            if let (Some(value), false) = (value.as_f64(), key == "epoch") {
                points.insert(key.clone(), value);
            }
            for (value, structure) in value.as_array().into_iter().flatten().zip(structures) {
                let name = format!("{key}/{structure}");
                points.extend(value.as_f64().map(|value| (name, value)));
            }
        }
        let network = line["network"].as_str().unwrap().to_owned();
        (network, line["epoch"].as_u64().unwrap() as usize, points)
    };
    text.lines().map(of_line).collect()
}

/// Fails unless steps ascend to `last` without repeats. Fast steps share a point, so numbers may be skipped.
fn assert_steps_are_whole(points: &[Point], last: u64) {
    let steps: Vec<u64> = points.iter().map(|point| point.step).collect();
    assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    assert!(steps.first().is_some_and(|step| *step > 0), "{steps:?}");
    assert_eq!(steps.last(), Some(&last));
}

#[test]
fn a_resumed_run_logs_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let set = [
        "training.epochs=3",
        "train_folds=[0]",
        "training.batch_size=2",
    ];
    let stopped = Recording {
        stop_after: Some(1),
        ..Recording::default()
    };
    let error = fit_small(folder.path(), &set, &[&stopped], &stopped.stop, &Silent).unwrap_err();
    assert!(matches!(error, Error::Interrupted(_)), "{error}");
    assert_eq!(
        stopped.calls().last(),
        Some(&Call::Ended(Outcome::Interrupted))
    );
    let is_log =
        |event: &Event| matches!(event, Event::Artifact { path, .. } if path.ends_with("log.txt"));
    assert!(stopped.events().iter().any(is_log));

    let resumed = Recording::default();
    fit_small(folder.path(), &set, &[&resumed], &resumed.stop, &Silent).unwrap();
    let epochs = [stopped.epochs(), resumed.epochs()].concat();
    let numbers: Vec<usize> = epochs.iter().map(|epoch| epoch.1).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let points = [
        stopped.points(Some("fold 0")),
        resumed.points(Some("fold 0")),
    ]
    .concat();
    // It was stopped in the second epoch, after the current step.
    assert_eq!(
        stopped.points(Some("fold 0")).last().unwrap().step,
        epochs[0].2 + 1
    );
    assert_steps_are_whole(&points, epochs[2].2);
    let run = only_run(folder.path());
    let logged: Vec<_> = epochs
        .into_iter()
        .map(|(network, epoch, _, points)| (network, epoch, points))
        .collect();
    assert_eq!(logged, written(&run, &["structures".to_owned()]));

    // As after a kill: the epochs after the previous checkpoint are trained and logged again, with the same result.
    let checkpoints = run.join("checkpoints/fold_0");
    std::fs::rename(
        checkpoints.join("previous.safetensors"),
        checkpoints.join("last.safetensors"),
    )
    .unwrap();
    let again = Recording::default();
    fit_small(folder.path(), &set, &[&again], &again.stop, &Silent).unwrap();
    let (_, epoch, steps, mut points) = again.epochs().pop().unwrap();
    let (_, _, mut before) = logged.last().unwrap().clone();
    points.remove("seconds");
    before.remove("seconds");
    assert_eq!((again.epochs().len(), epoch, points), (1, 3, before));
    assert_eq!(again.points(Some("fold 0")).last().unwrap().step, steps);
}

struct Failing;

impl Tracker for Failing {
    fn run_started(&self, _: &RunIdentity) -> ctseg_base::Result<()> {
        Err(Error::Invalid("the server is away".to_owned()))
    }

    fn log_epoch(&self, _: &EpochRecord) -> ctseg_base::Result<()> {
        self.run_started(&RunIdentity {
            name: "",
            folder: Path::new(""),
            parent: None,
        })
    }

    fn log_event(&self, _: &Event) -> ctseg_base::Result<()> {
        self.run_started(&RunIdentity {
            name: "",
            folder: Path::new(""),
            parent: None,
        })
    }

    fn run_ended(&self, run: &RunIdentity, _: &Outcome) -> ctseg_base::Result<()> {
        self.run_started(run)
    }
}

#[test]
fn a_failing_tracker_is_reported_once_and_fails_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, warnings) = (Recording::default(), CapturedLog::default());
    let set = ["training.epochs=2", "train_folds=[0]", "out_of_fold=false"];
    let trackers: [&dyn Tracker; 2] = [&Failing, &recording];
    fit_small(folder.path(), &set, &trackers, &recording.stop, &warnings).unwrap();
    let warnings = warnings.warnings();
    let about = warnings.iter().filter(|line| line.contains("away"));
    assert_eq!(about.count(), 1, "{warnings:?}");
    // Later trackers still receive everything.
    assert_eq!(recording.epochs().len(), 2);
    assert_eq!(
        recording.calls().last(),
        Some(&Call::Ended(Outcome::Finished))
    );
}
