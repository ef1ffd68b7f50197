//! The record of a batch: reports outcomes in an order that does not depend on timing, and writes them to disk.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::case::{Batch, Outcome};
use crate::case_state::CaseState;
use crate::claims::Claims;
use crate::job::{ImmediateExit, PredictSummary};
use crate::manifest::{ClaimsAt, Counts, Manifest, ManifestCase, RecordFiles};
use ctseg_base::Result;
use ctseg_base::atomic_file::touch;
use ctseg_base::disk_full::is_full;
use ctseg_base::failures::Failure;
use ctseg_base::process::owner::Worker;
use ctseg_base::progress::{CaseCounts, Task};
use ctseg_base::temp_files::remove_own_temp_files;
use ctseg_base::text::words::counted;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::run::state_file;

/// How often the record checks for a request to exit.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Interval between updates of `predictions.json`; it is always written at the end.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// The states of a batch's cases.
pub(crate) struct Record<'a> {
    batch: &'a Batch<'a>,
    claims: Option<&'a Claims>,
    halted: &'a AtomicBool,
    files: RecordFiles,
    folders: Vec<PathBuf>,
    task: Box<dyn Task>,
    states: Vec<CaseState>,
    /// Whether a state comes from another process.
    by_others: Vec<bool>,
    /// Failures of an earlier run, for cases that are still pending.
    failed_before: Vec<Option<String>>,
    /// Cases before this one have been reported.
    reported: usize,
    ended_early: Option<String>,
    started: Instant,
    written: Instant,
    worker: Worker,
    /// When the batch started, as text.
    started_at: String,
    /// The last heartbeat between two writes.
    touched: Instant,
    /// Whether an immediate exit was requested and handled.
    has_exited: bool,
    /// Label maps of cases that failed because ctseg did not make the existing files.
    protected: Vec<PathBuf>,
}

impl<'a> Record<'a> {
    /// Creates the record with all cases pending, and writes it.
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
            reported: 0,
            ended_early: None,
            started,
            written: started,
            worker: Worker::current(),
            started_at: state_file::now(),
            touched: started,
            has_exited: false,
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

    /// Collects outcomes until all stages have ended.
    pub(super) fn collect(&mut self, results: &Receiver<(usize, Outcome)>) {
        loop {
            match results.recv_timeout(POLL_INTERVAL) {
                Ok((index, outcome)) => self.settle(index, outcome),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.poll();
        }
    }

    /// Updates the heartbeat, and exits if requested.
    pub(super) fn poll(&mut self) {
        self.heartbeat();
        if let Some(immediate_exit) = self.batch.job.immediate_exit
            && immediate_exit.requested.load(Ordering::Relaxed)
            && !self.has_exited
        {
            self.has_exited = true;
            self.exit(&immediate_exit);
        }
    }

    /// Notes that the batch ends because one of its threads panicked.
    pub(super) fn end_early(&mut self, panic: &str) {
        let reason = format!(
            "a thread of the batch panicked ({panic}); run the same command again to continue with the remaining cases"
        );
        self.ended_early.get_or_insert(reason);
    }

    /// Completes the record when all stages have ended.
    pub(super) fn close(&mut self) {
        if self.claims.is_none() {
            self.report(self.reported..self.states.len());
        }
        self.write_failures();
        self.write_manifest(true);
        if let Some(claims) = self.claims {
            claims.leave();
        }
    }

    /// Completes the record while threads are still running, and ends the process.
    fn exit(&mut self, immediate_exit: &ImmediateExit) {
        for folder in &self.folders {
            remove_own_temp_files(folder);
        }
        self.write_failures();
        self.write_manifest(true);
        if let Some(claims) = self.claims {
            claims.leave();
        }
        let pending = Counts::of(self.states.iter()).pending;
        self.batch.observer.warn(&format!(
            "stopped immediately with {} pending; run the same command again to continue",
            counted(pending, "case")
        ));
        (immediate_exit.exit)();
    }

    /// Touches the manifest during long cases, to show that this process is alive.
    fn heartbeat(&mut self) {
        let last = self.written.max(self.touched);
        if last.elapsed() > WRITE_INTERVAL {
            self.touched = Instant::now();
            let _ = touch(&self.files.manifest); // storage may be unavailable for a while
        }
    }

    pub(super) fn settle(&mut self, index: usize, outcome: Outcome) {
        let state = match outcome {
            Outcome::Kept(notes) => CaseState::Kept { notes },
            Outcome::Protected(error) => {
                self.protected.push(self.batch.cases[index].output.clone());
                CaseState::Failed {
                    reason: error.to_string(),
                }
            }
            Outcome::Written(sidecar) => CaseState::Done {
                seconds: sidecar.seconds,
                notes: sidecar.notes,
            },
            Outcome::Failed(error) => {
                if is_full(&error) {
                    self.halted.store(true, Ordering::Relaxed);
                    self.ended_early = Some(error.to_string());
                }
                CaseState::Failed {
                    reason: error.to_string(),
                }
            }
            Outcome::Dropped => return,
        };
        if let Some(claims) = self.claims {
            self.warn_on_error(claims.settle(index, &state));
        }
        let failed = matches!(state, CaseState::Failed { .. });
        let relisted = failed || self.failed_before[index].is_some();
        self.states[index] = state;
        self.by_others[index] = false;
        self.task.advance(1);
        self.log_case(index);
        self.batch.observer.cases(&self.case_counts());
        if self.claims.is_some() {
            self.report(index..index + 1); // in the order in which cases were claimed
        } else {
            let unknown = |state: &CaseState| *state == CaseState::Pending;
            let known = self.states[self.reported..].iter().position(unknown);
            let end = known.map_or(self.states.len(), |known| self.reported + known);
            self.report(self.reported..end);
            self.reported = end;
        }
        if relisted {
            self.write_failures();
        }
        if self.written.elapsed() > WRITE_INTERVAL {
            self.write_manifest(false);
        }
    }

    /// Logs a case whose label map exists; failed cases are reported as warnings.
    fn log_case(&self, index: usize) {
        let pending = Counts::of(self.states.iter()).pending;
        let input = self.batch.cases[index].input.display();
        let what = match &self.states[index] {
            CaseState::Done { seconds, .. } => format!("{seconds:.1} s"),
            CaseState::Kept { notes } if !notes.is_empty() => "kept, edited by hand".to_owned(),
            CaseState::Kept { .. } => "kept, made earlier from the same input and model".to_owned(),
            CaseState::Failed { .. } | CaseState::Pending => return,
        };
        let all = self.states.len();
        let line = format!("  {}/{all} {input}: {what}", all - pending);
        self.batch.observer.log(&line);
    }

    /// Reports warnings and failures of cases in order.
    fn report(&self, cases: std::ops::Range<usize>) {
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

    /// Reads the outcomes of other processes.
    fn read_others(&mut self) {
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

    /// Writes the list of failures; an error does not fail the batch.
    fn write_failures(&mut self) {
        self.read_others();
        loop {
            let failures = self.failures();
            self.warn_on_error(self.files.write_failures(&failures));
            // All processes that share the cases write the same list. Reading again after writing makes sure that a
            // failure that another process added in the meantime is not lost.
            self.read_others();
            if self.claims.is_none() || self.failures() == failures {
                return;
            }
        }
    }

    fn write_manifest(&mut self, ended: bool) {
        self.read_others();
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
            started_at: &self.started_at,
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
        self.warn_on_error(manifest.write(&self.files.manifest));
        self.written = Instant::now();
    }

    /// Counts of the cases that no other process has settled.
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
        let exit = job.immediate_exit.map(|exit| exit.requested);
        let mut flags = [Some(job.stop), exit].into_iter().flatten();
        flags.any(|flag| flag.load(Ordering::Relaxed)) && Counts::of(self.states.iter()).pending > 0
    }

    fn warn_on_error(&self, result: Result<()>) {
        if let Err(error) = result {
            self.batch.observer.warn(&error.to_string());
        }
    }

    /// The summary at the end of the command.
    pub(super) fn summary(self) -> PredictSummary {
        let mut summary = PredictSummary {
            cases: self.states.len(),
            seconds: self.started.elapsed().as_secs_f64(),
            interrupted: self.interrupted(),
            models: self.batch.models.clone(),
            views: self.batch.predictors.first().map_or(0, Predictor::views),
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
