//! Summary figures of a training, and the verdict derived from them.

use serde::{Deserialize, Serialize};

use super::curves::{
    gain, last_epochs, last_third_is_better, lowest_validation_loss, validation_loss_rise,
};
use ctseg_base::mean::mean;
use ctseg_base::text::words::counted;
use ctseg_core::run::checkpoint::StopReason;
use ctseg_core::run::history::EpochLine;

const MIN_EPOCHS: usize = 5;
/// A Dice that can be reached by chance.
pub(super) const CHANCE_DICE: f64 = 0.1;
const GAIN: f64 = 0.02;
const POOR_FIT: f64 = 0.5;
const MODEST_FIT: f64 = 0.7;
const GAP: f64 = 0.1;
const RISE: f64 = 0.15;
pub(super) const FALL: f64 = 0.3;

/// How a training went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    TooEarly,
    StillImproving,
    #[serde(rename = "fits_too_little", alias = "underfitting")]
    Underfitting,
    #[serde(rename = "fits_too_much", alias = "overfitting")]
    Overfitting,
    Healthy,
    Undefined,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooEarly => "too early to tell",
            Self::StillImproving => "still improving",
            Self::Underfitting => "underfitting",
            Self::Overfitting => "overfitting",
            Self::Healthy => "healthy",
            Self::Undefined => "undefined",
        })
    }
}

/// The input of the rules. Means are over the last fifth of the epochs (at least three).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub epochs: usize,
    /// None if it is undefined in all of them.
    pub validation_dice: Option<f64>,
    /// Of watched training cases; none if there are none.
    pub training_dice: Option<f64>,
    /// Gain in validation Dice over the last third of the epochs.
    pub gain: f64,
    /// Decrease of the training loss, as a share of its first value.
    pub loss_fall: Option<f64>,
    /// Increase of the validation loss above its lowest value, as a share of it.
    pub validation_loss_rise: Option<f64>,
}

impl Figures {
    pub(super) fn of(lines: &[&EpochLine]) -> Self {
        let last = last_epochs(lines);
        let watched: Vec<f64> = lines.iter().filter_map(|line| line.training_dice).collect();
        let losses: Vec<f64> = lines.iter().filter_map(|line| line.loss).collect();
        let first_loss = losses.first().copied().filter(|first| *first > 0.0);
        let last_loss = mean(last.iter().filter_map(|line| line.loss));
        Self {
            epochs: lines.len(),
            validation_dice: mean(last.iter().filter_map(|line| line.validation_dice)),
            training_dice: mean(watched.iter().rev().take(2).copied()),
            gain: gain(lines),
            loss_fall: first_loss
                .zip(last_loss)
                .map(|(first, last)| 1.0 - last / first),
            validation_loss_rise: validation_loss_rise(lines),
        }
    }

    pub(super) fn verdict(&self, lines: &[&EpochLine]) -> (Verdict, String) {
        let (training, gain) = (self.training_dice, self.gain);
        if self.epochs < MIN_EPOCHS {
            let because = format!("after {}", counted(self.epochs, "epoch"));
            return (Verdict::TooEarly, because);
        }
        let Some(held_out) = self.validation_dice else {
            let because = "no held-out case holds a structure".to_owned();
            return (Verdict::Undefined, because);
        };
        let stopped_early = lines
            .last()
            .is_some_and(|line| line.ended == Some(StopReason::EarlyStopping));
        if held_out > CHANCE_DICE && gain > GAIN && !stopped_early && last_third_is_better(lines) {
            let because =
                format!("validation Dice gained {gain:.3} over the last third of the epochs");
            return (Verdict::StillImproving, because);
        }
        let training_below = |limit: f64| training.is_some_and(|dice| dice < limit);
        let stuck = training.is_none()
            && held_out < POOR_FIT
            && self.loss_fall.is_none_or(|fall| fall < FALL);
        let scores = match training {
            Some(dice) => {
                format!("Dice {dice:.3} on training cases, {held_out:.3} on held-out cases")
            }
            None => format!("Dice {held_out:.3} on held-out cases"),
        };
        if training_below(POOR_FIT) || stuck {
            return (Verdict::Underfitting, scores);
        }
        let rises = self.rises(lines);
        let gap = training.map(|dice| dice - held_out);
        if gap.map_or(rises, |gap| gap > GAP || gap > GAP / 2.0 && rises) {
            let rise = match self.validation_loss_rise.filter(|_| rises) {
                Some(rise) => format!("; validation loss {:.0} % above its lowest", 100.0 * rise),
                None => String::new(),
            };
            return (Verdict::Overfitting, format!("{scores}{rise}"));
        }
        if training_below(MODEST_FIT) {
            return (Verdict::Underfitting, scores);
        }
        (Verdict::Healthy, scores)
    }

    /// Whether the validation loss rises while the training loss keeps falling.
    fn rises(&self, lines: &[&EpochLine]) -> bool {
        let Some(lowest) = lowest_validation_loss(lines) else {
            return false;
        };
        let then = lines[lowest].loss;
        let now = mean(last_epochs(lines).iter().filter_map(|line| line.loss));
        let keeps_falling = then.zip(now).is_some_and(|(then, now)| now < then);
        keeps_falling && self.validation_loss_rise.is_some_and(|rise| rise > RISE)
    }
}
