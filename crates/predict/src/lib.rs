//! Many volumes in, many label maps out: one bad case never costs another.
//!
//! Cases pass through three stages that overlap, see `stages`; which cases this process takes, `queue` says; what came
//! of each, `record` keeps.

#![forbid(unsafe_code)]

mod case;
mod case_state;
pub mod claims;
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
pub use job::{Leaving, OnAttention, PredictJob, PredictSummary};

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
use queue::Supply;
use record::Record;
use stages::Pipeline;
use statistics_csv::write_statistics;

/// Segments every case; weights are loaded once per device, volumes are read and label maps written while others
/// are segmented. Failed cases are listed in the summary and in `failures.jsonl`, all cases in `predictions.json`.
///
/// # Errors
/// Only what concerns all cases: no usable model or device, no usable output folder or claim folder, an output folder
/// among the labels of the volumes' dataset, too little space for the label maps.
pub fn predict(job: &PredictJob, observer: &dyn Observer) -> Result<PredictSummary> {
    let started = Instant::now();
    job.refuse_several_devices()?;
    refuse_label_folders(&job.cases)?;
    let mut cases = job.own_cases();
    // Found out before hours of work, not after.
    let folders = preflight::output_folders(&job.folder, &cases)?;
    preflight::clean(&folders, observer)?;
    job.refuse_shared_names(&mut cases);
    let mut models = Models::open(&job.models)?;
    job.refuse_parts(&models)?;
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
        let way = batch.way_sha256();
        let way = (way.as_str(), job.outputs.label_map);
        Claims::open(claiming, &job.folder, &cases, way)
    });
    let claims = claims.transpose()?;
    let halted = AtomicBool::new(false);
    let record = Record::new(&batch, claims.as_ref(), &halted, folders, started);
    let memory = memory_of_volumes(job.max_ram, predictors.len());
    let supply = match &claims {
        None => Supply::of_list(cases.len()),
        Some(claims) => Supply::of_claims(claims, cases.len()),
    };
    let pipeline = Pipeline {
        batch: &batch,
        supply: &supply,
        memory: &memory,
        halted: &halted,
    };
    let summary = pipeline.run(record).summary();
    if job.statistics
        && let Err(error) = write_statistics(&job.folder)
    {
        observer.warn(&error.to_string()); // the sidecars have it all
    }
    Ok(summary)
}

/// What each case of a model of these structures leaves on disk.
fn results_of(job: &PredictJob, structures: &[Structure]) -> preflight::Results {
    preflight::Results {
        wide: structures.iter().any(|structure| structure.value > 255),
        split: job.outputs.split,
        probabilities: job.probabilities.map(|kind| (kind, structures.len())),
        entropy: job.outputs.entropy,
    }
}
