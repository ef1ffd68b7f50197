//! How good a network is on the cases that were held out.

use std::sync::atomic::AtomicBool;

use ndarray::Axis;

use super::guard::unless_stopped;
use super::sampling::{CaseSource, output_maps};
use super::segmenter::slice_logits;
use crate::error::Result;
use crate::tensors::device::Compute;
use crate::tensors::inference::Inference;
use crate::tensors::networks::Network;

/// Dice on held-out cases, measured on the network's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidationDice {
    /// Mean over the output maps of `per_map`; 0 if nothing is defined.
    pub mean: f64,
    /// Mean over cases for each output map; none where no case holds or predicts the structure.
    pub per_map: Vec<Option<f64>>,
}

/// Segments every case of `cases` with `network` and compares.
pub fn validation_dice(
    source: &CaseSource,
    network: Network,
    cases: &[usize],
    compute: &Compute,
    stop: &AtomicBool,
) -> Result<ValidationDice> {
    let inference = Inference::new(vec![network], compute)?;
    let maps = output_maps(source.recipe, &source.structures);
    let mut sums = vec![(0.0, 0usize); maps.len()];
    for case in cases {
        unless_stopped(stop, || {
            "validation was under way; the last checkpoint is whole".to_owned()
        })?;
        let prepared = source.prepared(*case)?;
        let logits = slice_logits(
            source.recipe,
            &inference,
            None,
            prepared.channels.view(),
            &|_| (),
        )?;
        for ((map, values), sum) in logits.axis_iter(Axis(0)).zip(&maps).zip(&mut sums) {
            let (mut both, mut either) = (0u64, 0u64);
            ndarray::Zip::from(map)
                .and(&prepared.labels)
                .for_each(|logit, label| {
                    let (predicted, there) = (*logit > 0.0, values.contains(label));
                    both += u64::from(predicted && there);
                    either += u64::from(predicted) + u64::from(there);
                });
            if either > 0 {
                sum.0 += 2.0 * both as f64 / either as f64;
                sum.1 += 1;
            }
        }
    }
    let per_map: Vec<Option<f64>> = sums
        .into_iter()
        .map(|(sum, count)| (count > 0).then(|| sum / count as f64))
        .collect();
    let defined: Vec<f64> = per_map.iter().flatten().copied().collect();
    let mean = defined.iter().sum::<f64>() / defined.len().max(1) as f64;
    Ok(ValidationDice { mean, per_map })
}
