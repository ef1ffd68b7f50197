//! Trends of Dice and losses over the epochs of a training.

use ctseg_base::mean::mean;
use ctseg_core::run::history::EpochLine;

/// The last fifth of the epochs, at least three.
pub(super) fn last_epochs<'a, 'b>(lines: &'a [&'b EpochLine]) -> &'a [&'b EpochLine] {
    let count = (lines.len() / 5).max(3).min(lines.len());
    &lines[lines.len() - count..]
}

/// Number of epochs in a third, at least four, so that a linear fit is meaningful.
fn third(lines: &[&EpochLine]) -> usize {
    lines.len().div_ceil(3).max(4).min(lines.len())
}

/// Gain in validation Dice over the last third, by a least-squares line.
pub(super) fn gain(lines: &[&EpochLine]) -> f64 {
    let last = lines[lines.len() - third(lines)..].iter();
    let last: Vec<f64> = last.filter_map(|line| line.validation_dice).collect();
    let middle = (last.len() as f64 - 1.0) / 2.0;
    let (mut products, mut squares) = (0.0, 0.0);
    for (index, dice) in last.iter().enumerate() {
        let x = index as f64 - middle;
        products += x * dice;
        squares += x * x;
    }
    if squares > 0.0 {
        products / squares * (last.len() - 1) as f64
    } else {
        0.0
    }
}

/// Whether the mean of the last third is above that of the epochs before it.
pub(super) fn last_third_is_better(lines: &[&EpochLine]) -> bool {
    let (before, last) = lines.split_at(lines.len() - third(lines));
    let before = &before[before.len().saturating_sub(last.len())..];
    let dice = |lines: &[&EpochLine]| mean(lines.iter().filter_map(|line| line.validation_dice));
    match (dice(before), dice(last)) {
        (Some(before), Some(last)) => last > before,
        _ => true,
    }
}

/// Mean of the validation loss at `index` and its neighbours, so that a single outlier is not taken for the minimum.
fn smooth_validation_loss(lines: &[&EpochLine], index: usize) -> Option<f64> {
    let around = &lines[index.saturating_sub(1)..(index + 2).min(lines.len())];
    mean(around.iter().filter_map(|line| line.validation_loss))
}

pub(super) fn lowest_validation_loss(lines: &[&EpochLine]) -> Option<usize> {
    (0..lines.len())
        .filter_map(|index| Some((index, smooth_validation_loss(lines, index)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(index, _)| index)
}

pub(super) fn validation_loss_rise(lines: &[&EpochLine]) -> Option<f64> {
    let lowest = smooth_validation_loss(lines, lowest_validation_loss(lines)?)?;
    let last = mean(
        last_epochs(lines)
            .iter()
            .filter_map(|line| line.validation_loss),
    )?;
    (lowest > 0.0).then(|| last / lowest - 1.0)
}

/// Whether the training loss jumps up repeatedly: by a tenth or more in a fifth of the epochs.
pub(super) fn jumps(lines: &[&EpochLine]) -> bool {
    let losses: Vec<f64> = lines.iter().filter_map(|line| line.loss).collect();
    let ups = losses
        .windows(2)
        .filter(|pair| pair[1] > 1.1 * pair[0])
        .count();
    losses.len() > 5 && 5 * ups >= losses.len()
}
