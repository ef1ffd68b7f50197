//! What a training's curves say, in plain words: the rules of a verdict, and what to try next.
//!
//! Compared are the Dice of held-out cases and that of cases which the network is trained on, measured in the
//! same way (whole cases, nothing augmented, the weights in use): the training loss is no match for the
//! validation loss where patches are drawn and augmented. In this order, the first that holds:
//!
//! 1. fewer than `FEWEST_EPOCHS` epochs: too early to tell; no validation Dice: undefined;
//! 2. validation Dice is above `NOTHING` and gained more than `GAIN` over the last third of the epochs (the slope of a straight line
//!    through it), that third is better than the one before it, and early stopping had no say: still improving;
//! 3. training Dice below `POOR_FIT`: fits too little;
//! 4. training Dice more than `GAP` above validation Dice, or more than half of that while the validation loss
//!    has risen by `RISE` from its lowest and the training loss went on falling: fits too much;
//! 5. training Dice below `MODEST_FIT`: fits too little;
//! 6. else: healthy.
//!
//! Where no training cases were watched, validation Dice takes the place of training Dice in 3 (with a training
//! loss that fell by less than `FALL`), and only the losses speak in 4.

mod curves;

use std::path::Path;

use serde::{Deserialize, Serialize};

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::{Recipe, TrainingConfig};
use ctseg_core::run::checkpoint::Ended;
use ctseg_core::run::history;
use ctseg_core::run::history::EpochLine;

use curves::{
    gain, jumps, last_epochs, last_third_is_better, lowest_validation_loss, mean,
    validation_loss_rise,
};

const FEWEST_EPOCHS: usize = 5;
/// A Dice that chance may reach.
const NOTHING: f64 = 0.1;
const GAIN: f64 = 0.02;
const POOR_FIT: f64 = 0.5;
const MODEST_FIT: f64 = 0.7;
const GAP: f64 = 0.1;
const RISE: f64 = 0.15;
const FALL: f64 = 0.3;

/// The file's name in a run folder.
pub const FILE: &str = "diagnosis.json";

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

/// A verdict on one network, with what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Such as `fold 0`.
    pub network: String,
    pub verdict: Verdict,
    /// The figures that decided, in words.
    pub because: String,
    /// Changes of the recipe or the data, most promising first.
    pub try_next: Vec<String>,
    pub figures: Figures,
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

/// Diagnoses every network of the run in folder `run` and writes `diagnosis.json` there.
///
/// # Errors
/// The run's metrics cannot be read, or the file not written.
pub fn of_run(run: &Path, recipe: &Recipe) -> Result<Vec<Diagnosis>> {
    let diagnoses: Vec<Diagnosis> = history::read(run)?
        .iter()
        .map(|(network, lines)| diagnose(network, lines, recipe))
        .collect();
    let path = run.join(FILE);
    let text = serde_json::to_string_pretty(&diagnoses)
        .map_err(|error| Error::file(&path, format!("cannot write the diagnosis: {error}")))?;
    write_bytes_atomically(&path, format!("{text}\n").as_bytes())?;
    Ok(diagnoses)
}

/// The verdict on one network's epochs.
pub fn diagnose(network: &str, lines: &[EpochLine], recipe: &Recipe) -> Diagnosis {
    let whole: Vec<&EpochLine> = lines.iter().filter(|line| !line.broken_off).collect();
    let figures = Figures::of(&whole);
    let (verdict, because) = figures.verdict(&whole);
    let mut try_next = advice(verdict, &figures, &whole, recipe);
    if figures.training_dice.is_none() && verdict != Verdict::TooEarly {
        try_next.push("set training.watched_cases to 2 to compare with training cases".to_owned());
    }
    Diagnosis {
        network: network.to_owned(),
        verdict,
        because,
        try_next,
        figures,
    }
}

impl Figures {
    fn of(lines: &[&EpochLine]) -> Self {
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

    fn verdict(&self, lines: &[&EpochLine]) -> (Verdict, String) {
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

fn advice(
    verdict: Verdict,
    figures: &Figures,
    lines: &[&EpochLine],
    recipe: &Recipe,
) -> Vec<String> {
    let training = &recipe.training;
    match verdict {
        Verdict::Healthy => Vec::new(),
        Verdict::Undefined => vec!["another --seed, or fewer folds".to_owned()],
        Verdict::TooEarly => vec!["train longer: raise training.epochs".to_owned()],
        Verdict::StillImproving => {
            let epochs = training.epochs + training.epochs.div_ceil(2);
            vec![format!("train longer: training.epochs = {epochs}")]
        }
        Verdict::FitsTooLittle => {
            let hardly = figures.loss_fall.is_none_or(|fall| fall < FALL);
            let none = figures.validation_dice.is_some_and(|dice| dice < NOTHING);
            let wild = hardly || jumps(lines) || none;
            against_too_little(training, wild)
        }
        Verdict::FitsTooMuch => against_too_much(training),
    }
}

/// `wild`: whether the losses ask for a lower rate.
fn against_too_little(training: &TrainingConfig, wild: bool) -> Vec<String> {
    let rate = |change: &str, rate: f64| {
        format!("a {change} training.optimiser.learning_rate, such as {rate:.0e}")
    };
    let now = training.optimiser.learning_rate;
    let wider = "a larger network: wider or more network.widths".to_owned();
    let mut advice = match wild {
        true => vec![rate("lower", now / 10.0), wider],
        false => vec![wider, rate("higher", 3.0 * now)],
    };
    if training.augmentation().is_some() {
        advice.push("weaker [training.augmentation]".to_owned());
    }
    advice.push("labels that fit the images: look at some cases".to_owned());
    advice
}

fn against_too_much(training: &TrainingConfig) -> Vec<String> {
    let augmentation = match training.augmentation() {
        None => "[training.augmentation] switched on",
        Some(_) => "stronger [training.augmentation]",
    };
    let mut advice = vec![
        "more training cases",
        augmentation,
        "network.dropout, such as 0.2, or a smaller network",
    ];
    if training.optimiser.weight_decay < 1e-3 {
        advice.push("more training.optimiser.weight_decay");
    }
    advice.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe::named("1", &[]).unwrap()
    }

    /// Sixty epochs: validation Dice, training Dice, validation loss, training loss, each of x in (0, 1].
    fn curves(of: [&dyn Fn(f64) -> f64; 4]) -> Vec<EpochLine> {
        (1..=60)
            .map(|epoch| {
                let x = epoch as f64 / 60.0;
                EpochLine {
                    training_dice: (epoch % 5 == 0).then(|| of[1](x)),
                    validation_loss: Some(of[2](x)),
                    loss: Some(of[3](x)),
                    ..history::line("fold 0", epoch, of[0](x))
                }
            })
            .collect()
    }

    /// From `from` toward `to`, soon there.
    fn toward(from: f64, to: f64) -> impl Fn(f64) -> f64 {
        move |x| to + (from - to) * (-12.0 * x).exp()
    }

    fn verdict(lines: &[EpochLine]) -> Verdict {
        diagnose("fold 0", lines, &recipe()).verdict
    }

    #[test]
    fn made_up_curves_get_their_verdicts() {
        let fall = toward(1.0, 0.1);
        let healthy = curves([&toward(0.1, 0.88), &toward(0.1, 0.92), &fall, &fall]);
        assert_eq!(verdict(&healthy), Verdict::Healthy);
        assert!(diagnose("fold 0", &healthy, &recipe()).try_next.is_empty());

        let gap = curves([&toward(0.1, 0.7), &toward(0.1, 0.97), &fall, &fall]);
        let found = diagnose("fold 0", &gap, &recipe());
        assert_eq!(found.verdict, Verdict::FitsTooMuch);
        assert!(found.because.contains("0.970"), "{}", found.because);
        assert!(
            found
                .try_next
                .iter()
                .any(|text| text.contains("augmentation"))
        );

        // A small gap, but the validation loss has its lowest point far behind it.
        let valley = |x: f64| 0.2 + (x - 0.3).powi(2);
        let down = |x: f64| 1.0 - 0.9 * x;
        let rising = curves([&toward(0.1, 0.84), &toward(0.1, 0.91), &valley, &down]);
        assert_eq!(verdict(&rising), Verdict::FitsTooMuch);
        let flat = curves([&toward(0.1, 0.84), &toward(0.1, 0.91), &fall, &down]);
        assert_eq!(verdict(&flat), Verdict::Healthy);

        let little = curves([&toward(0.0, 0.3), &toward(0.0, 0.33), &fall, &|x| {
            1.0 - 0.1 * x
        }]);
        let found = diagnose("fold 0", &little, &recipe());
        assert_eq!(found.verdict, Verdict::FitsTooLittle);
        assert!(found.try_next[0].contains("lower"), "{:?}", found.try_next);
        let modest = curves([&toward(0.0, 0.62), &toward(0.0, 0.65), &fall, &fall]);
        let found = diagnose("fold 0", &modest, &recipe());
        assert_eq!(found.verdict, Verdict::FitsTooLittle);
        assert!(found.try_next[0].contains("larger"), "{:?}", found.try_next);

        let rise = |x: f64| 0.2 + 0.5 * x;
        let improving = curves([&rise, &rise, &fall, &fall]);
        assert_eq!(verdict(&improving), Verdict::StillImproving);
        assert_eq!(verdict(&improving[..4]), Verdict::TooEarly);
        assert_eq!(verdict(&[]), Verdict::TooEarly);
        // Early stopping has seen that nothing is gained.
        let mut stopped = improving.clone();
        stopped.last_mut().unwrap().ended = Some(Ended::NothingGained);
        assert_ne!(verdict(&stopped), Verdict::StillImproving);
    }

    #[test]
    fn a_jumping_curve_is_not_an_improving_one_and_jumps_ask_for_a_lower_rate() {
        let wild = |x: f64| 0.3 + 0.25 * (60.0 * x * 2.1).sin();
        let losses = |x: f64| 0.6 + 0.3 * (60.0 * x * 1.9).sin();
        let lines = curves([&wild, &|_| 0.3, &losses, &losses]);
        let found = diagnose("fold 0", &lines, &recipe());
        assert_eq!(found.verdict, Verdict::FitsTooLittle, "{found:?}");
        assert!(found.try_next[0].contains("lower"), "{:?}", found.try_next);
    }

    #[test]
    fn without_watched_cases_the_losses_speak() {
        let without = |mut lines: Vec<EpochLine>| {
            lines.iter_mut().for_each(|line| line.training_dice = None);
            diagnose("fold 0", &lines, &recipe())
        };
        let (up, fall) = (toward(0.1, 0.8), toward(1.0, 0.1));
        let healthy = without(curves([&up, &up, &fall, &fall]));
        assert_eq!(healthy.verdict, Verdict::Healthy);
        assert!(healthy.try_next[0].contains("watched_cases"));
        let valley = |x: f64| 0.2 + (x - 0.3).powi(2);
        let down = |x: f64| 1.0 - 0.9 * x;
        let much = without(curves([&up, &up, &valley, &down]));
        assert_eq!(much.verdict, Verdict::FitsTooMuch);
        let stuck = without(curves([&|_| 0.05, &up, &|_| 0.9, &|_| 0.9]));
        assert_eq!(stuck.verdict, Verdict::FitsTooLittle);
    }

    #[test]
    fn verdicts_are_written_into_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let line = serde_json::to_string(&history::line("fold 1", 1, 0.5)).unwrap();
        std::fs::write(folder.path().join(history::FILE), line).unwrap();
        let found = of_run(folder.path(), &recipe()).unwrap();
        let text = std::fs::read(folder.path().join(FILE)).unwrap();
        assert_eq!(
            serde_json::from_slice::<Vec<Diagnosis>>(&text).unwrap(),
            found
        );
        assert_eq!(found[0].network, "fold 1");
    }
}
