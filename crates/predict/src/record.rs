//! What came of each case: told in an order that does not depend on timing, and kept on disk as it happens.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::case::{Batch, Ended};
use crate::case_state::CaseState;
use crate::claims::Claims;
use crate::job::{Leaving, PredictSummary};
use crate::manifest::{ClaimsAt, Counts, Manifest, ManifestCase, RecordFiles};
use ctseg_base::Result;
use ctseg_base::atomic_file::touch;
use ctseg_base::disk_full::is_full;
use ctseg_base::failures::Failure;
use ctseg_base::process::owner::Worker;
use ctseg_base::progress::{CaseCounts, Task};
use ctseg_base::temp_files::remove_own_leftovers;
use ctseg_base::text::words::counted;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::run::state_file;

/// How often the record looks whether to leave.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often `predictions.json` is written while a batch goes on; at its end it is written in any case.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// What is known of a batch's cases.
pub(crate) struct Record<'a> {
    batch: &'a Batch<'a>,
    claims: Option<&'a Claims>,
    halted: &'a AtomicBool,
    files: RecordFiles,
    folders: Vec<PathBuf>,
    task: Box<dyn Task>,
    states: Vec<CaseState>,
    /// Whether a state is what another process has said.
    by_others: Vec<bool>,
    /// What an earlier run said of cases that are still to be done.
    failed_before: Vec<Option<String>>,
    /// Cases before this one have been told of.
    told: usize,
    ended_early: Option<String>,
    started: Instant,
    written: Instant,
    worker: Worker,
    /// When the batch began, for people.
    begun: String,
    /// The last sign of life beside what was written.
    touched: Instant,
    /// Whether somebody has asked to leave, and the record is in order for that.
    has_left: bool,
    /// Cases whose files ctseg has not made.
    protected: Vec<PathBuf>,
}

impl<'a> Record<'a> {
    /// With every case still to be done, on disk too.
    pub(super) fn new(
        batch: &'a Batch<'a>,
        claims: Option<&'a Claims>,
        halted: &'a AtomicBool,
        folders: Vec<PathBuf>,
        started: Instant,
    ) -> Self {
        let count = batch.cases.len();
        let files = RecordFiles::of(batch.job, batch.cases);
        let mut record = Self {
            batch,
            claims,
            halted,
            folders,
            task: batch.observer.task("segmenting", count as u64, "cases"),
            states: vec![CaseState::Pending; count],
            by_others: vec![false; count],
            failed_before: vec![None; count],
            told: 0,
            ended_early: None,
            started,
            written: started,
            worker: Worker::own(),
            begun: state_file::now(),
            touched: started,
            has_left: false,
            protected: Vec::new(),
            files,
        };
        if claims.is_none() {
            let mut before = record.files.failures_before();
            for (case, failed) in batch.cases.iter().zip(&mut record.failed_before) {
                let position = before
                    .iter()
                    .position(|failure| failure.input == case.input);
                *failed = position.map(|position| before.swap_remove(position).reason);
            }
        }
        record.write_failures();
        record.write_manifest(false);
        record
    }

    /// Listens until all stages have ended.
    pub(super) fn listen(&mut self, results: &Receiver<(usize, Ended)>) {
        loop {
            match results.recv_timeout(LOOK_EVERY) {
                Ok((index, ended)) => self.settle(index, ended),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look_around();
        }
    }

    /// Gives a sign of life, and leaves if that is asked for.
    pub(super) fn look_around(&mut self) {
        self.give_sign();
        if let Some(leaving) = self.batch.job.leaving
            && leaving.asked.load(Ordering::Relaxed)
            && !self.has_left
        {
            self.has_left = true;
            self.leave(&leaving);
        }
    }

    /// The batch ends here because one of its threads has died.
    pub(super) fn end_early(&mut self, death: &str) {
        let reason = format!(
            "a thread of the batch ended early ({death}); the same command goes on with the cases that are left"
        );
        self.ended_early.get_or_insert(reason);
    }

    /// Puts the record in order when all stages have ended.
    pub(super) fn close(&mut self) {
        if self.claims.is_none() {
            self.tell_of(self.told..self.states.len());
        }
        self.write_failures();
        self.write_manifest(true);
        if let Some(claims) = self.claims {
            claims.leave();
        }
    }

    /// Puts everything in order although threads are at work, and lets the process end.
    fn leave(&mut self, leaving: &Leaving) {
        for folder in &self.folders {
            remove_own_leftovers(folder);
        }
        self.write_failures();
        self.write_manifest(true);
        if let Some(claims) = self.claims {
            claims.leave();
        }
        let pending = Counts::of(self.states.iter()).pending;
        self.batch.observer.warn(&format!(
            "stopped at once; {} to be done: the same command goes on",
            counted(pending, "case")
        ));
        (leaving.leave)();
    }

    /// Shows on the file system that this process lives, where a case takes long.
    fn give_sign(&mut self) {
        let last = self.written.max(self.touched);
        if last.elapsed() > WRITE_EVERY {
            self.touched = Instant::now();
            let _ = touch(&self.files.manifest); // storage that is away for a while comes back
        }
    }

    pub(super) fn settle(&mut self, index: usize, ended: Ended) {
        let state = match ended {
            Ended::Kept(notes) => CaseState::Kept { notes },
            Ended::Protected(error) => {
                self.protected.push(self.batch.cases[index].output.clone());
                CaseState::Failed {
                    reason: error.to_string(),
                }
            }
            Ended::Written(sidecar) => CaseState::Done {
                seconds: sidecar.seconds,
                notes: sidecar.notes,
            },
            Ended::Failed(error) => {
                if is_full(&error) {
                    self.halted.store(true, Ordering::Relaxed);
                    self.ended_early = Some(error.to_string());
                }
                CaseState::Failed {
                    reason: error.to_string(),
                }
            }
            Ended::Dropped => return,
        };
        if let Some(claims) = self.claims {
            self.said(claims.settle(index, &state));
        }
        let failed = matches!(state, CaseState::Failed { .. });
        let relisted = failed || self.failed_before[index].is_some();
        self.states[index] = state;
        self.by_others[index] = false;
        self.task.advance(1);
        self.log_case(index);
        self.batch.observer.cases(&self.case_counts());
        if self.claims.is_some() {
            self.tell_of(index..index + 1); // in the order in which they were to be had
        } else {
            let unknown = |state: &CaseState| *state == CaseState::Pending;
            let known = self.states[self.told..].iter().position(unknown);
            let end = known.map_or(self.states.len(), |known| self.told + known);
            self.tell_of(self.told..end);
            self.told = end;
        }
        if relisted {
            self.write_failures();
        }
        if self.written.elapsed() > WRITE_EVERY {
            self.write_manifest(false);
        }
    }

    /// A line of a case whose label map is there, for logs. Of one that failed a warning says so.
    fn log_case(&self, index: usize) {
        let pending = Counts::of(self.states.iter()).pending;
        let input = self.batch.cases[index].input.display();
        let what = match &self.states[index] {
            CaseState::Done { seconds, .. } => format!("{seconds:.1} s"),
            CaseState::Kept { notes } if !notes.is_empty() => "kept, changed by hand".to_owned(),
            CaseState::Kept { .. } => "kept, made before of the same input and model".to_owned(),
            CaseState::Failed { .. } | CaseState::Pending => return,
        };
        let all = self.states.len();
        let line = format!("  {}/{all} {input}: {what}", all - pending);
        self.batch.observer.log(&line);
    }

    /// Warnings of cases in their order.
    fn tell_of(&self, cases: std::ops::Range<usize>) {
        let observer = self.batch.observer;
        for index in cases.filter(|index| !self.by_others[*index]) {
            let input = self.batch.cases[index].input.display();
            match &self.states[index] {
                CaseState::Done { notes, .. } | CaseState::Kept { notes } => notes
                    .iter()
                    .for_each(|note| observer.warn(&format!("{input}: {note}"))),
                CaseState::Failed { reason } => observer.warn(&format!("failed: {reason}")),
                CaseState::Pending => {}
            }
        }
    }

    /// Listens to what other processes have left behind.
    fn hear_others(&mut self) {
        let Some(claims) = self.claims else { return };
        for (index, state) in self.states.iter_mut().enumerate() {
            let open = matches!(state, CaseState::Pending | CaseState::Failed { .. });
            let theirs = self.by_others[index] || *state == CaseState::Pending;
            if open
                && theirs
                && let Some(known) = claims.known(index)
            {
                *state = known;
                self.by_others[index] = true;
            }
        }
    }

    fn failures(&self) -> Vec<Failure> {
        let states = self.states.iter().zip(&self.failed_before);
        let failures = self.batch.cases.iter().zip(states);
        let failures = failures.filter_map(|(case, (state, before))| {
            let reason = match state {
                CaseState::Failed { reason } => Some(reason.clone()),
                CaseState::Pending => before.clone(),
                CaseState::Kept { .. } | CaseState::Done { .. } => None,
            }?;
            Some(Failure {
                input: case.input.clone(),
                reason,
            })
        });
        failures.collect()
    }

    /// A failure to list failures is no reason to lose the other cases.
    fn write_failures(&mut self) {
        self.hear_others();
        loop {
            let failures = self.failures();
            self.said(self.files.write_failures(&failures));
            // Processes that share the cases all write the same list. Whoever was heard too late to be in it has
            // not yet written, or did so before: looking again after writing leaves none out.
            self.hear_others();
            if self.claims.is_none() || self.failures() == failures {
                return;
            }
        }
    }

    fn write_manifest(&mut self, ended: bool) {
        self.hear_others();
        let job = self.batch.job;
        let cases = self.batch.cases.iter().zip(&self.states);
        let cases = cases.map(|(case, state)| ManifestCase {
            input: &case.input,
            output: &case.output,
            state,
        });
        let counts = Counts::of(self.states.iter());
        let manifest = Manifest {
            ctseg_version: env!("CARGO_PKG_VERSION"),
            worker: &self.worker,
            begun: &self.begun,
            folder: &job.folder,
            claims: self.claims.map(ClaimsAt::of),
            models: &self.batch.models,
            model_sha256: &self.batch.model_sha256,
            devices: job.computes.iter().map(ToString::to_string).collect(),
            shard: job.shard.map(|shard| shard.to_string()),
            ended,
            interrupted: self.interrupted(),
            ended_early: self.ended_early.as_deref(),
            seconds: self.started.elapsed().as_secs_f64(),
            counts,
            cases: cases.collect(),
        };
        let result = manifest.write(&self.files.manifest);
        self.said(result);
        self.written = Instant::now();
    }

    /// Of the cases that no other process has settled.
    fn case_counts(&self) -> CaseCounts {
        let states = self.states.iter().zip(&self.by_others);
        let own = states.filter(|(_, by_others)| !**by_others);
        let counts = Counts::of(own.map(|(state, _)| state));
        CaseCounts {
            done: counts.done as u64,
            failed: counts.failed as u64,
            skipped: counts.kept as u64,
            pending: counts.pending as u64,
        }
    }

    fn interrupted(&self) -> bool {
        let job = self.batch.job;
        let asked = job.leaving.is_some_and(|l| l.asked.load(Ordering::Relaxed));
        (asked || job.stop.load(Ordering::Relaxed)) && Counts::of(self.states.iter()).pending > 0
    }

    fn said(&self, result: Result<()>) {
        if let Err(error) = result {
            self.batch.observer.warn(&error.to_string());
        }
    }

    /// What the command says at the end.
    pub(super) fn summary(self) -> PredictSummary {
        let mut summary = PredictSummary {
            cases: self.states.len(),
            seconds: self.started.elapsed().as_secs_f64(),
            interrupted: self.interrupted(),
            models: self.batch.models.clone(),
            looks: self.batch.predictors.first().map_or(0, Predictor::looks),
            failures_file: self.files.failures.clone(),
            manifest_file: self.files.manifest.clone(),
            ended_early: self.ended_early,
            protected: self.protected,
            ..PredictSummary::default()
        };
        let cases = self.batch.cases.iter().zip(self.states);
        for ((case, state), by_others) in cases.zip(self.by_others) {
            match &state {
                CaseState::Kept { .. } if !by_others => summary.kept.push(case.output.clone()),
                CaseState::Done { .. } if !by_others => summary.written.push(case.output.clone()),
                _ => {}
            }
            match state {
                CaseState::Failed { .. } if by_others => {}
                CaseState::Done { .. } | CaseState::Kept { .. } if by_others => {
                    summary.by_others.push(case.output.clone());
                }
                CaseState::Kept { notes } | CaseState::Done { notes, .. } => {
                    let notes = notes.into_iter().map(|note| (case.input.clone(), note));
                    summary.notes.extend(notes);
                }
                CaseState::Failed { reason } => summary.failures.push(Failure {
                    input: case.input.clone(),
                    reason,
                }),
                CaseState::Pending => {}
            }
        }
        summary
    }
}
