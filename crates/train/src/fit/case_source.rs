//! What the networks are trained on: the cases, and for stage 2 what stage 1 says of them.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::job::FitJob;
use super::job::StageOneOutcome;
use crate::data::case_source::CaseSource;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::inference::coarse_stage::out_of_fold_results;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::recipe::Region;

/// [`source`], which all processes of a team must see alike; `begun` is what went wrong in this one before.
pub(super) fn source_together<'a>(
    job: &'a FitJob,
    begun: Result<()>,
    observer: &'a dyn Observer,
) -> Result<(CaseSource<'a>, Option<String>)> {
    let (source, stage1_sha256) = job
        .team
        .together(begun.and_then(|()| source(job, observer)))?;
    let regions: BTreeMap<_, _> = source
        .stage_one
        .iter()
        .map(|(i, of)| (i, &of.region))
        .collect();
    job.team
        .agree_on(&format!("{stage1_sha256:?} {regions:?}"))?;
    Ok((source, stage1_sha256))
}

/// The cases as networks see them, and which stage 1 told of their regions.
fn source<'a>(
    job: &'a FitJob,
    observer: &'a dyn Observer,
) -> Result<(CaseSource<'a>, Option<String>)> {
    let (stage_one, stage1_sha256) = stage_one_results(job, observer)?;
    let values = job.dataset.structures.iter().map(|s| s.value).collect();
    let store = job.case_store.map(|store| store.used_by(observer));
    let source = CaseSource::new(&job.dataset, &job.recipe, values, stage_one);
    Ok((source.stopped_by(job.stop).kept_in(store), stage1_sha256))
}

/// What stage 2 needs from stage 1 for every training case, and which stage 1 that was.
fn stage_one_results(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
    if job.recipe.region == Region::Whole {
        return Ok((BTreeMap::new(), None));
    }
    let Some(trial) = &job.trial else {
        return stage_one_looks(job, observer);
    };
    // A panic elsewhere cannot leave an outcome half-made: it is inserted whole.
    let memory = || {
        trial
            .stage_one
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    };
    if let Some(known) = memory().get(&job.recipe.prior) {
        return Ok(known.clone());
    }
    let outcome = stage_one_looks(job, observer)?;
    memory().insert(job.recipe.prior, outcome.clone());
    Ok(outcome)
}

fn stage_one_looks(job: &FitJob, observer: &dyn Observer) -> Result<StageOneOutcome> {
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
    Ok((results, sha256))
}
