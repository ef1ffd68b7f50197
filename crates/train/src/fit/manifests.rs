//! Manifests of trained networks, and the fingerprint of held-out cases.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::job::FitJob;
use ctseg_core::dataset::Split;
use ctseg_core::dataset::content::DatasetContent;
use ctseg_core::model::manifest::{FoldManifest, StageManifest};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::checkpoint::Progress;
use ctseg_core::run::data::RunData;

pub(super) fn stage_manifest(
    job: &FitJob,
    content: &DatasetContent,
    stage1_sha256: Option<String>,
) -> StageManifest {
    StageManifest {
        dataset: job.dataset.name.clone(),
        data_fingerprint: content.sha256(),
        seed: job.seed,
        engine: job.compute.to_string(),
        stage1_sha256,
        channel: (!job.dataset.is_ct())
            .then(|| job.dataset.channel.clone())
            .flatten(),
        folds: Vec::new(),
        image_sha256: content.images(),
        recipe: job.recipe.clone(),
    }
}

pub(super) fn fold_manifest(
    job: &FitJob,
    fold: usize,
    split: &Split,
    progress: &Progress,
) -> FoldManifest {
    let ids = |cases: &[usize]| {
        let ids = cases.iter().map(|case| job.dataset.cases[*case].id.clone());
        ids.collect()
    };
    let kept = progress.kept(job.recipe.training.keep);
    let (epoch, validation_dice) = kept.unwrap_or((0, None));
    FoldManifest {
        input_ranges: None,
        fold,
        epoch,
        validation_dice,
        held_out: ids(&split.validation),
        trained_on: ids(&split.train),
    }
}

/// The held-out cases of the trained folds.
pub(super) struct HeldOut {
    /// SHA-256 of the data fingerprint and of the cases of each fold.
    pub sha256: String,
    pub cases: usize,
}

pub(super) fn held_out(recipe: &Recipe, data: &RunData) -> HeldOut {
    let mut hasher = Sha256::new();
    hasher.update(data.content.sha256());
    let mut cases = BTreeSet::new();
    for fold in recipe.trained_folds() {
        let split = data.splits.folds.get(fold);
        for case in split.iter().flat_map(|split| &split.validation) {
            hasher.update(format!("{fold}\0{case}\0"));
            cases.insert(case);
        }
    }
    HeldOut {
        sha256: format!("{:x}", hasher.finalize()),
        cases: cases.len(),
    }
}
