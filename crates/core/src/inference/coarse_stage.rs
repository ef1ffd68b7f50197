//! Stage-1 inference: probabilities and region of interest, out of fold for training cases.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use ndarray::{Array3, ArrayView4, Axis, Zip};

use super::coarse_result::StageOneResult;
use super::roi::{Prior, Roi, find_roi, map_box};
use super::stage::{Stage, network_grid, network_input};
use crate::dataset::content::image_sha256;
use crate::dataset::{Dataset, LabelSource};
use crate::model::bundle::Bundle;
use crate::model::known_cases::KnownCases;
use ctseg_base::Result;
use ctseg_base::cancel::check_stop;
use ctseg_base::mean::mean;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::listed;
use ctseg_engine::device::Compute;
use ctseg_engine::losses::Outputs;
use ctseg_image::metrics::overlap::recall_inside;
use ctseg_image::space::{Orientation, Volume, VoxelBox};

/// Stage 1's region and probabilities for a volume. `fold` selects the network of one fold (its position among the
/// trained ones) instead of the mean of all.
pub fn run_stage_one(stage: &Stage, volume: &Volume, fold: Option<usize>) -> Result<(Roi, Prior)> {
    let recipe = &stage.recipe;
    let ras = volume.grid.reoriented(Orientation::RAS);
    let grid = network_grid(recipe, &volume.grid, &VoxelBox::whole(ras.shape));
    let input = network_input(recipe, volume, &grid, None)?;
    let logits = match fold {
        Some(fold) => stage.logits_of_fold(fold, input.view())?,
        None => stage.logits(input.view(), &|_| Ok(()))?,
    };
    let prior = Prior::new(
        grid,
        union_probabilities(recipe.outputs, logits.view()).view(),
    );
    Ok((find_roi(&prior, &ras, &recipe.roi)?, prior))
}

/// Probability that a voxel belongs to any structure: the maximum over the maps of independent structures; for
/// exclusive classes 1 minus the background's, whose logit is 0.
///
/// # Shapes
/// - `logits`: (map, z, y, x)
/// - output: (z, y, x)
fn union_probabilities(outputs: Outputs, logits: ArrayView4<f32>) -> Array3<f32> {
    let mut union = logits.fold_axis(Axis(0), f32::NEG_INFINITY, |a, b| a.max(*b));
    if outputs == Outputs::Exclusive {
        // log-sum-exp
        let mut sum = Array3::<f32>::zeros(union.raw_dim());
        for map in logits.outer_iter() {
            Zip::from(&mut sum)
                .and(&map)
                .and(&union)
                .for_each(|sum, logit, largest| *sum += (logit - largest).exp());
        }
        union.zip_mut_with(&sum, |largest, sum| *largest += sum.ln());
    }
    union.mapv_into(|logit| 1.0 / (1.0 + (-logit).exp()))
}

/// Stage 1's out-of-fold result for each of `cases`: from a network that was not trained on the case.
///
/// Cases are identified by name and by image. `keep_prior` keeps the probabilities; otherwise only regions are valid.
///
/// # Errors
/// A case that every network was trained on; unreadable volumes; [`Error::Interrupted`] when stopped.
pub fn out_of_fold_results(
    bundle: &Bundle,
    dataset: &Dataset,
    cases: &[usize],
    keep_prior: bool,
    compute: &Compute,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<BTreeMap<usize, StageOneResult>> {
    let stage = bundle.load_stage(1, compute)?;
    let known = KnownCases::new(bundle.require_stage(1)?);
    if known.by_name_alone() {
        observer.info("stage 1 was trained by an earlier version: its training cases are identified by name only");
    }
    let mut renamed = Vec::new();
    let task = observer.task("stage 1 on training cases", cases.len() as u64, "cases");
    let mut results = BTreeMap::new();
    for index in cases {
        check_stop(stop, || {
            "stage 1 was running on the training cases".to_owned()
        })?;
        let case = &dataset.cases[*index];
        let image = dataset.load_image(case)?;
        let sha256 = image_sha256(&image.volume);
        let fold = known.out_of_fold_network(&case.id, &sha256)?;
        let names = known.names_of(&sha256);
        if let Some(name) = names.first().filter(|_| !names.contains(&case.id.as_str())) {
            renamed.push(format!("{} (as {name})", case.id));
        }
        let (roi, mut prior) = run_stage_one(&stage, &image.volume, fold)?;
        if let Some(reason) = roi.fallback {
            observer.warn(&format!("{}: {reason}", case.id));
        }
        if !keep_prior {
            prior = Prior::new(prior.grid, Array3::zeros((0, 0, 0)).view());
        }
        results.insert(
            *index,
            StageOneResult {
                region: roi.region,
                prior,
            },
        );
        task.advance(1);
    }
    if !renamed.is_empty() {
        observer.info(&format!(
            "cases that stage 1 was trained on under other names (same image): {}",
            listed(&renamed)
        ));
    }
    Ok(results)
}

/// How well regions of interest cover the structures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiQuality {
    /// Mean over cases of the share of reference foreground inside the region; `None` if no case has foreground.
    pub mean_recall: Option<f64>,
    pub lowest_recall: Option<f64>,
    /// Mean over cases of the region's share of the volume; `None` without cases.
    pub mean_share: Option<f64>,
    /// Cases that contain a structure.
    pub cases: usize,
}

impl RoiQuality {
    /// Compares regions (in RAS-ordered voxels) with the cases' reference labels.
    ///
    /// # Errors
    /// Label maps that cannot be read; [`Error::Interrupted`] when stopped.
    pub fn measured(
        results: &BTreeMap<usize, StageOneResult>,
        dataset: &Dataset,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let (mut recalls, mut shares) = (Vec::new(), Vec::new());
        for (case, result) in results {
            check_stop(stop, || "stage 1's regions were being evaluated".to_owned())?;
            if dataset.cases[*case].labels == LabelSource::None {
                continue;
            }
            let labels = dataset.without_ignored(dataset.load_labels(&dataset.cases[*case])?);
            let ras = labels.grid.reoriented(Orientation::RAS);
            let region = map_box(&result.region, &ras, &labels.grid)?;
            recalls.extend(recall_inside(&labels, &region));
            shares.push(region.voxels() as f64 / labels.grid.voxels() as f64);
        }
        Ok(Self {
            mean_recall: mean(recalls.iter().copied()),
            lowest_recall: recalls.iter().copied().reduce(f64::min),
            mean_share: mean(shares),
            cases: recalls.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn the_union_of_exclusive_classes_is_one_minus_the_background() {
        let logits = Array4::from_shape_vec((2, 1, 1, 3), vec![0.0, 2.0, 90.0, 0.0, -1.0, 91.0]);
        let logits = logits.unwrap();
        let union = |outputs| union_probabilities(outputs, logits.view());
        // 1 − 1 / (1 + e^a + e^b)
        let softmax = [2.0 / 3.0, 0.885_804_8, 1.0];
        let sigmoid = [0.5, 0.880_797, 1.0];
        for (outputs, expected) in [
            (Outputs::Exclusive, softmax),
            (Outputs::Independent, sigmoid),
        ] {
            for (found, expected) in union(outputs).iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{outputs:?}: {found} {expected}"
                );
            }
        }
    }
}
