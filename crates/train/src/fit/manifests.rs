//! What a fit writes into a model about its networks, and how it tells data apart.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::job::FitJob;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Dataset, LabelSource};
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::run::checkpoint::Progress;

pub(super) fn stage_manifest(
    job: &FitJob,
    data_fingerprint: String,
    stage1_sha256: Option<String>,
) -> StageManifest {
    StageManifest {
        dataset: job.dataset.name.clone(),
        data_fingerprint,
        seed: job.seed,
        engine: job.compute.to_string(),
        stage1_sha256,
        folds: Vec::new(),
        recipe: job.recipe.clone(),
    }
}

pub(super) fn fold_manifest(
    job: &FitJob,
    fold: usize,
    progress: &Progress,
) -> Result<FoldManifest> {
    let split = job.dataset.split(job.recipe.folds, fold, job.seed)?;
    let ids = |cases: &[usize]| {
        let ids = cases.iter().map(|case| job.dataset.cases[*case].id.clone());
        ids.collect()
    };
    let kept = progress.kept(job.recipe.training.keep);
    let (epoch, validation_dice) = kept.unwrap_or((0, 0.0));
    Ok(FoldManifest {
        input_ranges: None,
        fold,
        epoch,
        validation_dice,
        held_out: ids(&split.validation),
        trained_on: ids(&split.train),
    })
}

/// SHA-256 that follows from the data (its fingerprint) and from which cases are held out in which of the trained
/// folds, and how many cases these are.
pub(super) fn held_out_fingerprint(job: &FitJob, data: &str) -> Result<(String, usize)> {
    let mut hasher = Sha256::new();
    hasher.update(data);
    let mut cases = BTreeSet::new();
    for fold in job.recipe.trained_folds() {
        for case in job
            .dataset
            .split(job.recipe.folds, fold, job.seed)?
            .validation
        {
            hasher.update(format!("{fold}\0{}\0", job.dataset.cases[case].id));
            cases.insert(case);
        }
    }
    Ok((format!("{:x}", hasher.finalize()), cases.len()))
}

/// SHA-256 over the names of the training cases and the sizes of their files: cheap on any dataset, and
/// enough to see that a case was added, removed or replaced.
pub(super) fn data_fingerprint(dataset: &Dataset) -> Result<String> {
    let mut hasher = Sha256::new();
    let size = |path: &Path| {
        Ok::<u64, Error>(
            std::fs::metadata(path)
                .map_err(Error::io(path, "read"))?
                .len(),
        )
    };
    for case in dataset.training_cases() {
        let case = &dataset.cases[case];
        hasher.update(format!("{}\0{}\0", case.id, size(&case.image)?));
        match &case.labels {
            LabelSource::None => {}
            LabelSource::Map(path) => hasher.update(format!("{}\0", size(path)?)),
            LabelSource::PerStructure(files) => {
                for (value, path) in files {
                    hasher.update(format!("{value}\0{}\0", size(path)?));
                }
            }
        }
    }
    Ok(format!("{:x}", hasher.finalize()))
}
