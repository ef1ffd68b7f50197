//! What trackers are told of an evaluation.

use std::collections::BTreeMap;

use crate::Evaluation;
use crate::scores::{Better, METRICS};
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::run::metric_names::permitted;
use ctseg_image::metrics::overlap::Summary;

impl Evaluation {
    /// The models that the predictions were made by, as far as they tell.
    pub fn models(&self) -> Vec<ModelUsed> {
        let models = self.cases.iter().filter_map(|case| case.model.as_ref());
        let by_hash: BTreeMap<&str, &ModelUsed> =
            models.map(|model| (model.sha256.as_str(), model)).collect();
        by_hash.into_values().cloned().collect()
    }

    /// What trackers that keep numbers by name are told: the mean of each metric (`dice`), and of each structure
    /// (`dice_per_structure/liver`), stage 1's regions, and how many cases there were. What is undefined is left out.
    pub fn points(&self) -> Vec<(String, f64)> {
        let mut points = Vec::new();
        let judged = METRICS
            .iter()
            .filter(|metric| metric.better != Better::Neither);
        for metric in judged.map(|metric| metric.name) {
            let mean = self.mean(metric);
            points.extend(mean.map(|mean| (metric.to_owned(), mean)));
            for (index, structure) in self.structures.iter().enumerate() {
                let mean = self.summary_of(index, metric).and_then(|s| s.mean);
                let name = || format!("{metric}_per_structure/{}", permitted(&structure.name));
                points.extend(mean.map(|mean| (name(), mean)));
            }
        }
        let recalls = self.cases.iter().map(|case| case.roi_recall);
        let shares = self.cases.iter().map(|case| case.roi_share);
        let regions = [
            ("roi_recall", Summary::of(recalls).mean),
            ("roi_share", Summary::of(shares).mean),
        ];
        for (name, mean) in regions {
            points.extend(mean.map(|mean| (name.to_owned(), mean)));
        }
        points.push(("cases".to_owned(), self.cases.len() as f64));
        points.push(("failed".to_owned(), self.failures.len() as f64));
        points
    }
}
