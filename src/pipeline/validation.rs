//! How good a network is on the cases that were held out.

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::case_score::{CaseScore, Scored, case_score};
use super::guard::unless_stopped;
use super::sampling::{CaseSource, output_maps};
use super::segmenter::input_logits;
use crate::arrays::metrics::{Overlap, Summary};
use crate::error::Result;
use crate::tensors::device::Compute;
use crate::tensors::inference::Inference;
use crate::tensors::networks::Network;

/// What a network reaches on held-out cases, measured on the network's grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Mean over the output maps of `dice_per_map`; 0 if nothing is defined.
    pub dice: f64,
    /// Mean over cases for each output map; none where no case holds or predicts the structure.
    pub dice_per_map: Vec<Option<f64>>,
    /// Intersection over union, averaged as `dice`.
    pub iou: f64,
    /// As `dice_per_map`, and so are the others; empty in checkpoints of early versions.
    #[serde(default)]
    pub iou_per_map: Vec<Option<f64>>,
    /// Share of the predicted voxels that are right, mean over the output maps; none if nothing is defined.
    #[serde(default)]
    pub precision: Option<f64>,
    #[serde(default)]
    pub precision_per_map: Vec<Option<f64>>,
    /// Share of the reference's voxels that were found, likewise.
    #[serde(default)]
    pub recall: Option<f64>,
    #[serde(default)]
    pub recall_per_map: Vec<Option<f64>>,
    /// Mean over cases of the recipe's loss, each case as one batch; none where that is no number.
    pub loss: Option<f64>,
}

/// Segments every case of `cases` with `network` and compares.
pub fn validate(
    source: &CaseSource,
    network: Network,
    cases: &[usize],
    compute: &Compute,
    stop: &AtomicBool,
) -> Result<Validation> {
    let inference = Inference::new(vec![network], compute)?;
    let maps = output_maps(source.recipe, &source.structures);
    let loss = source.loss()?;
    let scored = Scored {
        recipe: source.recipe,
        loss: &loss,
        maps: &maps,
        ignore: source.dataset.ignore,
        device: &compute.device,
    };
    let mut scores = Vec::with_capacity(cases.len());
    let go_on = || {
        unless_stopped(stop, || {
            "validation was under way; the last checkpoint is whole".to_owned()
        })
    };
    for case in cases {
        go_on()?;
        let prepared = source.prepared(*case)?;
        let logits = input_logits(
            source.recipe,
            &inference,
            None,
            prepared.channels.view(),
            &|_| go_on(),
        )?;
        scores.push(case_score(&scored, logits.view(), prepared.labels.view())?);
    }
    Ok(summed_up(&scores, maps.len()))
}

fn summed_up(scores: &[CaseScore], maps: usize) -> Validation {
    let per_map = |score: fn(&Overlap) -> Option<f64>| -> Vec<Option<f64>> {
        let of = |map: usize| scores.iter().map(move |case| score(&case.overlaps[map]));
        (0..maps).map(|map| Summary::of(of(map)).mean).collect()
    };
    let mean = |values: &[Option<f64>]| Summary::of(values.iter().copied()).mean;
    let (dice_per_map, iou_per_map) = (per_map(Overlap::dice), per_map(Overlap::iou));
    let precision_per_map = per_map(Overlap::precision);
    let recall_per_map = per_map(Overlap::recall);
    Validation {
        dice: mean(&dice_per_map).unwrap_or(0.0),
        dice_per_map,
        iou: mean(&iou_per_map).unwrap_or(0.0),
        iou_per_map,
        precision: mean(&precision_per_map),
        precision_per_map,
        recall: mean(&recall_per_map),
        recall_per_map,
        loss: Summary::of(scores.iter().map(|score| Some(score.loss))).mean,
    }
}
