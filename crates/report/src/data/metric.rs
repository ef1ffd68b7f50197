//! Columns of `metrics.csv`: label, direction and number of digits. Tables of other programs may have other columns.

use ctseg_evaluate::metrics;
use ctseg_evaluate::metrics::Better;

/// One numeric column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Column name.
    pub key: String,
    /// Display name with the unit.
    pub label: String,
    pub better: Better,
    /// Decimal places.
    pub digits: usize,
}

/// Prefixes of metrics for which higher is better; they take precedence over [`LOWER`].
const HIGHER: [&str; 13] = [
    "dice",
    "iou",
    "jaccard",
    "precision",
    "recall",
    "sensitivity",
    "specificity",
    "accuracy",
    "nsd",
    "surface_dice",
    "boundary_dice",
    "roi_recall",
    "cldice",
];

/// Words in names of metrics for which lower is better.
const LOWER: [&str; 9] = [
    "hd",
    "hausdorff",
    "assd",
    "asd",
    "masd",
    "distance",
    "error",
    "difference",
    "components",
];

/// Display names of abbreviations.
const WORDS: [(&str, &str); 14] = [
    ("dice", "Dice"),
    ("iou", "IoU"),
    ("hd", "HD"),
    ("hd95", "HD95"),
    ("hd99", "HD99"),
    ("assd", "ASSD"),
    ("asd", "ASD"),
    ("masd", "MASD"),
    ("nsd", "NSD"),
    ("roi", "ROI"),
    ("cldice", "clDice"),
    ("hausdorff", "Hausdorff"),
    ("p95", "P95"),
    ("auc", "AUC"),
];

const UNITS: [(&str, &str); 6] = [
    ("mm", "mm"),
    ("ml", "mL"),
    ("mm3", "mm³"),
    ("percent", "%"),
    ("hu", "HU"),
    ("s", "s"),
];

/// Guesses the direction of a metric from its name.
fn guessed(name: &str, parts: &[&str]) -> Better {
    let is_error = |part: &&str| parts.iter().any(|own| own.starts_with(part));
    if HIGHER.iter().any(|beginning| name.starts_with(beginning)) {
        Better::Higher
    } else if LOWER.iter().any(is_error) {
        Better::Lower
    } else {
        Better::Neither
    }
}

impl Metric {
    /// The metric of a column called `key`.
    pub fn named(key: &str) -> Self {
        let lower = key.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('_').filter(|part| !part.is_empty()).collect();
        let own = metrics::metric_by_name(&lower).map(|metric| metric.better);
        let better = own
            .filter(|better| *better != Better::Neither)
            .unwrap_or_else(|| guessed(&lower, &parts));
        let unit = parts.last().and_then(|last| lookup(&UNITS, last));
        // The millimetres in an NSD's name are its tolerance, not its unit.
        let unit = unit.filter(|_| !lower.starts_with("nsd") && !lower.contains("dice"));
        let words = &parts[..parts.len() - usize::from(unit.is_some() && parts.len() > 1)];
        let words: Vec<&str> = words
            .iter()
            .map(|word| lookup(&WORDS, word).unwrap_or(word))
            .collect();
        let mut label = words.join(" ");
        if let Some(unit) = unit {
            label += &format!(" ({unit})");
        }
        let digits = match unit {
            Some("%") => 1,
            Some(_) => 2,
            None => 3,
        };
        Self {
            key: key.to_owned(),
            label,
            better,
            digits,
        }
    }

    /// Formats a value; a dash if undefined.
    pub fn shown(&self, value: Option<f64>) -> String {
        value.map_or_else(
            || "–".to_owned(),
            |value| format!("{value:.digits$}", digits = self.digits),
        )
    }
}

fn lookup(table: &[(&str, &'static str)], word: &str) -> Option<&'static str> {
    let found = table.iter().find(|(name, _)| *name == word);
    found.map(|(_, label)| *label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_known_by_their_names() {
        let of = |key: &str| {
            let metric = Metric::named(key);
            (metric.label, metric.better, metric.digits)
        };
        let expected = |label: &str, better, digits| (label.to_owned(), better, digits);
        assert_eq!(of("dice"), expected("Dice", Better::Higher, 3));
        assert_eq!(of("hd95_mm"), expected("HD95 (mm)", Better::Lower, 2));
        assert_eq!(of("assd_mm"), expected("ASSD (mm)", Better::Lower, 2));
        assert_eq!(of("nsd_2mm"), expected("NSD 2mm", Better::Higher, 3));
        assert_eq!(of("nsd_1_mm"), expected("NSD 1 mm", Better::Higher, 3));
        assert_eq!(
            of("reference_ml"),
            expected("reference (mL)", Better::Neither, 2)
        );
        assert_eq!(
            of("volume_difference_percent"),
            expected("volume difference (%)", Better::Lower, 1)
        );
        assert_eq!(of("roi_recall"), expected("ROI recall", Better::Higher, 3));
        assert_eq!(of("mm"), expected("mm (mm)", Better::Neither, 2));
        assert_eq!(Metric::named("dice").shown(None), "–");
        assert_eq!(Metric::named("hd95_mm").shown(Some(3.456)), "3.46");
    }
}
