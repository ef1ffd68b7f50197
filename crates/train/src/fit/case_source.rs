//! The training cases, with stage 1's results for stage 2.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::job::{FitJob, StageOneOutcome};
use crate::data::case_source::CaseSource;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::inference::coarse_stage::out_of_fold_results;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::recipe::Region;

/// The preprocessed cases, the same on all ranks.
pub(super) struct AgreedSource<'a> {
    pub cases: CaseSource<'a>,
    /// The checksum of the stage 1 that found the cases' regions.
    pub stage1_sha256: Option<String>,
}

/// [`source`], checked to be the same on all ranks. `preceding` is the result of this rank's work before it.
pub(super) fn agreed_source<'a>(
    job: &'a FitJob,
    preceding: Result<()>,
    observer: &'a dyn Observer,
) -> Result<AgreedSource<'a>> {
    let source = job
        .group
        .all_ok(preceding.and_then(|()| source(job, observer)))?;
    let stage1_sha256 = &source.stage1_sha256;
    let regions: BTreeMap<_, _> = source
        .cases
        .stage_one
        .iter()
        .map(|(i, of)| (i, &of.region))
        .collect();
    job.group
        .check_same_settings(&format!("{stage1_sha256:?} {regions:?}"))?;
    Ok(source)
}

fn source<'a>(job: &'a FitJob, observer: &'a dyn Observer) -> Result<AgreedSource<'a>> {
    let stage_one = stage_one_results(job, observer)?;
    let values = job.dataset.structures.iter().map(|s| s.value).collect();
    let cache = job.preprocessed_cache.map(|cache| cache.session(observer));
    let source = CaseSource::new(&job.dataset, &job.recipe, values, stage_one.results);
    Ok(AgreedSource {
        cases: source.with_stop(job.stop).with_disk_cache(cache),
        stage1_sha256: stage_one.sha256,
    })
}

/// Stage 1's results for every training case of a stage 2, and the checksum of that stage 1.
fn stage_one_results(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
    if job.recipe.region == Region::Whole {
        return Ok(StageOneOutcome::default());
    }
    let Some(trial) = &job.trial else {
        return run_stage_one(job, observer);
    };
    // A panic elsewhere cannot leave the map inconsistent: each update is a single insert.
    let cache = || {
        trial
            .stage_one
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    if let Some(cached) = cache().get(&job.recipe.prior) {
        return Ok(cached.clone());
    }
    let outcome = run_stage_one(job, observer)?;
    cache().insert(job.recipe.prior, outcome.clone());
    Ok(outcome)
}

fn run_stage_one(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
    let bundle = Bundle::open(&job.model)?;
    let sha256 = bundle.stage_sha256(1).map(str::to_owned);
    let cases = job.dataset.training_cases();
    let results = out_of_fold_results(
        &bundle,
        &job.dataset,
        &cases,
        job.recipe.prior,
        &job.compute,
        job.stop,
        observer,
    )?;
    Ok(StageOneOutcome { results, sha256 })
}
