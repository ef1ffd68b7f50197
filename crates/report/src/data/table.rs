//! Reads `metrics.csv`: one value per case, structure and metric.

use std::collections::HashMap;
use std::path::Path;

use super::metric::Metric;
use ctseg_base::text::csv_cell::from_cell;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::dataset::Structure;
use ctseg_image::metrics::overlap::Summary;

/// File name in an evaluation folder.
pub const FILE: &str = "metrics.csv";

/// Columns that identify a row.
const KEYS: [&str; 3] = ["case", "structure", "label"];

/// Metrics of every case, with structures and cases in file order.
#[derive(Debug, Clone, Default)]
pub struct MetricTable {
    pub metrics: Vec<Metric>,
    pub structures: Vec<Structure>,
    pub cases: Vec<String>,
    /// By case, structure and metric. Missing rows, empty cells and non-finite numbers are undefined.
    values: HashMap<(usize, usize), Vec<Option<f64>>>,
}

/// A line of the file.
struct Row {
    case: String,
    structure: String,
    label: Option<u16>,
    /// By metric, as text.
    cells: Vec<String>,
}

impl MetricTable {
    /// Reads all numeric columns as metrics; columns with text are ignored.
    ///
    /// # Errors
    /// Invalid CSV, missing columns `case` and `structure`, or no rows.
    pub fn read(path: &Path) -> Result<Self> {
        let broken = |error: csv::Error| Error::file(path, format!("cannot be read: {error}"));
        let bytes = regular_file::read(path).map_err(Error::io(path, "read"))?;
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().map_err(broken)?.clone();
        let column = |name: &str| header.iter().position(|own| own == name);
        let (Some(case), Some(structure)) = (column("case"), column("structure")) else {
            return Err(Error::file(
                path,
                "has no columns 'case' and 'structure'; expected the metrics.csv of 'ctseg evaluate'",
            ));
        };
        let label = column("label");
        let metrics: Vec<usize> = (0..header.len())
            .filter(|at| !KEYS.contains(&&header[*at]))
            .collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(broken)?;
            let cell = |at: usize| record.get(at).unwrap_or_default().trim().to_owned();
            rows.push(Row {
                case: from_cell(&cell(case)).to_owned(),
                structure: from_cell(&cell(structure)).to_owned(),
                label: label.and_then(|at| cell(at).parse().ok()),
                cells: metrics.iter().map(|at| cell(*at)).collect(),
            });
        }
        if rows.is_empty() {
            return Err(Error::file(
                path,
                "contains no case; run 'ctseg evaluate' on label maps that have references",
            ));
        }
        let names = metrics.iter().map(|at| &header[*at]);
        Ok(Self::of(&names.collect::<Vec<_>>(), &rows))
    }

    fn of(names: &[&str], rows: &[Row]) -> Self {
        let is_text = |at: usize| {
            let cells = || rows.iter().map(|row| row.cells[at].as_str());
            cells().any(|cell| !cell.is_empty()) && !cells().any(|cell| number(cell).is_some())
        };
        let kept: Vec<usize> = (0..names.len()).filter(|at| !is_text(*at)).collect();
        let mut table = Self {
            metrics: kept.iter().map(|at| Metric::named(names[*at])).collect(),
            ..Self::default()
        };
        let (mut cases, mut structures) = (HashMap::new(), HashMap::new());
        for row in rows {
            let case = *cases.entry(row.case.as_str()).or_insert_with(|| {
                table.cases.push(row.case.clone());
                table.cases.len() - 1
            });
            let structure = *structures.entry(row.structure.as_str()).or_insert_with(|| {
                let position = table.structures.len();
                table.structures.push(Structure {
                    value: row
                        .label
                        .unwrap_or(u16::try_from(position + 1).unwrap_or(u16::MAX)),
                    name: row.structure.clone(),
                });
                position
            });
            let values = kept.iter().map(|at| number(&row.cells[*at])).collect();
            table.values.insert((case, structure), values);
        }
        table
    }

    /// The position of a metric.
    pub fn metric(&self, key: &str) -> Option<usize> {
        self.metrics.iter().position(|metric| metric.key == key)
    }

    /// One value; `None` if undefined.
    pub fn value(&self, case: usize, structure: usize, metric: usize) -> Option<f64> {
        *self.values.get(&(case, structure))?.get(metric)?
    }

    /// Mean over the structures for which the metric is defined in the case.
    pub fn mean_of_case(&self, case: usize, metric: usize) -> Option<f64> {
        let structures = 0..self.structures.len();
        Summary::of(structures.map(|structure| self.value(case, structure, metric))).mean
    }

    /// Summary over the cases.
    pub fn summary_of(&self, structure: usize, metric: usize) -> Summary {
        let cases = 0..self.cases.len();
        Summary::of(cases.map(|case| self.value(case, structure, metric)))
    }

    /// Mean over structures of the means over cases.
    pub fn mean(&self, metric: usize) -> Option<f64> {
        let structures = 0..self.structures.len();
        Summary::of(structures.map(|structure| self.summary_of(structure, metric).mean)).mean
    }
}

fn number(cell: &str) -> Option<f64> {
    cell.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<MetricTable> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, text).unwrap();
        MetricTable::read(&path)
    }

    #[test]
    fn any_numeric_column_is_a_metric_and_an_empty_cell_is_undefined() {
        let table = read(
            "case,structure,label,dice,hd95_mm,remark,never\n\
             a,liver,5,0.9,2.5,fine,\n\
             a,spleen,7,0.5,,fine,\n\
             \"b, again\",liver,5,0.7,inf,,\n",
        )
        .unwrap();
        let keys: Vec<&str> = table.metrics.iter().map(|m| m.key.as_str()).collect();
        assert_eq!(keys, ["dice", "hd95_mm", "never"]);
        assert_eq!(table.cases, ["a", "b, again"]);
        assert_eq!(table.structures[1].value, 7);
        assert_eq!(table.value(0, 1, 1), None);
        assert_eq!(table.value(1, 0, 1), None, "an infinite distance is none");
        assert_eq!(table.value(1, 1, 0), None, "the file has no such row");
        assert_eq!(table.mean_of_case(0, 0), Some(0.7));
        assert_eq!(table.mean_of_case(1, 0), Some(0.7));
        // Means over structures of means over cases: ((0.9 + 0.7) / 2 + 0.5) / 2.
        assert!((table.mean(0).unwrap() - 0.65).abs() < 1e-12);
        assert_eq!(table.mean(2), None);
    }

    #[test]
    fn names_escaped_as_text_are_unescaped() {
        let table = read("case,structure,dice\n'=cmd(),'-a,0.9\n'b,a,-0.5\n").unwrap();
        assert_eq!(table.cases, ["=cmd()", "'b"]);
        let names = table.structures.iter().map(|s| s.name.as_str());
        assert_eq!(names.collect::<Vec<_>>(), ["-a", "a"]);
        assert_eq!(table.value(1, 1, 0), Some(-0.5));
    }

    #[test]
    fn an_invalid_table_is_refused_in_one_line() {
        for (text, problem) in [
            ("a,b\n1,2\n", "no columns 'case'"),
            ("case,structure,dice\n", "contains no case"),
            ("case,structure,dice\na,b\n", "cannot be read"),
            ("", "no columns"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.contains(problem) && !error.contains('\n'),
                "{text}: {error}"
            );
        }
    }
}
