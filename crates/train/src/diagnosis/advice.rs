//! Suggestions for the next training, without settings that are already used.

use super::curves::jumps;
use super::verdict::{CHANCE_DICE, FALL, Figures, Verdict};
use ctseg_core::recipe::{Recipe, TrainingConfig};
use ctseg_core::run::checkpoint::StopReason;
use ctseg_core::run::history::EpochLine;

/// If the training loss fell by less than this share of its first value, nothing was learned.
const MIN_FALL: f64 = 0.02;

/// From this dropout on, more is not suggested.
const HIGH_DROPOUT: f64 = 0.2;

/// Suggested changes of recipe or data, most promising first.
pub(super) fn advice(
    verdict: Verdict,
    figures: &Figures,
    lines: &[&EpochLine],
    recipe: &Recipe,
) -> Vec<String> {
    let training = &recipe.training;
    match verdict {
        Verdict::Healthy => Vec::new(),
        Verdict::Undefined => vec!["another --seed, or fewer folds".to_owned()],
        Verdict::TooEarly => vec![longer(lines, training, None)],
        Verdict::StillImproving => {
            let epochs = training.epochs + training.epochs.div_ceil(2);
            vec![longer(lines, training, Some(epochs))]
        }
        Verdict::Underfitting => against_underfitting(training, figures, lines),
        Verdict::Overfitting => against_overfitting(recipe),
    }
}

/// More epochs, or the remaining ones of the recipe.
fn longer(lines: &[&EpochLine], training: &TrainingConfig, epochs: Option<usize>) -> String {
    let done = lines.len();
    let progress = format!("{done} of training.epochs = {} are done", training.epochs);
    match lines.last().and_then(|line| line.ended) {
        Some(StopReason::TimeLimit) => {
            format!("resume with 'ctseg fit --resume': the time limit was reached when {progress}")
        }
        None if (1..training.epochs).contains(&done) => format!("wait: {progress}"),
        _ => match epochs {
            Some(epochs) => format!("train longer: training.epochs = {epochs}"),
            None => "train longer: raise training.epochs".to_owned(),
        },
    }
}

/// The learning-rate change that the losses suggest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    Lower,
    Higher,
    /// Nothing is learned at a usual rate: too high and too low look the same.
    Either,
    /// The rate works.
    Fine,
}

impl Rate {
    fn of(figures: &Figures, lines: &[&EpochLine], training: &TrainingConfig) -> Self {
        let optimiser = &training.optimiser;
        let share = optimiser.learning_rate / optimiser.kind.usual_rate();
        let fall = figures.loss_fall.unwrap_or(0.0);
        if jumps(lines) || fall < -MIN_FALL || share > 10.0 {
            return Self::Lower;
        }
        if fall >= FALL
            && figures
                .validation_dice
                .is_some_and(|dice| dice >= CHANCE_DICE)
        {
            return Self::Fine;
        }
        match share {
            share if share > 3.0 => Self::Lower,
            share if share < 1.0 / 3.0 || fall > MIN_FALL => Self::Higher,
            _ => Self::Either,
        }
    }
}

fn against_underfitting(
    training: &TrainingConfig,
    figures: &Figures,
    lines: &[&EpochLine],
) -> Vec<String> {
    let now = training.optimiser.learning_rate;
    let rate = |change: &str, rate: f64| {
        format!("a {change} training.optimiser.learning_rate, such as {rate:.0e}")
    };
    let wider = "a larger network: more or larger network.widths".to_owned();
    let mut advice = match Rate::of(figures, lines, training) {
        Rate::Lower => vec![rate("lower", now / 10.0), wider],
        Rate::Higher => vec![rate("higher", 3.0 * now), wider],
        Rate::Either => vec![format!(
            "another training.optimiser.learning_rate: {:.0e} and {:.0e}",
            3.0 * now,
            now / 10.0
        )],
        Rate::Fine => vec![wider, rate("higher", 3.0 * now)],
    };
    if training.augmentation().is_some() {
        advice.push("weaker [training.augmentation]".to_owned());
    }
    advice.push("check some cases: do the labels match the images?".to_owned());
    advice
}

fn against_overfitting(recipe: &Recipe) -> Vec<String> {
    let training = &recipe.training;
    let augmentation = match training.augmentation() {
        None => "enable [training.augmentation]",
        Some(_) => "stronger [training.augmentation]",
    };
    let smaller = match recipe.network.unet() {
        Some(network) if network.dropout < HIGH_DROPOUT => {
            "network.dropout, such as 0.2, or a smaller network"
        }
        _ => "a smaller network",
    };
    let mut advice = vec!["more training cases", augmentation, smaller];
    if training.optimiser.weight_decay < 1e-3 {
        advice.push("a higher training.optimiser.weight_decay");
    }
    advice.into_iter().map(str::to_owned).collect()
}
