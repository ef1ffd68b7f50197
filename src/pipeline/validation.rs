//! How good a network is on the cases that were held out.

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::case_score::{Scored, case_score};
use super::guard::unless_stopped;
use super::sampling::{CaseSource, output_maps};
use super::segmenter::input_logits;
use crate::arrays::metrics::Summary;
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
    for case in cases {
        unless_stopped(stop, || {
            "validation was under way; the last checkpoint is whole".to_owned()
        })?;
        let prepared = source.prepared(*case)?;
        let logits = input_logits(
            source.recipe,
            &inference,
            None,
            prepared.channels.view(),
            &|_| Ok(()),
        )?;
        scores.push(case_score(&scored, logits.view(), prepared.labels.view())?);
    }
    let over_cases = |of: &dyn Fn(usize, usize) -> Option<f64>| -> Vec<Option<f64>> {
        (0..maps.len())
            .map(|map| Summary::of((0..scores.len()).map(|case| of(case, map))).mean)
            .collect()
    };
    let dice_per_map = over_cases(&|case, map| scores[case].dice[map]);
    let iou_per_map = over_cases(&|case, map| scores[case].iou[map]);
    Ok(Validation {
        dice: Summary::of(dice_per_map.iter().copied())
            .mean
            .unwrap_or(0.0),
        iou: Summary::of(iou_per_map).mean.unwrap_or(0.0),
        loss: Summary::of(scores.iter().map(|score| Some(score.loss))).mean,
        dice_per_map,
    })
}
