//! Metric names for trackers: those of `metrics.jsonl`, with the structure appended to metrics per structure, as in
//! `validation_dice_per_structure/liver`. (Not `validation_dice/liver`: MLflow's file store keeps each metric
//! as a file and could not have a folder of the same name.)

use super::tracker::EpochRecord;
use super::validation::Validation;

/// The metrics of an epoch by name. Undefined ones (a structure that no case contains or predicts, a loss that is not
/// finite) are left out. An interrupted epoch and its continuation have the same names.
pub fn epoch_metrics(record: &EpochRecord) -> Vec<(String, f64)> {
    let mut metrics = vec![
        ("loss".to_owned(), record.mean_loss),
        ("learning_rate".to_owned(), record.learning_rate),
        ("seconds".to_owned(), record.progress.seconds),
    ];
    add(&mut metrics, "validation", record.validation, record);
    if let Some(training) = record.training {
        add(&mut metrics, "training", training, record);
    }
    metrics.retain(|(_, value)| value.is_finite());
    metrics
}

fn add(metrics: &mut Vec<(String, f64)>, of: &str, measured: &Validation, record: &EpochRecord) {
    let means = [
        ("dice", measured.dice),
        ("iou", measured.iou),
        ("precision", measured.precision),
        ("recall", measured.recall),
        ("accuracy", measured.accuracy),
        ("loss", measured.loss),
    ];
    for (what, mean) in means {
        metrics.extend(mean.map(|mean| (format!("{of}_{what}"), mean)));
    }
    let per_structure = [
        ("dice", &measured.dice_per_map),
        ("iou", &measured.iou_per_map),
        ("precision", &measured.precision_per_map),
        ("recall", &measured.recall_per_map),
        ("accuracy", &measured.accuracy_per_map),
    ];
    for (what, values) in per_structure {
        for (structure, value) in record.structures.iter().zip(values) {
            let name = || format!("{of}_{what}_per_structure/{}", sanitised(structure));
            metrics.extend(value.map(|value| (name(), value)));
        }
    }
}

/// `text` as one part of a valid metric name (MLflow: letters, digits, `_-. :`, with slashes between
/// parts): other characters become underscores, and so do names that consist of dots.
pub fn sanitised(text: &str) -> String {
    if text.trim().is_empty() || text.chars().all(|letter| letter == '.') {
        return "_".repeat(text.chars().count().max(1));
    }
    let valid = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || "_-. :".contains(letter) => letter,
        _ => '_',
    };
    text.chars().map(valid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::checkpoint::Progress;

    fn validation(dice: f64) -> Validation {
        Validation {
            dice: Some(dice),
            dice_per_map: vec![Some(dice), None],
            iou: Some(dice / 2.0),
            iou_per_map: vec![None, Some(dice / 2.0)],
            precision: None,
            precision_per_map: vec![None, None],
            recall: Some(1.0),
            recall_per_map: Vec::new(), // of an early version
            accuracy: Some(0.875),
            accuracy_per_map: vec![Some(0.875), None],
            loss: None,
        }
    }

    #[test]
    fn metrics_are_named() {
        let progress = Progress {
            seconds: 2.5,
            ..Progress::new(1e-3)
        };
        let structures = ["liver".to_owned(), "vena cava/portal".to_owned()];
        let (held_out, on_training) = (validation(0.5), validation(0.75));
        let record = EpochRecord {
            network: "fold 0",
            structures: &structures,
            progress: &progress,
            mean_loss: f64::NAN,
            learning_rate: 1e-3,
            validation: &held_out,
            training: Some(&on_training),
            interrupted: false,
        };
        let expected = [
            ("learning_rate", 1e-3),
            ("seconds", 2.5),
            ("validation_dice", 0.5),
            ("validation_iou", 0.25),
            ("validation_recall", 1.0),
            ("validation_accuracy", 0.875),
            ("validation_dice_per_structure/liver", 0.5),
            ("validation_iou_per_structure/vena cava_portal", 0.25),
            ("validation_accuracy_per_structure/liver", 0.875),
            ("training_dice", 0.75),
            ("training_iou", 0.375),
            ("training_recall", 1.0),
            ("training_accuracy", 0.875),
            ("training_dice_per_structure/liver", 0.75),
            ("training_iou_per_structure/vena cava_portal", 0.375),
            ("training_accuracy_per_structure/liver", 0.875),
        ];
        assert_eq!(
            epoch_metrics(&record),
            expected.map(|(name, value)| (name.to_owned(), value))
        );
    }

    #[test]
    fn names_are_valid_for_servers() {
        for (text, name) in [
            ("liver", "liver"),
            ("vena cava/portal", "vena cava_portal"),
            ("Gänge (µm)", "G_nge __m_"),
            ("a_b-c.d:e", "a_b-c.d:e"),
            ("..", "__"),
            ("", "_"),
        ] {
            assert_eq!(sanitised(text), name);
        }
    }
}
