//! The live table of a training: scores of every structure after an epoch.

use ctseg_base::text::table::{score, table};
use ctseg_core::run::validation::Validation;

/// Maximum number of rows below the progress bars; the best structures are omitted.
const MAX_ROWS: usize = 16;

/// The scores of one network's structures after an epoch (from 1), in output order; if there are too many, those with
/// the lowest Dice.
pub(super) fn live_table(
    network: &str,
    epoch: usize,
    structures: &[String],
    validation: &Validation,
) -> String {
    let dice = |index: usize| validation.dice_per_map.get(index).copied().flatten();
    let mut shown: Vec<usize> = (0..structures.len()).collect();
    // Structures with undefined Dice come last.
    shown.sort_by(|a, b| {
        let value = |index: usize| dice(index).unwrap_or(f64::INFINITY);
        value(*a).total_cmp(&value(*b))
    });
    shown.truncate(MAX_ROWS);
    shown.sort_unstable();
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|index| {
            let of = |values: &[Option<f64>]| score(values.get(*index).copied().flatten());
            vec![
                structures[*index].clone(),
                of(&validation.dice_per_map),
                of(&validation.iou_per_map),
                of(&validation.precision_per_map),
                of(&validation.recall_per_map),
            ]
        })
        .collect();
    let title = format!("{network}, epoch {epoch}");
    let text = table(&[&title, "dice", "iou", "precision", "recall"], &rows);
    match structures.len() - rows.len() {
        0 => text.trim_end().to_owned(),
        more => format!("{text}…and {more} more with higher Dice"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_structures_are_shown_in_output_order() {
        let names: Vec<String> = (0..20).map(|index| format!("structure {index}")).collect();
        let dice: Vec<Option<f64>> = (0..20)
            .map(|i| (i != 3).then(|| f64::from(i) / 20.0))
            .collect();
        let validation = Validation {
            dice: Some(0.5),
            dice_per_map: dice.clone(),
            iou: Some(0.5),
            iou_per_map: dice.clone(),
            precision: None,
            precision_per_map: dice.clone(),
            recall: None,
            recall_per_map: dice,
            accuracy: None,
            accuracy_per_map: Vec::new(),
            loss: None,
        };
        let text = live_table("fold 0", 7, &names, &validation);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + MAX_ROWS + 1);
        assert!(lines[0].starts_with("fold 0, epoch 7") && lines[1].starts_with("structure 0  "));
        assert!(
            !text.contains("structure 3 ") && !text.contains("structure 19"),
            "{text}"
        );
        assert_eq!(lines[17], "…and 4 more with higher Dice");
        let few = live_table("fold 0", 1, &names[..2], &validation);
        assert_eq!(few.lines().count(), 3);
        assert!(few.ends_with("0.050"), "{few}");
    }
}
