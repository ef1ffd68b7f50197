//! How well every structure is found after an epoch, for people who watch a training.

use ctseg_base::text::table::{score, table};
use ctseg_core::run::validation::Validation;

/// More structures do not fit below the bars; the best are left out.
const SHOWN: usize = 16;

/// The structures' figures of one network after an epoch (from 1 on), in the order of its outputs; of very many those
/// that are found worst.
pub(super) fn standings(
    network: &str,
    epoch: usize,
    structures: &[String],
    validation: &Validation,
) -> String {
    let dice = |index: usize| validation.dice_per_map.get(index).copied().flatten();
    let mut shown: Vec<usize> = (0..structures.len()).collect();
    // Those that no case holds come last.
    shown.sort_by(|a, b| {
        let value = |index: usize| dice(index).unwrap_or(f64::INFINITY);
        value(*a).total_cmp(&value(*b))
    });
    shown.truncate(SHOWN);
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
        better => format!("{text}and {better} structures that are found better"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_structures_the_worst_are_shown_in_their_order() {
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
        let text = standings("fold 0", 7, &names, &validation);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + SHOWN + 1);
        assert!(lines[0].starts_with("fold 0, epoch 7") && lines[1].starts_with("structure 0  "));
        assert!(
            !text.contains("structure 3 ") && !text.contains("structure 19"),
            "{text}"
        );
        assert_eq!(lines[17], "and 4 structures that are found better");
        let few = standings("fold 0", 1, &names[..2], &validation);
        assert_eq!(few.lines().count(), 3);
        assert!(few.ends_with("0.050"), "{few}");
    }
}
