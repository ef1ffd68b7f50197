//! An evaluation as text for the terminal.

use std::io::IsTerminal;
use std::path::Path;

use serde::Serialize;

use super::print::{print_json, print_out, print_raw};
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::{score, table};
use ctseg_base::text::words::counted;
use ctseg_evaluate::metrics::metric_by_name;
use ctseg_evaluate::paired::{ALL, Paired};
use ctseg_evaluate::{Evaluation, SummaryJson};

/// Columns of mean values.
const SHOWN: [(&str, &str); 6] = [
    ("recall", "recall"),
    ("precision", "precision"),
    ("surface_dice", "surface dice"),
    ("hd95_mm", "hd95 mm"),
    ("assd_mm", "assd mm"),
    ("relative_volume_error", "volume error"),
];

/// Metrics shown when two models are compared.
const COMPARED: [&str; 3] = ["dice", "surface_dice", "hd95_mm"];

/// Structures with at least this mean Dice are green, those below `BAD` are red.
const GOOD: f64 = 0.8;
const BAD: f64 = 0.5;

/// Number of worst cases listed.
const WORST: usize = 3;

/// The JSON output: `summary.json`, and the comparison with another model, which that file does not have.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    summary: SummaryJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<&'a [Paired]>,
}

/// Prints the structures' means, or everything as JSON including the comparison with another model.
pub fn print_evaluation(
    evaluation: &Evaluation,
    against: Option<&[Paired]>,
    folder: &Path,
    as_json: bool,
) {
    if as_json {
        let summary = evaluation.summary();
        print_json(&Printed { summary, against });
        return;
    }
    let mut header = vec!["structure", "dice", "95 %"];
    header.extend(SHOWN.map(|(_, title)| title));
    header.extend(["cases", "undefined"]);
    let (mut rows, mut dice): (Vec<Vec<String>>, Vec<Option<f64>>) =
        (0..evaluation.structures.len())
            .map(|index| structure_row(evaluation, index))
            .unzip();
    let mean = evaluation.mean("dice");
    let mut all = vec![
        "mean".to_owned(),
        score(mean),
        interval(evaluation.mean_ci95("dice")),
    ];
    all.extend(SHOWN.map(|(metric, _)| number(metric, evaluation.mean(metric))));
    rows.push(all);
    dice.push(mean);
    print_raw(&coloured(&table(&header, &rows), &dice));
    print_regions(evaluation);
    print_worst(evaluation);
    print_out(&format!(
        "{} compared, {} failed, {} without a prediction; metrics.csv and summary.json in {}\n",
        counted(evaluation.cases.len(), "case"),
        evaluation.failures.len(),
        counted(evaluation.missing.len(), "reference"),
        folder.shown()
    ));
}

/// A structure's cells, and its mean Dice.
fn structure_row(evaluation: &Evaluation, index: usize) -> (Vec<String>, Option<f64>) {
    let dice = evaluation.aggregate_of(index, "dice");
    let mean = dice.and_then(|dice| dice.summary.mean);
    let mut row = vec![
        evaluation.structures[index].name.clone(),
        score(mean),
        interval(dice.and_then(|dice| dice.mean_ci95)),
    ];
    row.extend(SHOWN.map(|(metric, _)| {
        let summary = evaluation.summary_of(index, metric);
        number(metric, summary.and_then(|summary| summary.mean))
    }));
    let counted = |count: fn(&ctseg_image::metrics::overlap::Summary) -> usize| {
        dice.map_or(0, |dice| count(&dice.summary)).to_string()
    };
    row.push(counted(|summary| summary.defined));
    row.push(counted(|summary| summary.undefined));
    (row, mean)
}

fn number(metric: &str, value: Option<f64>) -> String {
    match (metric, value) {
        ("relative_volume_error", Some(share)) => format!("{:+.1} %", 100.0 * share),
        (metric, Some(mm)) if metric.ends_with("_mm") => format!("{mm:.2}"),
        (_, value) => score(value),
    }
}

fn interval(interval: Option<[f64; 2]>) -> String {
    match interval {
        None => "–".to_owned(),
        // A dash would look like another minus sign.
        Some([low, high]) if low < 0.0 => format!("{low:.3} to {high:.3}"),
        Some([low, high]) => format!("{low:.3}–{high:.3}"),
    }
}

/// A table whose rows are green or red by their Dice, where a terminal shows colours.
fn coloured(text: &str, dice: &[Option<f64>]) -> String {
    let shown = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if !shown {
        return text.to_owned();
    }
    let mut lines = text.lines();
    let mut coloured = format!("\x1b[1m{}\x1b[0m\n", lines.next().unwrap_or_default());
    for (line, dice) in lines.zip(dice) {
        let colour = match dice {
            Some(dice) if *dice >= GOOD => "32",
            Some(dice) if *dice < BAD => "31",
            Some(_) => "33",
            None => "2",
        };
        coloured += &format!("\x1b[{colour}m{line}\x1b[0m\n");
    }
    coloured
}

fn print_regions(evaluation: &Evaluation) {
    let percent = |value: Option<f64>| value.map(|value| 100.0 * value);
    if let [Some(recall), Some(share)] = evaluation.roi_means().map(percent) {
        print_out(&format!(
            "stage 1 ROIs contain {recall:.2} % of the reference structures in {share:.1} % of the volume\n"
        ));
    }
}

/// Lists the cases with the worst mean Dice, if there are more than [`WORST`].
fn print_worst(evaluation: &Evaluation) {
    let mut cases = evaluation.by_mean_dice();
    if cases.len() <= WORST {
        return;
    }
    cases.truncate(WORST);
    let named: Vec<String> = cases
        .iter()
        .map(|(case, dice)| format!("{} {dice:.3}", case.shown()))
        .collect();
    print_out(&format!("worst mean Dice: {}\n", named.join(", ")));
}

/// Prints the comparison of two models.
pub fn print_against(paired: &[Paired], folder: &Path) {
    for metric in COMPARED {
        let rows: Vec<Vec<String>> = paired
            .iter()
            .filter(|row| row.metric == metric)
            .map(against_row)
            .collect();
        let unit = metric_by_name(metric).map_or(metric, |metric| metric.name);
        print_out(&format!("\n{unit}, this model and the other\n"));
        let header = [
            "structure",
            "this",
            "other",
            "difference",
            "95 %",
            "better",
            "worse",
            "cases",
            "p",
            "p (Holm)",
        ];
        print_out(&table(&header, &rows));
    }
    print_out(&format!(
        "all metrics in {}; p: Wilcoxon signed-rank test, Holm-corrected over the structures\n",
        folder.join("against.csv").shown()
    ));
}

fn against_row(row: &Paired) -> Vec<String> {
    let signed =
        |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:+.3}"));
    let probability = |p: Option<f64>| match p {
        None => "–".to_owned(),
        Some(p) if p < 1e-3 => "<0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    };
    let corrected = match row.structure.as_str() {
        ALL => String::new(),
        _ => probability(row.p_holm),
    };
    vec![
        row.structure.clone(),
        score(row.mean),
        score(row.mean_against),
        signed(row.mean_difference),
        interval(row.difference_ci95),
        row.better.to_string(),
        row.worse.to_string(),
        row.cases.to_string(),
        probability(row.p),
        corrected,
    ]
}
