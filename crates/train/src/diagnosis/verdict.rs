//! The figures of a training, and what they say.

use serde::{Deserialize, Serialize};

use super::curves::{
    gain, last_epochs, last_third_is_better, lowest_validation_loss, mean, validation_loss_rise,
};
use ctseg_base::text::words::counted;
use ctseg_core::run::checkpoint::Ended;
use ctseg_core::run::history::EpochLine;

const FEWEST_EPOCHS: usize = 5;
/// A Dice that chance may reach.
pub(super) const NOTHING: f64 = 0.1;
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
    FitsTooLittle,
    FitsTooMuch,
    Healthy,
    Undefined,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TooEarly => "too early to tell",
            Self::StillImproving => "still improving",
            Self::FitsTooLittle => "fits too little",
            Self::FitsTooMuch => "fits too much",
            Self::Healthy => "healthy",
            Self::Undefined => "undefined",
        })
    }
}

/// What the rules look at. Means are over the last fifth of the epochs (three or more).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub epochs: usize,
    /// None where it is undefined in all of them.
    pub validation_dice: Option<f64>,
    /// Of watched training cases; none where there were none.
    pub training_dice: Option<f64>,
    /// Of validation Dice over the last third of the epochs.
    pub gain: f64,
    /// By which share of its first value the training loss fell.
    pub loss_fall: Option<f64>,
    /// By which share of its lowest value the validation loss stands above it.
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
        let (seen, gain) = (self.training_dice, self.gain);
        if self.epochs < FEWEST_EPOCHS {
            let because = format!("after {}", counted(self.epochs, "epoch"));
            return (Verdict::TooEarly, because);
        }
        let Some(held_out) = self.validation_dice else {
            let because = "no held-out case holds a structure".to_owned();
            return (Verdict::Undefined, because);
        };
        let stopped_early = lines
            .last()
            .is_some_and(|line| line.ended == Some(Ended::NothingGained));
        if held_out > NOTHING && gain > GAIN && !stopped_early && last_third_is_better(lines) {
            let because =
                format!("validation Dice gained {gain:.3} over the last third of the epochs");
            return (Verdict::StillImproving, because);
        }
        let little = |below: f64| seen.is_some_and(|seen| seen < below);
        let stuck =
            seen.is_none() && held_out < POOR_FIT && self.loss_fall.is_none_or(|fall| fall < FALL);
        let both = match seen {
            Some(seen) => {
                format!("Dice {seen:.3} on training cases, {held_out:.3} on held-out ones")
            }
            None => format!("Dice {held_out:.3} on held-out cases"),
        };
        if little(POOR_FIT) || stuck {
            return (Verdict::FitsTooLittle, both);
        }
        let rises = self.rises(lines);
        let gap = seen.map(|seen| seen - held_out);
        if gap.map_or(rises, |gap| gap > GAP || gap > GAP / 2.0 && rises) {
            let rise = match self.validation_loss_rise.filter(|_| rises) {
                Some(rise) => format!("; validation loss {:.0} % above its lowest", 100.0 * rise),
                None => String::new(),
            };
            return (Verdict::FitsTooMuch, format!("{both}{rise}"));
        }
        if little(MODEST_FIT) {
            return (Verdict::FitsTooLittle, both);
        }
        (Verdict::Healthy, both)
    }

    /// Whether the validation loss rises while the training loss falls on.
    fn rises(&self, lines: &[&EpochLine]) -> bool {
        let Some(lowest) = lowest_validation_loss(lines) else {
            return false;
        };
        let then = lines[lowest].loss;
        let now = mean(last_epochs(lines).iter().filter_map(|line| line.loss));
        let falls_on = then.zip(now).is_some_and(|(then, now)| now < then);
        falls_on && self.validation_loss_rise.is_some_and(|rise| rise > RISE)
    }
}
