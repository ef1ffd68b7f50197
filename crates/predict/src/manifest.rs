//! `predictions.json` and `failures.jsonl`: all cases of a batch, and those that failed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::case_state::CaseState;
use crate::claims::Claims;
use crate::job::PredictJob;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::failures::{Failure, write_failures};
use ctseg_base::process::owner::Worker;
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::sidecar::sidecar_path;

/// Paths of a batch's record.
#[derive(Debug, Clone)]
pub(super) struct RecordFiles {
    pub(super) failures: PathBuf,
    pub(super) manifest: PathBuf,
}

impl RecordFiles {
    /// In the job's folder; each shard has its own: `predictions-3-of-8.json`. If another program's file or a case's
    /// sidecar has that name, it is `predictions.batch.json`.
    pub(super) fn of(job: &PredictJob, cases: &[PredictCase]) -> Self {
        let shard = job.shard.map(|shard| format!("-{}", shard.suffix()));
        let shard = shard.unwrap_or_default();
        let free = |name: &str, ending: &str, is_own: fn(&Path) -> bool| {
            let default = job.folder.join(format!("{name}{shard}.{ending}"));
            let mut cases = cases.iter();
            let is_sidecar = cases.any(|case| sidecar_path(&case.output) == default);
            match is_sidecar || (default.exists() && !is_own(&default)) {
                true => job.folder.join(format!("{name}{shard}.batch.{ending}")),
                false => default,
            }
        };
        Self {
            failures: free("failures", "jsonl", is_own_list),
            manifest: free("predictions", "json", is_own_manifest),
        }
    }

    /// The failures listed by an earlier run.
    pub(super) fn failures_before(&self) -> Vec<Failure> {
        let text = read_text(&self.failures).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.filter_map(|failure| failure.ok()).collect()
    }

    /// Replaces the list of failures; removes it if nothing failed.
    pub(super) fn write_failures(&self, failures: &[Failure]) -> Result<()> {
        write_failures(&self.failures, failures)
    }
}

/// Whether the file is empty or was written by an earlier batch.
fn is_own_manifest(path: &Path) -> bool {
    #[derive(Deserialize)]
    struct Own {
        #[serde(rename = "ctseg_version")]
        _ctseg_version: String,
    }
    regular_file::read(path)
        .is_ok_and(|text| text.is_empty() || serde_json::from_slice::<Own>(&text).is_ok())
}

/// Like [`is_own_manifest`], for a list of failures.
fn is_own_list(path: &Path) -> bool {
    let first = |text: &[u8]| text.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
    let text = regular_file::read(path).ok();
    text.and_then(|text| first(&text))
        .is_some_and(|line| line.is_empty() || serde_json::from_slice::<Failure>(&line).is_ok())
}

/// `predictions.json`.
#[derive(Serialize)]
pub(super) struct Manifest<'a> {
    pub(super) ctseg_version: &'static str,
    /// The process that wrote this.
    #[serde(flatten)]
    pub(super) worker: &'a Worker,
    /// When the batch started, RFC 3339 in UTC.
    #[serde(rename = "begun")]
    pub(super) started_at: &'a str,
    /// The output folder.
    #[serde(with = "os_text::path")]
    pub(super) folder: &'a Path,
    /// The claims folder of the processes that share the cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claims: Option<ClaimsAt<'a>>,
    pub(super) models: &'a [ModelUsed],
    pub(super) model_sha256: &'a str,
    pub(super) devices: Vec<String>,
    pub(super) shard: Option<String>,
    /// Whether the run has ended; false while it is running, and after a kill.
    pub(super) ended: bool,
    /// Whether it was stopped by the caller before all cases were done.
    pub(super) interrupted: bool,
    /// Why it ended early, if not on request.
    pub(super) ended_early: Option<&'a str>,
    pub(super) seconds: f64,
    pub(super) counts: Counts,
    pub(super) cases: Vec<ManifestCase<'a>>,
}

/// What monitoring needs to read the claims folder.
#[derive(Serialize)]
pub(super) struct ClaimsAt<'a> {
    #[serde(with = "os_text::path")]
    folder: PathBuf,
    expiry_seconds: f64,
    #[serde(rename = "way")]
    settings: &'a str,
}

impl<'a> ClaimsAt<'a> {
    pub(super) fn of(claims: &'a Claims) -> Self {
        Self {
            folder: std::path::absolute(claims.folder())
                .unwrap_or_else(|_| claims.folder().to_path_buf()),
            expiry_seconds: claims.expiry().as_secs_f64(),
            settings: claims.settings(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ManifestCase<'a> {
    #[serde(with = "os_text::path")]
    pub(super) input: &'a Path,
    #[serde(with = "os_text::path")]
    pub(super) output: &'a Path,
    #[serde(flatten)]
    pub(super) state: &'a CaseState,
}

/// Number of cases by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Counts {
    pub(super) done: usize,
    pub(super) kept: usize,
    pub(super) failed: usize,
    pub(super) pending: usize,
}

impl Counts {
    pub(super) fn of<'a>(states: impl Iterator<Item = &'a CaseState>) -> Self {
        let mut counts = Self::default();
        for state in states {
            *match state {
                CaseState::Done { .. } => &mut counts.done,
                CaseState::Kept { .. } => &mut counts.kept,
                CaseState::Failed { .. } => &mut counts.failed,
                CaseState::Pending => &mut counts.pending,
            } += 1;
        }
        counts
    }
}

impl Manifest<'_> {
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            Error::file(path, format!("cannot write the batch as JSON: {error}"))
        })?;
        write_bytes_atomically(path, text.as_bytes())
    }
}
