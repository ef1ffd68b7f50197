//! Summary of an evaluation, written to `summary.json`.

use std::path::PathBuf;

use rayon::prelude::*;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::Evaluation;
use crate::case_scores::CaseScores;
use crate::metrics::{Better, METRICS, Metric, metric_by_name};
use crate::scores::position;
use ctseg_base::text::os_text::to_text;
use ctseg_core::dataset::Structure;
use ctseg_image::metrics::overlap::Summary;
use ctseg_image::metrics::summary::{Aggregate, bootstrap_ci95};

/// Number of worst cases listed per structure and metric.
const WORST_CASES: usize = 3;

impl Evaluation {
    fn scores_of(&self, structure: usize, metric: &Metric) -> Vec<Option<f64>> {
        let position = position(metric);
        let of = |case: &CaseScores| case.scores[structure].value(position);
        self.cases.iter().map(of).collect()
    }

    /// Summary over the cases of one metric of one structure (by index).
    pub fn summary_of(&self, structure: usize, metric: &str) -> Option<Summary> {
        Some(Summary::of(
            self.scores_of(structure, metric_by_name(metric)?),
        ))
    }

    /// As [`Self::summary_of`], with quartiles and a confidence interval.
    pub fn aggregate_of(&self, structure: usize, metric: &str) -> Option<Aggregate> {
        Some(Aggregate::of(
            self.scores_of(structure, metric_by_name(metric)?),
        ))
    }

    /// Mean over structures of the mean over cases.
    pub fn mean(&self, metric: &str) -> Option<f64> {
        let means = (0..self.structures.len()).map(|index| self.summary_of(index, metric)?.mean);
        Summary::mean_of(means)
    }

    /// 95 % confidence interval of [`Self::mean`], by bootstrap over the cases.
    pub fn mean_ci95(&self, metric: &str) -> Option<[f64; 2]> {
        let metric = metric_by_name(metric)?;
        let structures = 0..self.structures.len();
        let scores: Vec<_> = structures
            .map(|index| self.scores_of(index, metric))
            .collect();
        bootstrap_ci95(self.cases.len(), |drawn| {
            let of_structure = |scores: &Vec<Option<f64>>| {
                Summary::mean_of(drawn.iter().map(|case| scores[*case]))
            };
            Summary::mean_of(scores.iter().map(of_structure))
        })
    }

    /// The three cases with the worst values of a metric of a structure, worst first; ties by name.
    pub fn worst(&self, structure: usize, metric: &Metric) -> Vec<(&str, f64)> {
        let scores = self.scores_of(structure, metric);
        let mut defined: Vec<(&str, f64)> = self
            .cases
            .iter()
            .zip(scores)
            .filter_map(|(case, value)| Some((case.case.as_str(), value?)))
            .collect();
        defined.sort_by(|(first, a), (second, b)| {
            let by_value = match metric.better {
                Better::Higher => a.total_cmp(b),
                Better::Lower | Better::Neither => b.total_cmp(a),
            };
            by_value.then(first.cmp(second))
        });
        defined.truncate(WORST_CASES);
        defined
    }

    /// Cases with their mean Dice over the structures in reference or prediction, worst first; ties by name. Cases
    /// with no defined Dice are omitted.
    pub fn by_mean_dice(&self) -> Vec<(&str, f64)> {
        let dice = metric_by_name("dice").map_or(METRICS.len(), position);
        let mean = |case: &CaseScores| {
            Summary::mean_of(case.scores.iter().map(|scores| scores.value(dice)))
        };
        let means = self
            .cases
            .iter()
            .filter_map(|case| Some((case.case.as_str(), mean(case)?)));
        let mut means: Vec<(&str, f64)> = means.collect();
        means.sort_by(|(first, a), (second, b)| a.total_cmp(b).then(first.cmp(second)));
        means
    }

    /// Mean recall of stage 1's regions (share of the reference inside them) and their mean share of the volume, over
    /// cases whose sidecar records the region.
    pub fn roi_means(&self) -> [Option<f64>; 2] {
        let mean_of =
            |score: fn(&CaseScores) -> Option<f64>| Summary::mean_of(self.cases.iter().map(score));
        [
            mean_of(|case| case.roi_recall),
            mean_of(|case| case.roi_share),
        ]
    }

    /// The content of `summary.json`.
    pub fn summary(&self) -> SummaryJson<'_> {
        SummaryJson(self)
    }
}

/// Structures summarised per batch before they are written.
const BATCH: usize = 256;

/// `summary.json`: means over structures, each structure, regions, and failed cases. It is written while it is
/// computed, because the summary of thousands of structures would take gigabytes of memory.
pub struct SummaryJson<'a>(&'a Evaluation);

impl Serialize for SummaryJson<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let all = self.0;
        let means = METRICS
            .iter()
            .map(|metric| (metric.name.to_owned(), json!(all.mean(metric.name))));
        let absolute = |path: Option<&PathBuf>| Some(to_text(std::path::absolute(path?).ok()?));
        let compared = all.cases.iter().map(|case| {
            json!({
                "case": case.case,
                "prediction": absolute(Some(&case.prediction)),
                "reference": absolute(case.reference.as_ref()),
                "image": absolute(case.image.as_ref()),
            })
        });
        let [roi_recall, roi_share] = all.roi_means();
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("mean", &means.collect::<Map<String, Value>>())?;
        map.serialize_entry("mean_dice_ci95", &all.mean_ci95("dice"))?;
        map.serialize_entry("per_structure", &PerStructure(all))?;
        map.serialize_entry("cases", &all.cases.len())?;
        map.serialize_entry("roi_recall", &roi_recall)?;
        map.serialize_entry("roi_share", &roi_share)?;
        map.serialize_entry("compared", &compared.collect::<Vec<Value>>())?;
        map.serialize_entry("failed", &all.failures)?;
        map.serialize_entry("missing_predictions", &all.missing)?;
        map.end()
    }
}

struct PerStructure<'a>(&'a Evaluation);

impl Serialize for PerStructure<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let structures = &self.0.structures;
        let mut map = to.serialize_map(Some(structures.len()))?;
        let indices: Vec<usize> = (0..structures.len()).collect();
        for batch in indices.chunks(BATCH) {
            let summaries = batch
                .par_iter()
                .map(|index| StructureSummary::new(self.0, *index));
            for summary in summaries.collect::<Vec<_>>() {
                map.serialize_entry(&summary.structure.name, &summary)?;
            }
        }
        map.end()
    }
}

/// One structure: the means, and under `statistics` the full summary of each metric.
struct StructureSummary<'a> {
    structure: &'a Structure,
    tolerance_mm: f64,
    statistics: Vec<(&'static str, Statistics<'a>)>,
}

#[derive(Serialize)]
struct Statistics<'a> {
    #[serde(flatten)]
    aggregate: Aggregate,
    #[serde(skip_serializing_if = "Option::is_none")]
    worst: Option<Vec<Worst<'a>>>,
}

#[derive(Serialize)]
struct Worst<'a> {
    case: &'a str,
    value: f64,
}

impl<'a> StructureSummary<'a> {
    fn new(all: &'a Evaluation, index: usize) -> Self {
        let statistics = METRICS.iter().map(|metric| {
            let judged = metric.better != Better::Neither;
            let worst = judged.then(|| {
                let worst = all.worst(index, metric).into_iter();
                worst.map(|(case, value)| Worst { case, value }).collect()
            });
            let aggregate = Aggregate::of(all.scores_of(index, metric));
            (metric.name, Statistics { aggregate, worst })
        });
        Self {
            structure: &all.structures[index],
            tolerance_mm: all.tolerances_mm[index],
            statistics: statistics.collect(),
        }
    }
}

impl Serialize for StructureSummary<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("label", &self.structure.value)?;
        map.serialize_entry("tolerance_mm", &self.tolerance_mm)?;
        for (name, statistics) in &self.statistics {
            let summary = &statistics.aggregate.summary;
            map.serialize_entry(name, &summary.mean)?;
            if *name == "dice" {
                map.serialize_entry("dice_sd", &summary.sd)?;
                map.serialize_entry("dice_min", &summary.min)?;
                map.serialize_entry("defined", &summary.defined)?;
                map.serialize_entry("undefined", &summary.undefined)?;
            }
        }
        map.serialize_entry("statistics", &ByMetric(&self.statistics))?;
        map.end()
    }
}

struct ByMetric<'a>(&'a [(&'static str, Statistics<'a>)]);

impl Serialize for ByMetric<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, statistics)| (name, statistics)))
    }
}
