//! Writes the files of an evaluation.

use std::io::Write;
use std::path::Path;

use crate::Evaluation;
use crate::case_scores::CaseScores;
use crate::metrics::METRICS;
use ctseg_base::atomic_file::{write_atomically, write_bytes_atomically};
use ctseg_base::text::csv_cell::to_cell;
use ctseg_base::{Error, Result};

impl Evaluation {
    /// Writes `metrics.csv` (a row per case and structure; an undefined value is an empty cell) and `summary.json`
    /// into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut header = vec!["case", "structure", "label"];
        header.extend(METRICS.iter().map(|metric| metric.name));
        header.push("roi_recall");
        let rows = self.cases.iter().flat_map(|case| self.rows(case));
        write_csv(&folder.join("metrics.csv"), &header, rows)?;
        write_atomically(&folder.join("summary.json"), |file| {
            serde_json::to_writer_pretty(&mut *file, &self.summary())?;
            file.write_all(b"\n")
        })
    }

    fn rows<'a>(&'a self, case: &'a CaseScores) -> impl Iterator<Item = Vec<String>> + 'a {
        let structures = self.structures.iter().zip(&case.scores);
        structures.map(|(structure, scores)| {
            let mut row = vec![
                to_cell(&case.case),
                to_cell(&structure.name),
                structure.value.to_string(),
            ];
            row.extend(scores.values().map(cell));
            row.push(cell(case.roi_recall));
            row
        })
    }
}

/// A number with six decimals; empty if undefined.
pub fn cell(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.6}")).unwrap_or_default()
}

/// Writes a CSV file atomically. Names must be escaped with [`to_cell`].
pub fn write_csv(
    path: &Path,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<()> {
    let failed = |error: csv::Error| Error::file(path, format!("cannot write: {error}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(header).map_err(failed)?;
    for row in rows {
        table.write_record(row).map_err(failed)?;
    }
    let bytes = table
        .into_inner()
        .map_err(|error| Error::file(path, format!("cannot write: {}", error.error())))?;
    write_bytes_atomically(path, &bytes)
}
