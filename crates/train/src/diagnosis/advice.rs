//! What to try next, and nothing that is set already.

use super::curves::jumps;
use super::verdict::{FALL, Figures, NOTHING, Verdict};
use ctseg_core::recipe::{Recipe, TrainingConfig};
use ctseg_core::run::checkpoint::Ended;
use ctseg_core::run::history::EpochLine;
use ctseg_engine::optim::OptimiserKind;

/// A training loss that fell by less than this share of its first value has learned nothing.
const HARDLY_ANY: f64 = 0.02;

/// Dropout from which more of it is not advised.
const MUCH_DROPOUT: f64 = 0.2;

/// Changes of the recipe or the data, most promising first.
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
        Verdict::FitsTooLittle => against_too_little(training, figures, lines),
        Verdict::FitsTooMuch => against_too_much(recipe),
    }
}

/// More epochs, or what is left of those that the recipe has.
fn longer(lines: &[&EpochLine], training: &TrainingConfig, epochs: Option<usize>) -> String {
    let done = lines.len();
    let left = format!("{done} of training.epochs = {} are done", training.epochs);
    match lines.last().and_then(|line| line.ended) {
        Some(Ended::TimeIsUp) => {
            format!("go on with 'ctseg fit --resume': time was up when {left}")
        }
        None if (1..training.epochs).contains(&done) => format!("wait: {left}"),
        _ => match epochs {
            Some(epochs) => format!("train longer: training.epochs = {epochs}"),
            None => "train longer: raise training.epochs".to_owned(),
        },
    }
}

/// What the losses say of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    Lower,
    Higher,
    /// It learns nothing at a usual rate: too high and too low look alike.
    Either,
    /// It learns.
    Fine,
}

impl Rate {
    fn of(figures: &Figures, lines: &[&EpochLine], training: &TrainingConfig) -> Self {
        let optimiser = &training.optimiser;
        let usual = match optimiser.kind {
            OptimiserKind::Sgd => 1e-2,
            _ => 1e-3,
        };
        let share = optimiser.learning_rate / usual;
        let fall = figures.loss_fall.unwrap_or(0.0);
        if jumps(lines) || fall < -HARDLY_ANY || share > 10.0 {
            return Self::Lower;
        }
        if fall >= FALL && figures.validation_dice.is_some_and(|dice| dice >= NOTHING) {
            return Self::Fine;
        }
        match share {
            share if share > 3.0 => Self::Lower,
            share if share < 1.0 / 3.0 || fall > HARDLY_ANY => Self::Higher,
            _ => Self::Either,
        }
    }
}

fn against_too_little(
    training: &TrainingConfig,
    figures: &Figures,
    lines: &[&EpochLine],
) -> Vec<String> {
    let now = training.optimiser.learning_rate;
    let rate = |change: &str, rate: f64| {
        format!("a {change} training.optimiser.learning_rate, such as {rate:.0e}")
    };
    let wider = "a larger network: wider or more network.widths".to_owned();
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
    advice.push("labels that fit the images: look at some cases".to_owned());
    advice
}

fn against_too_much(recipe: &Recipe) -> Vec<String> {
    let training = &recipe.training;
    let augmentation = match training.augmentation() {
        None => "[training.augmentation] switched on",
        Some(_) => "stronger [training.augmentation]",
    };
    let smaller = match recipe.network.config().dropout < MUCH_DROPOUT {
        true => "network.dropout, such as 0.2, or a smaller network",
        false => "a smaller network",
    };
    let mut advice = vec!["more training cases", augmentation, smaller];
    if training.optimiser.weight_decay < 1e-3 {
        advice.push("more training.optimiser.weight_decay");
    }
    advice.into_iter().map(str::to_owned).collect()
}
