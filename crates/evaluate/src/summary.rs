//! What an evaluation says in all, as `summary.json`.

use std::path::PathBuf;

use rayon::prelude::*;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::Evaluation;
use crate::case_scores::CaseScores;
use crate::scores::{Better, METRICS, Metric, named};
use ctseg_base::text::os_text::to_text;
use ctseg_core::dataset::Structure;
use ctseg_image::metrics::overlap::Summary;
use ctseg_image::metrics::summary::{Aggregate, bootstrap_ci95};

/// Cases that are named for being the worst of a structure.
const WORST: usize = 3;

impl Evaluation {
    fn scores_of(&self, structure: usize, metric: &Metric) -> Vec<Option<f64>> {
        let of = |case: &CaseScores| (metric.of)(&case.scores[structure]);
        self.cases.iter().map(of).collect()
    }

    /// Summary of one metric of one structure (by position) over the cases.
    pub fn summary_of(&self, structure: usize, metric: &str) -> Option<Summary> {
        Some(Summary::of(self.scores_of(structure, named(metric)?)))
    }

    /// As [`Self::summary_of`], with quartiles and an interval.
    pub fn aggregate_of(&self, structure: usize, metric: &str) -> Option<Aggregate> {
        Some(Aggregate::of(self.scores_of(structure, named(metric)?)))
    }

    /// Mean over the structures of their means over the cases.
    pub fn mean(&self, metric: &str) -> Option<f64> {
        let means = (0..self.structures.len()).map(|index| self.summary_of(index, metric)?.mean);
        Summary::mean_of(means)
    }

    /// Where [`Self::mean`] lies for other cases like these, by drawing cases anew.
    pub fn mean_ci95(&self, metric: &str) -> Option<[f64; 2]> {
        let metric = named(metric)?;
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

    /// The cases with the worst values of a metric of a structure, the worst first, at most three; of equals the first
    /// by name.
    pub fn worst(&self, structure: usize, metric: &Metric) -> Vec<(&str, f64)> {
        let mut defined: Vec<(&str, f64)> = self
            .cases
            .iter()
            .filter_map(|case| Some((case.case.as_str(), (metric.of)(&case.scores[structure])?)))
            .collect();
        defined.sort_by(|(first, a), (second, b)| {
            let by_value = match metric.better {
                Better::Higher => a.total_cmp(b),
                Better::Lower | Better::Neither => b.total_cmp(a),
            };
            by_value.then(first.cmp(second))
        });
        defined.truncate(WORST);
        defined
    }

    /// Cases that have one, with the mean Dice over the structures that they hold or predict; the worst first, of
    /// equals the first by name.
    pub fn by_mean_dice(&self) -> Vec<(&str, f64)> {
        let mean = |case: &CaseScores| {
            Summary::mean_of(case.scores.iter().map(|scores| scores.overlap.dice()))
        };
        let means = self
            .cases
            .iter()
            .filter_map(|case| Some((case.case.as_str(), mean(case)?)));
        let mut means: Vec<(&str, f64)> = means.collect();
        means.sort_by(|(first, a), (second, b)| a.total_cmp(b).then(first.cmp(second)));
        means
    }

    /// Mean share of the reference inside stage 1's regions, and the regions' mean share of the volume, where predictions
    /// tell their regions.
    pub fn regions(&self) -> [Option<f64>; 2] {
        let mean_of =
            |score: fn(&CaseScores) -> Option<f64>| Summary::mean_of(self.cases.iter().map(score));
        [
            mean_of(|case| case.roi_recall),
            mean_of(|case| case.roi_share),
        ]
    }

    /// What `summary.json` says.
    pub fn summary(&self) -> SummaryJson<'_> {
        SummaryJson(self)
    }
}

/// Structures that are summarised before they are written.
const AT_ONCE: usize = 256;

/// `summary.json`: means over structures, each structure, regions, and what could not be compared. It is written as it is
/// computed: whole, that of thousands of structures would take gigabytes of memory.
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
        let [roi_recall, roi_share] = all.regions();
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

/// Every structure by name.
struct PerStructure<'a>(&'a Evaluation);

impl Serialize for PerStructure<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let structures = &self.0.structures;
        let mut map = to.serialize_map(Some(structures.len()))?;
        let places: Vec<usize> = (0..structures.len()).collect();
        for part in places.chunks(AT_ONCE) {
            let summaries = part
                .par_iter()
                .map(|place| OfStructure::new(self.0, *place));
            for summary in summaries.collect::<Vec<_>>() {
                map.serialize_entry(&summary.structure.name, &summary)?;
            }
        }
        map.end()
    }
}

/// A structure: the means, and under `statistics` all that is left of each metric.
struct OfStructure<'a> {
    structure: &'a Structure,
    tolerance_mm: f64,
    statistics: Vec<(&'static str, Statistics<'a>)>,
}

#[derive(Serialize)]
struct Statistics<'a> {
    #[serde(flatten)]
    aggregate: Aggregate,
    /// The worst cases.
    #[serde(skip_serializing_if = "Option::is_none")]
    worst: Option<Vec<Worst<'a>>>,
}

#[derive(Serialize)]
struct Worst<'a> {
    case: &'a str,
    value: f64,
}

impl<'a> OfStructure<'a> {
    fn new(all: &'a Evaluation, place: usize) -> Self {
        let statistics = METRICS.iter().map(|metric| {
            let judged = metric.better != Better::Neither;
            let worst = judged.then(|| {
                let worst = all.worst(place, metric).into_iter();
                worst.map(|(case, value)| Worst { case, value }).collect()
            });
            let aggregate = Aggregate::of(all.scores_of(place, metric));
            (metric.name, Statistics { aggregate, worst })
        });
        Self {
            structure: &all.structures[place],
            tolerance_mm: all.tolerances_mm[place],
            statistics: statistics.collect(),
        }
    }
}

impl Serialize for OfStructure<'_> {
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

/// Statistics by the metric's name.
struct ByMetric<'a>(&'a [(&'static str, Statistics<'a>)]);

impl Serialize for ByMetric<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, statistics)| (name, statistics)))
    }
}
