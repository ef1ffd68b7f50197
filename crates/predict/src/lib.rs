//! Batch prediction: a failed case never affects another.
//!
//! Cases run through a pipeline of three stages (`stages`), come from a queue (`queue`), and their outcomes are
//! recorded (`record`).

#![forbid(unsafe_code)]

mod case;
mod case_state;
pub mod claims;
mod existing;
mod job;
mod manifest;
mod preflight;
pub mod quantise;
mod queue;
mod record;
pub mod shard;
mod stages;
pub mod statistics_csv;

pub use case_state::CaseState;
pub use job::{ImmediateExit, OnAttention, PredictJob, PredictSummary};

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ctseg_base::Result;
use ctseg_base::limits::threads::resident_bytes;
use ctseg_base::progress::Observer;
use ctseg_core::dataset::Structure;
use ctseg_core::model::multi_part::Models;
use ctseg_core::outputs::label_folders::refuse_label_folders;

use case::{Batch, memory_of_volumes};
use claims::Claims;
use queue::CaseQueue;
use record::Record;
use stages::Pipeline;
use statistics_csv::write_statistics;

/// Segments every case. Weights are loaded once per device; volumes are read and label maps written while others are
/// segmented. Failed cases are listed in the summary and in `failures.jsonl`, all cases in `predictions.json`.
///
/// # Errors
/// Only errors that affect all cases: no usable model, device, output folder or claims folder; an output folder
/// inside the labels of the volumes' dataset; too little disk space.
pub fn predict(job: &PredictJob, observer: &dyn Observer) -> Result<PredictSummary> {
    let started = Instant::now();
    job.refuse_several_devices()?;
    refuse_label_folders(&job.cases)?;
    let mut cases = job.own_cases();
    // Checked before hours of work, not after.
    let folders = preflight::output_folders(&job.folder, &cases)?;
    preflight::clean(&folders, observer)?;
    job.refuse_shared_names(&mut cases);
    let mut models = Models::open(&job.models)?;
    job.refuse_multi_part(&models)?;
    let structures = models.structures()?;
    let names = structures.iter().map(|s| s.name.as_str());
    job.thresholds.refuse_unknown(names)?;
    let known = structures.iter().map(|s| (s.name.clone(), s.value));
    let chosen = job.outputs.chosen(known.collect())?;
    preflight::check(&job.folder, &cases, &results_of(job, &structures))?;
    models.choose(job.outputs.structures.as_ref().map(|_| &chosen))?;
    let ct_window = job.ct_window(&models)?;
    let (predictors, too_large) = job.predictors(&models, &cases)?;
    let batch = Batch {
        job,
        cases: &cases,
        predictors: &predictors,
        too_large,
        resident: resident_bytes(),
        structures: chosen,
        model_sha256: models.sha256(),
        models: models.used(),
        ct_window,
        observer,
    };
    let claims = job.claiming.as_ref().map(|claiming| {
        let settings = batch.settings_sha256();
        let settings = (settings.as_str(), job.outputs.label_map);
        Claims::open(claiming, &job.folder, &cases, settings)
    });
    let claims = claims.transpose()?;
    let halted = AtomicBool::new(false);
    let record = Record::new(&batch, claims.as_ref(), &halted, folders, started);
    let memory = memory_of_volumes(job.max_ram, predictors.len());
    let queue = match &claims {
        None => CaseQueue::of_list(cases.len()),
        Some(claims) => CaseQueue::of_claims(claims, cases.len()),
    };
    let pipeline = Pipeline {
        batch: &batch,
        queue: &queue,
        memory: &memory,
        halted: &halted,
    };
    let summary = pipeline.run(record).summary();
    if job.statistics
        && let Err(error) = write_statistics(&job.folder)
    {
        observer.warn(&error.to_string()); // the sidecars have all statistics
    }
    Ok(summary)
}

/// The files that each case writes, for a model with these structures.
fn results_of(job: &PredictJob, structures: &[Structure]) -> preflight::Results {
    preflight::Results {
        wide: structures.iter().any(|structure| structure.value > 255),
        split: job.outputs.split,
        probabilities: job.probabilities.map(|kind| (kind, structures.len())),
        entropy: job.outputs.entropy,
    }
}
