//! Writes `calibration.json` and `calibration.csv`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::scores::{Calibration, CalibrationMetric, MARGIN_MM, StructureCalibration};
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::csv_cell::to_cell;
use ctseg_base::{Error, Result};
use ctseg_image::metrics::calibration::{BINS, Bin, Reliability};

pub const JSON_NAME: &str = "calibration.json";
pub const CSV_NAME: &str = "calibration.csv";
/// The reliability diagram.
pub const PNG_NAME: &str = "calibration.png";

const HEADER: [&str; 13] = [
    "structure",
    "label",
    "region",
    "ece",
    "mce",
    "brier",
    "bin",
    "low",
    "high",
    "voxels",
    "inside",
    "mean_probability",
    "observed_share",
];

const METRICS: [(&str, CalibrationMetric); 3] = [
    ("ece", Reliability::expected_calibration_error),
    ("mce", Reliability::maximum_calibration_error),
    ("brier", Reliability::brier),
];

impl Calibration {
    /// Writes [`JSON_NAME`] (metrics and curves, pooled and per structure, and metrics per case) and [`CSV_NAME`] (a
    /// row per structure, region and bin) into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.to_json());
        write_bytes_atomically(&folder.join(JSON_NAME), text.as_bytes())?;
        self.write_table(&folder.join(CSV_NAME))
    }

    /// The content of [`JSON_NAME`]. `mean` is the mean over structures (the classwise error of Kull et al., NeurIPS
    /// 2019), `pooled` counts all voxels of all structures together.
    pub fn to_json(&self) -> Value {
        let structures = self.structures.iter().enumerate();
        let per_structure = structures.map(|(index, structure)| {
            let mut object = regions(&self.of_structure(index), with_curve);
            object.insert("label".to_owned(), json!(structure.value));
            (structure.name.clone(), Value::Object(object))
        });
        let per_case = self.cases.iter().map(|case| {
            let own = super::scores::joined(case.structures.iter().flatten());
            (case.case.clone(), Value::Object(regions(&own, metrics)))
        });
        json!({
            "bins": BINS,
            "margin_mm": MARGIN_MM,
            "mean": {
                "near": means(&|metric| self.mean_near(metric)),
                "whole": means(&|metric| self.mean_whole(metric)),
            },
            "pooled": regions(&self.of_all(), with_curve),
            "per_structure": per_structure.collect::<Map<String, Value>>(),
            "per_case": per_case.collect::<Map<String, Value>>(),
            "cases": self.cases.len(),
            "without_probabilities": self.without_probabilities,
            "failed": self.failures,
        })
    }

    fn write_table(&self, path: &Path) -> Result<()> {
        let failed = |error: csv::Error| Error::file(path, format!("cannot write: {error}"));
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(HEADER).map_err(failed)?;
        let all = ("all".to_owned(), String::new(), self.of_all());
        let structures = self
            .structures
            .iter()
            .enumerate()
            .map(|(index, structure)| {
                let label = structure.value.to_string();
                (to_cell(&structure.name), label, self.of_structure(index))
            });
        for (name, label, measured) in std::iter::once(all).chain(structures) {
            for (region, curve) in [("near", &measured.near), ("whole", &measured.whole)] {
                for row in rows(curve) {
                    let head = [name.clone(), label.clone(), region.to_owned()];
                    table
                        .write_record(head.into_iter().chain(row))
                        .map_err(failed)?;
                }
            }
        }
        let bytes = table
            .into_inner()
            .map_err(|error| Error::file(path, format!("cannot write: {}", error.error())))?;
        write_bytes_atomically(path, &bytes)
    }
}

fn means(mean: &dyn Fn(CalibrationMetric) -> Option<f64>) -> Value {
    let means = METRICS.iter();
    let means = means.map(|(name, metric)| ((*name).to_owned(), json!(mean(*metric))));
    Value::Object(means.collect())
}

fn regions(
    measured: &StructureCalibration,
    of: fn(&Reliability) -> Map<String, Value>,
) -> Map<String, Value> {
    let regions = [("near", &measured.near), ("whole", &measured.whole)];
    let regions = regions.map(|(name, curve)| (name.to_owned(), Value::Object(of(curve))));
    regions.into_iter().collect()
}

fn metrics(curve: &Reliability) -> Map<String, Value> {
    let metrics = METRICS.map(|(name, metric)| (name.to_owned(), json!(metric(curve))));
    let voxels = ("voxels".to_owned(), json!(curve.voxels()));
    std::iter::once(voxels).chain(metrics).collect()
}

fn with_curve(curve: &Reliability) -> Map<String, Value> {
    let mut object = metrics(curve);
    let bins = curve.bins().iter().enumerate().map(|(place, bin)| {
        let [low, high] = borders(place);
        json!({
            "low": low,
            "high": high,
            "voxels": bin.voxels,
            "inside": bin.inside,
            "mean_probability": bin.mean_probability(),
            "observed_share": bin.observed_share(),
        })
    });
    object.insert("curve".to_owned(), bins.collect());
    object
}

fn borders(bin: usize) -> [f64; 2] {
    [bin, bin + 1].map(|border| border as f64 / BINS as f64)
}

/// The cells of each bin, which follow those of the structure.
fn rows(curve: &Reliability) -> impl Iterator<Item = Vec<String>> {
    let cell = |value: Option<f64>| value.map(|v| format!("{v:.6}")).unwrap_or_default();
    let metrics = METRICS.map(|(_, metric)| cell(metric(curve)));
    let row = move |(place, bin): (usize, &Bin)| {
        let [low, high] = borders(place).map(|border| cell(Some(border)));
        let own = [
            (place + 1).to_string(),
            low,
            high,
            bin.voxels.to_string(),
            bin.inside.to_string(),
            cell(bin.mean_probability()),
            cell(bin.observed_share()),
        ];
        metrics.iter().cloned().chain(own).collect()
    };
    curve.bins().iter().enumerate().map(row)
}
