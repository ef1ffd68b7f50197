//! The summary of a finished training.

use std::cmp::Ordering;

use serde_json::json;

use crate::cli::print::print_out;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::or_undefined;
use ctseg_base::text::words::{MAX_LISTED, counted};
use ctseg_core::inference::coarse_stage::RoiQuality;
use ctseg_evaluate::Evaluation;
use ctseg_image::labels::postprocess::Step;
use ctseg_train::diagnosis::Diagnosis;
use ctseg_train::fit::{FitJob, FitSummary, FoldSummary};

pub fn print_summary(summary: &FitSummary, job: &FitJob, as_json: bool) {
    let keep = job.recipe.training.keep;
    if as_json {
        let folds: Vec<_> = summary
            .folds
            .iter()
            .map(|FoldSummary { fold, progress }| {
                let kept = progress.kept(keep);
                let kept =
                    kept.map(|(epoch, dice)| json!({"epoch": epoch, "validation_dice": dice}));
                json!({"fold": fold, "kept": kept, "progress": progress})
            })
            .collect();
        let roi = summary.roi.map(|roi| json!({"mean_recall": roi.mean_recall, "lowest_recall": roi.lowest_recall, "mean_share": roi.mean_share, "cases": roi.cases}));
        print_out(&format!(
            "{:#}\n",
            json!({"run": summary.run.display().to_string(), "model": summary.model.display().to_string(), "seconds": summary.seconds, "folds": folds, "held_out_roi": roi, "out_of_fold": out_of_fold_json(summary), "postprocessing": summary.postprocessing, "diagnoses": summary.diagnoses})
        ));
        return;
    }
    print_out(&format!(
        "stage {} trained in {:.0} s\n",
        job.recipe.stage, summary.seconds
    ));
    for FoldSummary { fold, progress } in &summary.folds {
        let (epoch, dice) = progress.kept(keep).unwrap_or((0, None));
        let better = match progress.best {
            Some((best, dice)) if best != epoch => {
                format!(" (best {} at epoch {best})", or_undefined(dice, 4))
            }
            _ => String::new(),
        };
        print_out(&format!(
            "  fold {fold}: validation Dice {} at epoch {epoch} of {}{better}\n",
            or_undefined(dice, 4),
            progress.epoch
        ));
    }
    for diagnosis in &summary.diagnoses {
        print_out(&described(diagnosis));
    }
    if let Some(roi) = &summary.roi {
        print_out(&regions_text(roi));
    }
    print_out(&out_of_fold_text(summary));
    print_out(&format!("  run    {}\n", summary.run.shown()));
    print_out(&format!("  model  {}\n", summary.model.shown()));
}

/// Quality of the ROIs of stage 1.
fn regions_text(roi: &RoiQuality) -> String {
    let percent = |value: f64| format!("{:.2} %", 100.0 * value);
    let recall = match roi.mean_recall.zip(roi.lowest_recall) {
        Some((mean, lowest)) => format!(
            "{} of the structures inside (lowest case {})",
            percent(mean),
            percent(lowest)
        ),
        None => "recall undefined: no held-out case contains a structure".to_owned(),
    };
    let share = roi.mean_share.map_or("undefined".to_owned(), percent);
    format!(
        "  held-out ROIs: {recall}, {share} of the volume, {}\n",
        counted(roi.cases, "case")
    )
}

fn out_of_fold_json(summary: &FitSummary) -> serde_json::Value {
    let Some(predicted) = &summary.out_of_fold else {
        return serde_json::Value::Null;
    };
    let figures = predicted.evaluation.as_ref().map(Evaluation::summary);
    json!({"folder": predicted.folder.display().to_string(), "complete": predicted.complete, "summary": figures})
}

/// Cross-validated Dice, and the postprocessing chosen from it.
fn out_of_fold_text(summary: &FitSummary) -> String {
    let mut text = String::new();
    let evaluated = summary
        .out_of_fold
        .as_ref()
        .and_then(|predicted| predicted.evaluation.as_ref());
    if let Some(evaluation) = evaluated {
        let own = evaluation.structures.iter().enumerate();
        let own = own.map(|(index, structure)| {
            let mean = evaluation.summary_of(index, "dice").and_then(|s| s.mean);
            (structure.name.as_str(), mean)
        });
        text += &format!(
            "  out-of-fold Dice {} over {} ({})\n",
            dice(evaluation.mean("dice")),
            counted(evaluation.cases.len(), "case"),
            by_structure(own.collect())
        );
    }
    for (name, cleaning) in summary
        .postprocessing
        .iter()
        .flat_map(|chosen| &chosen.structures)
    {
        let steps: Vec<String> = cleaning.steps.iter().map(Step::to_string).collect();
        text += &format!(
            "  postprocessing of {}: {}, Dice {} (was {})\n",
            name.shown(),
            steps.join(", "),
            dice(cleaning.dice_after),
            dice(cleaning.dice_before)
        );
    }
    text
}

fn dice(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.4}"))
}

/// Dice of each structure, or of the lowest ones if there are too many for a line.
fn by_structure(mut own: Vec<(&str, Option<f64>)>) -> String {
    let all = own.len();
    if all > MAX_LISTED {
        own.retain(|(_, mean)| mean.is_some());
        own.sort_by(|(_, a), (_, b)| a.partial_cmp(b).unwrap_or(Ordering::Equal));
        own.truncate(MAX_LISTED);
    }
    let own: Vec<String> = own
        .iter()
        .map(|(name, mean)| format!("{} {}", name.shown(), dice(*mean)))
        .collect();
    match all > MAX_LISTED {
        true => format!(
            "lowest of {all} structures: {}; see out_of_fold/summary.json in the run",
            own.join(", ")
        ),
        false => own.join(", "),
    }
}

/// The diagnosis as lines: verdict, reason, what to try.
pub(crate) fn described(diagnosis: &Diagnosis) -> String {
    let Diagnosis {
        network,
        verdict,
        because,
        try_next,
        ..
    } = diagnosis;
    let mut text = format!("  {}: {verdict} ({because})\n", network.shown());
    for next in try_next {
        text += &format!("    try {next}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_structures_the_lowest_are_listed() {
        let names: Vec<String> = (0..117).map(|index| format!("s{index}")).collect();
        let dice = |index: usize| (index != 0).then(|| 1.0 - index as f64 / 1000.0);
        let own = |count: usize| {
            let named = names.iter().take(count).enumerate();
            named
                .map(|(index, name)| (name.as_str(), dice(index)))
                .collect()
        };
        let said = by_structure(own(117));
        assert!(
            said.starts_with("lowest of 117 structures: s116 0.8840, s115"),
            "{said}"
        );
        assert_eq!(said.matches("0.8").count(), MAX_LISTED);
        assert_eq!(by_structure(own(2)), "s0 –, s1 0.9990");
    }
}
