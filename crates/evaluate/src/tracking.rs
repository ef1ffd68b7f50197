//! Metrics of an evaluation for trackers.

use std::collections::BTreeMap;

use crate::Evaluation;
use crate::metrics::{Better, METRICS};
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::run::metric_names::sanitised;
use ctseg_image::metrics::overlap::Summary;

impl Evaluation {
    /// The models that made the predictions, as far as their sidecars name them.
    pub fn models(&self) -> Vec<ModelUsed> {
        let models = self.cases.iter().filter_map(|case| case.model.as_ref());
        let by_hash: BTreeMap<&str, &ModelUsed> =
            models.map(|model| (model.sha256.as_str(), model)).collect();
        by_hash.into_values().cloned().collect()
    }

    /// Metrics by name: the mean of each metric (`dice`) over all structures and for each one
    /// (`dice_per_structure/liver`), the recall and share of stage 1's regions, and the number of cases. Undefined
    /// values are omitted.
    pub fn tracker_metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = Vec::new();
        let judged = METRICS
            .iter()
            .filter(|metric| metric.better != Better::Neither);
        for metric in judged.map(|metric| metric.name) {
            let mean = self.mean(metric);
            metrics.extend(mean.map(|mean| (metric.to_owned(), mean)));
            for (index, structure) in self.structures.iter().enumerate() {
                let mean = self.summary_of(index, metric).and_then(|s| s.mean);
                let name = || format!("{metric}_per_structure/{}", sanitised(&structure.name));
                metrics.extend(mean.map(|mean| (name(), mean)));
            }
        }
        let recalls = self.cases.iter().map(|case| case.roi_recall);
        let shares = self.cases.iter().map(|case| case.roi_share);
        let regions = [
            ("roi_recall", Summary::of(recalls).mean),
            ("roi_share", Summary::of(shares).mean),
        ];
        for (name, mean) in regions {
            metrics.extend(mean.map(|mean| (name.to_owned(), mean)));
        }
        metrics.push(("cases".to_owned(), self.cases.len() as f64));
        metrics.push(("failed".to_owned(), self.failures.len() as f64));
        metrics
    }
}
