//! Diagnoses a training from its curves: a verdict by fixed rules, and what to try next.
//!
//! It compares the Dice of held-out cases with that of watched training cases, measured in the same way (whole cases,
//! no augmentation, the weights used for inference), because the training loss on augmented patches is not comparable
//! with the validation loss. The first rule that applies decides:
//!
//! 1. fewer than `MIN_EPOCHS` epochs: too early to tell; no validation Dice: undefined;
//! 2. validation Dice is above `CHANCE_DICE` and gained more than `GAIN` over the last third of the epochs (linear fit),
//!    that third is better than the one before it, and early stopping did not end the training: still improving;
//! 3. training Dice below `POOR_FIT`: underfitting;
//! 4. training Dice more than `GAP` above validation Dice, or more than half of that while the validation loss
//!    has risen by `RISE` from its lowest value and the training loss kept falling: overfitting;
//! 5. training Dice below `MODEST_FIT`: underfitting;
//! 6. otherwise: healthy.
//!
//! Without watched training cases, rule 3 uses the validation Dice (and requires that the training loss fell by less
//! than `FALL`), and rule 4 uses the losses alone.

mod advice;
mod curves;
mod verdict;

pub use verdict::{Figures, Verdict};

use std::path::Path;

use serde::{Deserialize, Serialize};

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::history;
use ctseg_core::run::history::EpochLine;

use advice::advice;

/// The file's name in a run folder.
pub const FILE: &str = "diagnosis.json";

/// The verdict on one network, with its reasons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Such as `fold 0`.
    pub network: String,
    pub verdict: Verdict,
    /// The reason for the verdict, in words.
    pub because: String,
    /// Suggested changes of recipe or data, most promising first.
    pub try_next: Vec<String>,
    pub figures: Figures,
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
    let complete: Vec<&EpochLine> = lines.iter().filter(|line| !line.interrupted).collect();
    let figures = Figures::of(&complete);
    let (verdict, because) = figures.verdict(&complete);
    let mut try_next = advice(verdict, &figures, &complete, recipe);
    let unwatched = recipe.training.watched_cases == 0;
    if figures.training_dice.is_none() && unwatched && verdict != Verdict::TooEarly {
        try_next.push("set training.watched_cases = 2 to compare with training cases".to_owned());
    }
    Diagnosis {
        network: network.to_owned(),
        verdict,
        because,
        try_next,
        figures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_core::run::checkpoint::StopReason;

    fn recipe() -> Recipe {
        recipe_with(&[])
    }

    fn recipe_with(set: &[&str]) -> Recipe {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::named("1", &set).unwrap()
    }

    /// Sixty epochs of validation Dice, training Dice, validation loss and training loss, each a function of x in (0,
    /// 1].
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

    /// Exponential approach from `from` to `to`.
    fn toward(from: f64, to: f64) -> impl Fn(f64) -> f64 {
        move |x| to + (from - to) * (-12.0 * x).exp()
    }

    fn verdict(lines: &[EpochLine]) -> Verdict {
        diagnose("fold 0", lines, &recipe()).verdict
    }

    #[test]
    fn synthetic_curves_get_the_expected_verdicts() {
        let fall = toward(1.0, 0.1);
        let healthy = curves([&toward(0.1, 0.88), &toward(0.1, 0.92), &fall, &fall]);
        assert_eq!(verdict(&healthy), Verdict::Healthy);
        assert!(diagnose("fold 0", &healthy, &recipe()).try_next.is_empty());

        let gap = curves([&toward(0.1, 0.7), &toward(0.1, 0.97), &fall, &fall]);
        let found = diagnose("fold 0", &gap, &recipe());
        assert_eq!(found.verdict, Verdict::Overfitting);
        assert!(found.because.contains("0.970"), "{}", found.because);
        assert!(
            found
                .try_next
                .iter()
                .any(|text| text.contains("augmentation"))
        );

        // A small gap, but the validation loss had its minimum long ago.
        let valley = |x: f64| 0.2 + (x - 0.3).powi(2);
        let down = |x: f64| 1.0 - 0.9 * x;
        let rising = curves([&toward(0.1, 0.84), &toward(0.1, 0.91), &valley, &down]);
        assert_eq!(verdict(&rising), Verdict::Overfitting);
        let flat = curves([&toward(0.1, 0.84), &toward(0.1, 0.91), &fall, &down]);
        assert_eq!(verdict(&flat), Verdict::Healthy);

        let little = curves([&toward(0.0, 0.3), &toward(0.0, 0.33), &fall, &|x| {
            1.0 - 0.1 * x
        }]);
        let found = diagnose("fold 0", &little, &recipe());
        assert_eq!(found.verdict, Verdict::Underfitting);
        assert!(found.try_next[0].contains("higher"), "{:?}", found.try_next);
        let modest = curves([&toward(0.0, 0.62), &toward(0.0, 0.65), &fall, &fall]);
        let found = diagnose("fold 0", &modest, &recipe());
        assert_eq!(found.verdict, Verdict::Underfitting);
        assert!(found.try_next[0].contains("larger"), "{:?}", found.try_next);

        let rise = |x: f64| 0.2 + 0.5 * x;
        let improving = curves([&rise, &rise, &fall, &fall]);
        assert_eq!(verdict(&improving), Verdict::StillImproving);
        assert_eq!(verdict(&improving[..4]), Verdict::TooEarly);
        assert_eq!(verdict(&[]), Verdict::TooEarly);
        // Early stopping ended the training.
        let mut stopped = improving.clone();
        stopped.last_mut().unwrap().ended = Some(StopReason::EarlyStopping);
        assert_ne!(verdict(&stopped), Verdict::StillImproving);
    }

    #[test]
    fn a_noisy_curve_is_not_improving_and_suggests_a_lower_rate() {
        let wild = |x: f64| 0.3 + 0.25 * (60.0 * x * 2.1).sin();
        let losses = |x: f64| 0.6 + 0.3 * (60.0 * x * 1.9).sin();
        let lines = curves([&wild, &|_| 0.3, &losses, &losses]);
        let found = diagnose("fold 0", &lines, &recipe());
        assert_eq!(found.verdict, Verdict::Underfitting, "{found:?}");
        assert!(found.try_next[0].contains("lower"), "{:?}", found.try_next);
    }

    #[test]
    fn without_watched_cases_the_losses_decide() {
        let without = |mut lines: Vec<EpochLine>| {
            lines.iter_mut().for_each(|line| line.training_dice = None);
            diagnose(
                "fold 0",
                &lines,
                &recipe_with(&["training.watched_cases=0"]),
            )
        };
        let (up, fall) = (toward(0.1, 0.8), toward(1.0, 0.1));
        let healthy = without(curves([&up, &up, &fall, &fall]));
        assert_eq!(healthy.verdict, Verdict::Healthy);
        assert!(healthy.try_next[0].contains("watched_cases"));
        let valley = |x: f64| 0.2 + (x - 0.3).powi(2);
        let down = |x: f64| 1.0 - 0.9 * x;
        let much = without(curves([&up, &up, &valley, &down]));
        assert_eq!(much.verdict, Verdict::Overfitting);
        let stuck = without(curves([&|_| 0.05, &up, &|_| 0.9, &|_| 0.9]));
        assert_eq!(stuck.verdict, Verdict::Underfitting);
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

    /// `count` epochs with this Dice on held-out and training cases; the training loss is a function of the position
    /// (0 to 1).
    fn lines(count: usize, dice: [f64; 2], loss: impl Fn(f64) -> f64) -> Vec<EpochLine> {
        let of = |epoch: usize| EpochLine {
            training_dice: Some(dice[1]),
            loss: Some(loss(epoch as f64 / count as f64)),
            validation_loss: Some(0.5),
            ..history::line("fold 0", epoch, dice[0])
        };
        (1..=count).map(of).collect()
    }

    fn first(lines: &[EpochLine], set: &[&str]) -> String {
        diagnose("fold 0", lines, &recipe_with(set))
            .try_next
            .swap_remove(0)
    }

    #[test]
    fn a_rate_that_learns_nothing_is_not_taken_for_too_high() {
        let flat = lines(40, [0.0, 0.0], |_| 1.0);
        let low = ["training.optimiser.learning_rate=1e-7"];
        assert!(
            first(&flat, &low).starts_with("a higher "),
            "{}",
            first(&flat, &low)
        );
        let high = ["training.optimiser.learning_rate=0.5"];
        assert!(
            first(&flat, &high).starts_with("a lower "),
            "{}",
            first(&flat, &high)
        );
        assert!(
            first(&flat, &[]).starts_with("another "),
            "{}",
            first(&flat, &[])
        );
        // Slow, but steady.
        let slow = lines(40, [0.3, 0.33], |x| 1.0 - 0.1 * x);
        assert!(
            first(&slow, &[]).starts_with("a higher "),
            "{}",
            first(&slow, &[])
        );
        let rising = lines(40, [0.0, 0.0], |x| 1.0 + x);
        assert!(
            first(&rising, &low).starts_with("a lower "),
            "{}",
            first(&rising, &low)
        );
    }

    #[test]
    fn settings_that_are_already_used_are_not_suggested() {
        let gap = lines(40, [0.7, 0.97], |x| 1.0 - 0.9 * x);
        let advice = |set: &[&str]| {
            diagnose("fold 0", &gap, &recipe_with(set))
                .try_next
                .join("\n")
        };
        assert!(advice(&[]).contains("network.dropout"));
        assert!(advice(&[]).contains("enable [training.augmentation]"));
        let set = ["network.dropout=0.3", "training.augmentation.enabled=true"];
        assert!(!advice(&set).contains("dropout") && !advice(&set).contains("enable"));
        // Training cases are watched, but none was validated yet.
        let mut unwatched = gap.clone();
        unwatched
            .iter_mut()
            .for_each(|line| line.training_dice = None);
        let advice = |set: &[&str]| {
            diagnose("fold 0", &unwatched, &recipe_with(set))
                .try_next
                .join("\n")
        };
        assert!(!advice(&[]).contains("watched_cases"), "{}", advice(&[]));
        assert!(advice(&["training.watched_cases=0"]).contains("watched_cases"));
        // Epochs that remain, or were cut off by the time limit, are not suggested again.
        let mut short = lines(4, [0.2, 0.2], |x| 1.0 - x);
        assert_eq!(
            first(&short, &[]),
            "wait: 4 of training.epochs = 40 are done"
        );
        short[3].ended = Some(StopReason::TimeLimit);
        assert!(first(&short, &[]).starts_with("resume with 'ctseg fit --resume'"));
        short[3].ended = Some(StopReason::AllEpochsDone);
        assert!(first(&short, &[]).starts_with("train longer"));
    }
}
