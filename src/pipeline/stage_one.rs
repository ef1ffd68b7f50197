//! Stage 1 at work: probabilities and region of interest of a volume, by the model that is fair to use.

use std::collections::HashMap;

use burn::tensor::Device;
use ndarray::{Array3, ArrayView4, Axis};

use super::bundle::Bundle;
use super::dataset::{Dataset, LabelSource};
use super::observer::Observer;
use super::roi::{Prior, Roi, carried_over, find_roi};
use super::sampling::StageOneResult;
use super::segmenter::{Segmenter, network_grid, network_input};
use crate::arrays::metrics::recall_inside;
use crate::error::Result;
use crate::values::{Orientation, Volume, VoxelBox};

/// Stage 1's probabilities and region for a volume. `fold` uses the network of one fold alone (its
/// position among the trained ones) instead of the mean of all.
pub fn run_stage_one(
    segmenter: &Segmenter,
    volume: &Volume,
    fold: Option<usize>,
) -> Result<(Roi, Prior)> {
    let recipe = &segmenter.recipe;
    let ras = volume.grid.reoriented(Orientation::RAS);
    let grid = network_grid(recipe, &volume.grid, &VoxelBox::whole(ras.shape));
    let input = network_input(recipe, volume, &grid, None)?;
    let logits = match fold {
        Some(fold) => segmenter.logits_of_fold(fold, input.view())?,
        None => segmenter.logits(input.view(), &|_| ())?,
    };
    let prior = Prior::new(grid, union_probabilities(logits.view()).view());
    Ok((find_roi(&prior, &ras, &recipe.roi)?, prior))
}

/// Probability that a voxel belongs to any structure: the largest over the maps.
///
/// # Shapes
/// - `logits`: (map, z, y, x)
/// - output: (z, y, x)
fn union_probabilities(logits: ArrayView4<f32>) -> Array3<f32> {
    let largest = logits.fold_axis(Axis(0), f32::NEG_INFINITY, |a, b| a.max(*b));
    largest.mapv_into(|logit| 1.0 / (1.0 + (-logit).exp()))
}

/// Stage 1's result for every training case, always by a network that did not train on it: the fold that
/// held it out, or all folds for a case that none of them knew.
///
/// `keep_prior` keeps the probabilities; without it only regions are of use.
pub fn out_of_fold_results(
    bundle: &Bundle,
    dataset: &Dataset,
    keep_prior: bool,
    device: &Device,
    observer: &dyn Observer,
) -> Result<HashMap<usize, StageOneResult>> {
    let segmenter = bundle.segmenter(1, device)?;
    let folds = bundle.stage(1).map_or(&[][..], |stage| &stage.folds);
    let cases = dataset.training_cases();
    let task = observer.task("stage 1 on training cases", cases.len() as u64, "cases");
    let (mut results, mut empty, mut known) = (HashMap::new(), Vec::new(), Vec::new());
    for case in cases {
        let id = &dataset.cases[case].id;
        let fold = folds.iter().position(|fold| fold.held_out.contains(id));
        if fold.is_none() && folds.iter().any(|fold| fold.trained_on.contains(id)) {
            known.push(id.as_str());
        }
        let image = dataset.load_image(&dataset.cases[case])?;
        let (roi, mut prior) = run_stage_one(&segmenter, &image.volume, fold)?;
        if roi.fallback.is_some() {
            empty.push(id.as_str());
        }
        if !keep_prior {
            prior = Prior::new(prior.grid, Array3::zeros((0, 0, 0)).view());
        }
        results.insert(
            case,
            StageOneResult {
                region: roi.region,
                prior,
            },
        );
        task.advance(1);
    }
    if !known.is_empty() {
        observer.warn(&format!(
            "every stage-1 network here was trained on {} of the cases, so their regions are better than in use; train all folds of stage 1: {}",
            known.len(),
            known.join(", ")
        ));
    }
    if !empty.is_empty() {
        observer.warn(&format!(
            "stage 1 gave no region for {} cases; they count as whole volumes: {}",
            empty.len(),
            empty.join(", ")
        ));
    }
    Ok(results)
}

/// How well regions of interest hold what they should.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiQuality {
    /// Mean over cases of the share of reference foreground inside the region.
    pub mean_recall: f64,
    pub lowest_recall: f64,
    /// Mean over cases of the region's share of the volume.
    pub mean_share: f64,
    pub cases: usize,
}

impl RoiQuality {
    /// Compares regions (RAS-ordered voxels) with the cases' labels.
    pub fn measured(results: &HashMap<usize, StageOneResult>, dataset: &Dataset) -> Result<Self> {
        let (mut recalls, mut shares) = (Vec::new(), Vec::new());
        for (case, result) in results {
            if dataset.cases[*case].labels == LabelSource::None {
                continue;
            }
            let labels = dataset.load_labels(&dataset.cases[*case])?;
            let ras = labels.grid.reoriented(Orientation::RAS);
            let region = carried_over(&result.region, &ras, &labels.grid)?;
            recalls.extend(recall_inside(&labels, &region));
            shares.push(region.voxels() as f64 / labels.grid.voxels() as f64);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Ok(Self {
            mean_recall: mean(&recalls),
            lowest_recall: recalls.iter().copied().fold(1.0, f64::min),
            mean_share: mean(&shares),
            cases: recalls.len(),
        })
    }
}
