//! Converts the cases in parallel, limited by threads and memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::case::Checks;
use super::files::Planned;
use super::journal::{Journal, Record, SourceFile};
use super::target::Target;
use ctseg_base::cancel::catch_panic;
use ctseg_base::disk_full::is_full;
use ctseg_base::failures::Failure;
use ctseg_base::limits::spawn::spawn_scoped;
use ctseg_base::progress::{CaseCounts, Observer};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::{Case, Channels};
use ctseg_core::outputs::sidecar::Written;

/// All cases to check and, with a target, to write.
pub(super) struct Work<'a> {
    pub checks: Checks<'a>,
    pub channels: &'a Channels,
    pub planned: &'a [Planned<'a>],
    pub target: Option<&'a Target>,
    /// Records of an earlier run, by case name.
    pub old: BTreeMap<String, Record>,
    pub journal: Option<&'a Journal>,
}

/// Result of all cases.
#[derive(Default)]
pub(super) struct WorkResult {
    /// Converted (or valid) cases, by name.
    pub records: BTreeMap<String, Record>,
    /// Of these, cases kept from an earlier run.
    pub kept: usize,
    pub failures: Vec<Failure>,
    pub notes: BTreeMap<String, Vec<String>>,
    pub interrupted: bool,
}

/// Result of one case.
enum Outcome {
    Kept(Record),
    Done(Record, Vec<String>),
    Failed(Vec<String>),
}

/// Results of the cases so far.
#[derive(Default)]
struct Done {
    outcomes: BTreeMap<usize, Outcome>,
    /// All cases before this one have been reported.
    reported: usize,
    counts: CaseCounts,
}

impl Done {
    /// Adds a result; failures are reported in case order, whichever finished first.
    fn add(&mut self, index: usize, outcome: Outcome, observer: &dyn Observer) {
        *match &outcome {
            Outcome::Kept(_) => &mut self.counts.skipped,
            Outcome::Done(..) => &mut self.counts.done,
            Outcome::Failed(_) => &mut self.counts.failed,
        } += 1;
        self.counts.pending = self.counts.pending.saturating_sub(1);
        observer.cases(&self.counts);
        self.outcomes.insert(index, outcome);
        while let Some(outcome) = self.outcomes.get(&self.reported) {
            if let Outcome::Failed(reasons) = outcome {
                for reason in reasons {
                    observer.warn(&format!("failed: {reason}"));
                }
            }
            self.reported += 1;
        }
    }
}

impl Work<'_> {
    /// Processes all cases, until stopped or the disk is full.
    pub fn run(
        &self,
        name: &str,
        observer: &dyn Observer,
        stop: &AtomicBool,
    ) -> Result<WorkResult> {
        let dataset = self.checks.dataset;
        let (general, duplicates) = dataset_failures(dataset);
        let todo: Vec<&Planned> = self
            .planned
            .iter()
            .filter(|case| !duplicates.contains(dataset.cases[case.index].id.as_str()))
            .collect();
        for failure in &general {
            observer.warn(&format!("failed: {}", failure.reason));
        }
        let (outcomes, full) = self.outcomes(name, &todo, observer, stop);
        if let Some(full) = full {
            return Err(full);
        }
        let mut result = WorkResult {
            failures: general,
            interrupted: outcomes.len() < todo.len(),
            ..WorkResult::default()
        };
        for (index, outcome) in outcomes {
            let case = &dataset.cases[todo[index].index];
            result.add(case, outcome);
        }
        Ok(result)
    }

    /// Results of the processed cases, in order, and the error that stopped the run, if any.
    fn outcomes(
        &self,
        name: &str,
        todo: &[&Planned],
        observer: &dyn Observer,
        stop: &AtomicBool,
    ) -> (BTreeMap<usize, Outcome>, Option<Error>) {
        let task = observer.task(name, todo.len() as u64, "cases");
        let (next, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Done {
            counts: CaseCounts {
                pending: todo.len() as u64,
                ..CaseCounts::default()
            },
            ..Done::default()
        };
        let (done, fatal) = (Mutex::new(done), Mutex::new(None));
        let work = || {
            while !stop.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = todo.get(index) else { break };
                let outcome = match catch_panic(|| self.process(case)) {
                    Ok(outcome) => outcome,
                    Err(error) if is_full(&error) => {
                        ended.store(true, Ordering::Relaxed);
                        let mut fatal = fatal.lock().unwrap_or_else(PoisonError::into_inner);
                        fatal.get_or_insert(error);
                        break;
                    }
                    Err(error) => Outcome::Failed(vec![error.to_string()]),
                };
                task.advance(1);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.add(index, outcome, observer);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..rayon::current_num_threads().min(todo.len()) {
                // A failed spawn only costs speed: this thread works too.
                let _ = spawn_scoped(scope, "convert", work);
            }
            work();
        });
        (
            done.into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .outcomes,
            fatal.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn process(&self, planned: &Planned) -> Result<Outcome> {
        let case = &self.checks.dataset.cases[planned.index];
        let images = &self.channels.files[planned.index];
        // Recorded before reading, so that the next run notices a change in between.
        let sources = self.sources(case, images);
        if let (Some(target), Ok(sources)) = (self.target, &sources)
            && let Some(old) = self.old.get(planned.name)
            && old.sources == *sources
            && old.written.keys().collect::<BTreeSet<_>>() == planned.files().collect()
            && old.id == case.id
            && old.is_intact(&target.folder)
        {
            return Ok(Outcome::Kept(old.clone()));
        }
        let checked = match self.checks.check(case, images) {
            Ok(checked) => checked,
            Err(problems) => return Ok(Outcome::Failed(problems)),
        };
        let mut record = Record {
            case: planned.name.to_owned(),
            id: case.id.clone(),
            test: planned.test,
            present: checked.present.clone(),
            needs_nibabel: checked.needs_nibabel,
            sources: sources?,
            written: BTreeMap::new(),
        };
        if let Some(target) = self.target {
            planned.write(&checked, images, &target.folder, target.format)?;
            for path in planned.files() {
                let written = Written::at(&target.folder.join(path))?;
                record.written.insert(path.clone(), written);
            }
        }
        if let Some(journal) = self.journal {
            journal.append(&record)?;
        }
        Ok(Outcome::Done(record, checked.notes))
    }

    fn sources(&self, case: &Case, images: &[PathBuf]) -> Result<Vec<SourceFile>> {
        let all = images.iter().chain(case.labels.files());
        all.map(|path| SourceFile::at(path)).collect()
    }
}

impl WorkResult {
    fn add(&mut self, case: &Case, outcome: Outcome) {
        match outcome {
            Outcome::Kept(record) => {
                self.kept += 1;
                self.records.insert(record.case.clone(), record);
            }
            Outcome::Done(record, notes) => {
                for note in notes {
                    self.notes.entry(note).or_default().push(case.id.clone());
                }
                self.records.insert(record.case.clone(), record);
            }
            Outcome::Failed(reasons) => {
                self.failures
                    .extend(reasons.into_iter().map(|reason| Failure {
                        input: case.image.clone(),
                        reason,
                    }));
            }
        }
    }
}

/// Failures that belong to no single case: label files without an image, and duplicate ids.
fn dataset_failures(dataset: &Dataset) -> (Vec<Failure>, BTreeSet<&str>) {
    let mut failures: Vec<Failure> = dataset
        .unpaired_labels
        .iter()
        .map(|path| Failure {
            input: path.clone(),
            reason: Error::file(
                path,
                "is a label file without an image; add the image or remove the file",
            )
            .to_string(),
        })
        .collect();
    let mut duplicates = BTreeSet::new();
    for pair in dataset.cases.windows(2) {
        if pair[0].id == pair[1].id {
            duplicates.insert(pair[0].id.as_str());
            failures.push(Failure {
                input: pair[1].image.clone(),
                reason: Error::file(
                    &pair[1].image,
                    format!(
                        "has the same case id as {}; rename or remove one of the two files",
                        pair[0].image.display()
                    ),
                )
                .to_string(),
            });
        }
    }
    (failures, duplicates)
}
