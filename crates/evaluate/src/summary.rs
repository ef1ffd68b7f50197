//! What an evaluation says in all, as `summary.json`.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::Evaluation;
use crate::case_scores::CaseScores;
use crate::scores::{Better, METRICS, Metric, named};
use ctseg_base::text::os_text::to_text;
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
        Summary::of(means).mean
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
                Summary::of(drawn.iter().map(|case| scores[*case])).mean
            };
            Summary::of(scores.iter().map(of_structure)).mean
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
            Summary::of(case.scores.iter().map(|scores| scores.overlap.dice())).mean
        };
        let means = self
            .cases
            .iter()
            .filter_map(|case| Some((case.case.as_str(), mean(case)?)));
        let mut means: Vec<(&str, f64)> = means.collect();
        means.sort_by(|(first, a), (second, b)| a.total_cmp(b).then(first.cmp(second)));
        means
    }

    /// `summary.json`: means over structures, each structure, regions, and what could not be compared.
    pub fn to_json(&self) -> Value {
        let mean: Map<String, Value> = METRICS
            .iter()
            .map(|metric| (metric.name.to_owned(), json!(self.mean(metric.name))))
            .collect();
        let structures: Vec<Value> = (0..self.structures.len())
            .into_par_iter()
            .map(|index| self.structure_json(index))
            .collect();
        let names = self
            .structures
            .iter()
            .map(|structure| structure.name.clone());
        let per_structure: Map<String, Value> = names.zip(structures).collect();
        let mean_of =
            |score: fn(&CaseScores) -> Option<f64>| Summary::of(self.cases.iter().map(score)).mean;
        let absolute = |path: Option<&PathBuf>| Some(to_text(std::path::absolute(path?).ok()?));
        let compared = self.cases.iter().map(|case| {
            json!({
                "case": case.case,
                "prediction": absolute(Some(&case.prediction)),
                "reference": absolute(case.reference.as_ref()),
                "image": absolute(case.image.as_ref()),
            })
        });
        json!({
            "mean": mean,
            "mean_dice_ci95": self.mean_ci95("dice"),
            "per_structure": per_structure,
            "cases": self.cases.len(),
            "roi_recall": mean_of(|case| case.roi_recall),
            "roi_share": mean_of(|case| case.roi_share),
            "compared": compared.collect::<Vec<_>>(),
            "failed": self.failures,
            "missing_predictions": self.missing,
        })
    }

    /// The means, and under `statistics` all that is left of each metric.
    fn structure_json(&self, index: usize) -> Value {
        let mut object = Map::new();
        object.insert("label".to_owned(), json!(self.structures[index].value));
        object.insert("tolerance_mm".to_owned(), json!(self.tolerances_mm[index]));
        let mut statistics = Map::new();
        for metric in &METRICS {
            let aggregate = Aggregate::of(self.scores_of(index, metric));
            let Summary {
                mean,
                sd,
                min,
                defined,
                undefined,
                ..
            } = aggregate.summary;
            object.insert(metric.name.to_owned(), json!(mean));
            if metric.name == "dice" {
                object.insert("dice_sd".to_owned(), json!(sd));
                object.insert("dice_min".to_owned(), json!(min));
                object.insert("defined".to_owned(), json!(defined));
                object.insert("undefined".to_owned(), json!(undefined));
            }
            let mut all = json!(aggregate);
            if metric.better != Better::Neither {
                let worst = self.worst(index, metric).into_iter();
                let worst = worst.map(|(case, value)| json!({"case": case, "value": value}));
                all["worst"] = worst.collect();
            }
            statistics.insert(metric.name.to_owned(), all);
        }
        object.insert("statistics".to_owned(), Value::Object(statistics));
        Value::Object(object)
    }
}
