//! Stage 1 at work: probabilities and region of interest of a volume, by the model that is fair to use.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use ndarray::{Array3, ArrayView4, Axis, Zip};

use super::coarse_result::StageOneResult;
use super::roi::{Prior, Roi, carried_over, find_roi};
use super::stage::{Segmenter, network_grid, network_input};
use crate::dataset::content::image_sha256;
use crate::dataset::{Dataset, LabelSource};
use crate::model::bundle::Bundle;
use crate::model::known_cases::KnownCases;
use ctseg_base::Result;
use ctseg_base::cancel::unless_stopped;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::listed;
use ctseg_engine::device::Compute;
use ctseg_engine::losses::Outputs;
use ctseg_image::metrics::overlap::recall_inside;
use ctseg_image::space::{Orientation, Volume, VoxelBox};

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
        None => segmenter.logits(input.view(), &|_| Ok(()))?,
    };
    let prior = Prior::new(
        grid,
        union_probabilities(recipe.outputs, logits.view()).view(),
    );
    Ok((find_roi(&prior, &ras, &recipe.roi)?, prior))
}

/// Probability that a voxel belongs to any structure: the largest over the maps of independent structures;
/// of exclusive classes what is left beside the background, whose logit is 0.
///
/// # Shapes
/// - `logits`: (map, z, y, x)
/// - output: (z, y, x)
fn union_probabilities(outputs: Outputs, logits: ArrayView4<f32>) -> Array3<f32> {
    let mut union = logits.fold_axis(Axis(0), f32::NEG_INFINITY, |a, b| a.max(*b));
    if outputs == Outputs::Exclusive {
        // The logarithm of the sum of e^logit, the largest taken out so that nothing overflows.
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

/// Stage 1's result for each of `cases`, always by a network that did not train on it.
///
/// Cases are known by name and by image. `keep_prior` keeps the probabilities; without it only regions are of use.
///
/// # Errors
/// A case that all networks know; unreadable volumes; [`Error::Interrupted`] when stopped.
pub fn out_of_fold_results(
    bundle: &Bundle,
    dataset: &Dataset,
    cases: &[usize],
    keep_prior: bool,
    compute: &Compute,
    stop: &AtomicBool,
    observer: &dyn Observer,
) -> Result<BTreeMap<usize, StageOneResult>> {
    let segmenter = bundle.segmenter(1, compute)?;
    let known = KnownCases::new(bundle.needed_stage(1)?);
    if known.by_name_alone() {
        observer.say("stage 1 was trained by an earlier version: it knows its cases by name alone");
    }
    let mut renamed = Vec::new();
    let task = observer.task("stage 1 on training cases", cases.len() as u64, "cases");
    let mut results = BTreeMap::new();
    for index in cases {
        unless_stopped(stop, || {
            "stage 1 was looking at the training cases".to_owned()
        })?;
        let case = &dataset.cases[*index];
        let image = dataset.load_image(case)?;
        let sha256 = image_sha256(&image.volume);
        let fold = known.fair_fold(&case.id, &sha256)?;
        let names = known.names_of(&sha256);
        if let Some(name) = names.first().filter(|_| !names.contains(&case.id.as_str())) {
            renamed.push(format!("{} (as {name})", case.id));
        }
        let (roi, mut prior) = run_stage_one(&segmenter, &image.volume, fold)?;
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
        observer.say(&format!(
            "stage 1 knows cases under other names, by their images: {}",
            listed(&renamed)
        ));
    }
    Ok(results)
}

/// How well regions of interest hold what they should.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiQuality {
    /// Mean over cases of the share of reference foreground inside the region; none where no case has any.
    pub mean_recall: Option<f64>,
    pub lowest_recall: Option<f64>,
    /// Mean over cases of the region's share of the volume; none where there are no cases.
    pub mean_share: Option<f64>,
    /// Those that hold a structure.
    pub cases: usize,
}

impl RoiQuality {
    /// Compares regions (RAS-ordered voxels) with the cases' labels.
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
            unless_stopped(stop, || "stage 1's regions were being compared".to_owned())?;
            if dataset.cases[*case].labels == LabelSource::None {
                continue;
            }
            let labels = dataset.known_labels(dataset.load_labels(&dataset.cases[*case])?);
            let ras = labels.grid.reoriented(Orientation::RAS);
            let region = carried_over(&result.region, &ras, &labels.grid)?;
            recalls.extend(recall_inside(&labels, &region));
            shares.push(region.voxels() as f64 / labels.grid.voxels() as f64);
        }
        let mean = |values: &[f64]| {
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        Ok(Self {
            mean_recall: mean(&recalls),
            lowest_recall: recalls.iter().copied().reduce(f64::min),
            mean_share: mean(&shares),
            cases: recalls.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array4;

    #[test]
    fn the_union_of_exclusive_classes_is_what_is_not_background() {
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
