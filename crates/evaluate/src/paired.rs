//! Paired comparison of two models on the same cases: which is better, by how much, and with what significance.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::Evaluation;
use crate::case_scores::CaseScores;
use crate::files::{cell, write_csv};
use crate::metrics::{Better, METRICS, Metric};
use crate::scores::position;
use ctseg_base::Result;
use ctseg_base::text::csv_cell::to_cell;
use ctseg_image::metrics::overlap::Summary;
use ctseg_image::metrics::summary::Aggregate;
use ctseg_image::metrics::wilcoxon::{holm, signed_rank_p};

/// The row over all structures, from the mean over structures of each case.
pub const ALL: &str = "all";

/// One metric of one structure, over the cases where it is defined for both models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    pub metric: &'static str,
    /// [`ALL`] for the mean over structures.
    pub structure: String,
    /// Cases where both values are defined.
    pub cases: usize,
    /// Cases where only one value is defined.
    pub unpaired: usize,
    /// Mean of this model, and of the other.
    pub mean: Option<f64>,
    pub mean_against: Option<f64>,
    /// This model's value minus the other's.
    pub mean_difference: Option<f64>,
    pub median_difference: Option<f64>,
    /// 95 % confidence interval of the mean difference, by percentile bootstrap.
    pub difference_ci95: Option<[f64; 2]>,
    /// Number of cases where this model is better, and worse.
    pub better: usize,
    pub worse: usize,
    /// p-value of the two-sided Wilcoxon signed-rank test; none if no case differs.
    pub p: Option<f64>,
    /// The same, Holm-corrected over the structures of the metric.
    pub p_holm: Option<f64>,
}

/// Every metric with a better direction, for every structure that both evaluations have (by name), then for [`ALL`].
pub fn paired(this: &Evaluation, other: &Evaluation) -> Vec<Paired> {
    let others: BTreeMap<&str, &CaseScores> = other
        .cases
        .iter()
        .map(|case| (case.case.as_str(), case))
        .collect();
    let both: Vec<(&CaseScores, &CaseScores)> = this
        .cases
        .iter()
        .filter_map(|case| Some((case, *others.get(case.case.as_str())?)))
        .collect();
    let mut indices = BTreeMap::new();
    for (index, structure) in other.structures.iter().enumerate() {
        indices.entry(structure.name.as_str()).or_insert(index);
    }
    let own = this.structures.iter().enumerate();
    let shared: Vec<(usize, usize)> = own
        .filter_map(|(index, structure)| Some((index, *indices.get(structure.name.as_str())?)))
        .collect();
    let metrics = METRICS
        .iter()
        .filter(|metric| metric.better != Better::Neither);
    metrics
        .flat_map(|metric| of_metric(metric, this, &both, &shared))
        .collect()
}

fn of_metric(
    metric: &Metric,
    this: &Evaluation,
    both: &[(&CaseScores, &CaseScores)],
    shared: &[(usize, usize)],
) -> Vec<Paired> {
    let position = position(metric);
    let mut rows: Vec<Paired> = shared
        .iter()
        .map(|(own, other)| {
            let pairs = both.iter().map(|(case, against)| {
                (
                    case.scores[*own].value(position),
                    against.scores[*other].value(position),
                )
            });
            row(metric, &this.structures[*own].name, pairs)
        })
        .collect();
    let tested: Vec<f64> = rows.iter().filter_map(|row| row.p).collect();
    let mut adjusted = holm(&tested).into_iter();
    for row in rows.iter_mut().filter(|row| row.p.is_some()) {
        row.p_holm = adjusted.next();
    }
    // A structure that is defined for one model only would bias the mean.
    let means = both.iter().map(|(case, against)| {
        let defined = shared.iter().filter_map(|(own, other)| {
            let own = case.scores[*own].value(position);
            own.zip(against.scores[*other].value(position))
        });
        let (own, other): (Vec<f64>, Vec<f64>) = defined.unzip();
        let mean = |values: Vec<f64>| Summary::of(values.into_iter().map(Some)).mean;
        (mean(own), mean(other))
    });
    rows.push(row(metric, ALL, means));
    rows
}

fn row(
    metric: &Metric,
    structure: &str,
    pairs: impl Iterator<Item = (Option<f64>, Option<f64>)>,
) -> Paired {
    let (mut defined, mut unpaired) = (Vec::new(), 0);
    for pair in pairs {
        match pair {
            (Some(own), Some(other)) => defined.push((own, other)),
            (None, None) => {}
            _ => unpaired += 1,
        }
    }
    let differences: Vec<f64> = defined.iter().map(|(own, other)| own - other).collect();
    let aggregate = Aggregate::of(differences.iter().copied().map(Some));
    let mean = |values: &mut dyn Iterator<Item = f64>| Summary::of(values.map(Some)).mean;
    let count_towards = |sign: f64| differences.iter().filter(|d| **d * sign > 0.0).count();
    let good = if metric.better == Better::Higher {
        1.0
    } else {
        -1.0
    };
    Paired {
        metric: metric.name,
        structure: structure.to_owned(),
        cases: defined.len(),
        unpaired,
        mean: mean(&mut defined.iter().map(|(own, _)| *own)),
        mean_against: mean(&mut defined.iter().map(|(_, other)| *other)),
        mean_difference: aggregate.summary.mean,
        median_difference: aggregate.median,
        difference_ci95: aggregate.mean_ci95,
        better: count_towards(good),
        worse: count_towards(-good),
        p: signed_rank_p(&differences),
        p_holm: None,
    }
}

/// Writes `against.csv` into `folder`: one row per metric and structure.
pub fn write(folder: &Path, rows: &[Paired]) -> Result<()> {
    let header = [
        "metric",
        "structure",
        "cases",
        "unpaired",
        "mean",
        "mean_against",
        "mean_difference",
        "median_difference",
        "difference_low",
        "difference_high",
        "better",
        "worse",
        "p",
        "p_holm",
    ];
    let cells = rows.iter().map(|row| {
        let probability = |p: Option<f64>| p.map(|p| format!("{p:.3e}")).unwrap_or_default();
        let interval = row.difference_ci95;
        vec![
            row.metric.to_owned(),
            to_cell(&row.structure),
            row.cases.to_string(),
            row.unpaired.to_string(),
            cell(row.mean),
            cell(row.mean_against),
            cell(row.mean_difference),
            cell(row.median_difference),
            cell(interval.map(|[low, _]| low)),
            cell(interval.map(|[_, high]| high)),
            row.better.to_string(),
            row.worse.to_string(),
            probability(row.p),
            probability(row.p_holm),
        ]
    });
    write_csv(&folder.join("against.csv"), &header, cells)
}
