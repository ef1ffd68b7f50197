//! `statistics.csv`: statistics of every structure of every label map in a folder, from the sidecars.

use std::io::Read;
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::csv_cell::to_cell;
use ctseg_base::text::file::read_text_at_most;
use ctseg_base::text::os_text::to_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::outputs::sidecar::{MAX_BYTES, Sidecar};

/// File name of the table.
pub const FILE_NAME: &str = "statistics.csv";

/// Largest depth of folders that are searched.
const MAX_DEPTH: usize = 16;

const HEADER: [&str; 12] = [
    "case",
    "structure",
    "label",
    "voxels",
    "volume_ml",
    "mean_hu",
    "median_hu",
    "sd_hu",
    "x_mm",
    "y_mm",
    "z_mm",
    "touches_border",
];

/// Writes the table of all cases in `folder` and below: one row per case and structure, with empty cells for structures
/// without voxels. It is made from the sidecars, so that it is complete after any number of runs, processes and
/// interruptions.
pub fn write_statistics(folder: &Path) -> Result<()> {
    let path = folder.join(FILE_NAME);
    if path.exists() && !is_own(&path) {
        return Err(Error::file(
            &path,
            "was not made by ctseg, so the statistics of this folder are not written; rename the file",
        ));
    }
    let failed = |error: csv::Error| Error::file(&path, format!("cannot write: {error}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record(HEADER).map_err(failed)?;
    let mut sidecars = Vec::new();
    find(folder, 0, &mut sidecars);
    sidecars.sort();
    for file in sidecars {
        let Some(sidecar) = read(&file) else { continue };
        let case = file
            .strip_prefix(folder)
            .unwrap_or(&file)
            .with_extension("");
        for row in rows(&case, &sidecar) {
            table.write_record(row).map_err(failed)?;
        }
    }
    let bytes = table
        .into_inner()
        .map_err(|error| Error::file(&path, format!("cannot write: {error}")))?;
    write_bytes_atomically(&path, &bytes)
}

/// Whether a file has the header of the table.
fn is_own(path: &Path) -> bool {
    let mut start = Vec::new();
    let header = format!("{}\n", HEADER.join(","));
    let file = regular_file::open(path).ok();
    let read = file.map(|file| file.take(header.len() as u64).read_to_end(&mut start));
    matches!(read, Some(Ok(_))) && (start.is_empty() || start == header.as_bytes())
}

/// Finds all JSON files. Skips links, and folders that are hidden or cannot be read.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else {
            continue;
        };
        if kind.is_dir() && !hidden && depth < MAX_DEPTH {
            find(&path, depth + 1, found);
        } else if kind.is_file() && !hidden && path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
}

fn read(file: &Path) -> Option<Sidecar> {
    let text = read_text_at_most(file, MAX_BYTES).ok()?;
    serde_json::from_str(&text).ok()
}

fn rows(case: &Path, sidecar: &Sidecar) -> Vec<Vec<String>> {
    let mut structures: Vec<(&String, &u16)> = sidecar.structures.iter().collect();
    structures.sort_by_key(|(_, label)| **label);
    let cell = |value: Option<f64>, digits: usize| {
        value.map(|v| format!("{v:.digits$}")).unwrap_or_default()
    };
    let case = to_cell(&to_text(case));
    structures
        .into_iter()
        .filter_map(|(name, label)| {
            let found = sidecar.statistics.get(name)?;
            let place = |axis: usize| cell(found.centroid_mm.map(|place| place[axis]), 2);
            Some(vec![
                case.clone(),
                to_cell(name),
                label.to_string(),
                found.voxels.to_string(),
                cell(Some(found.volume_ml), 4),
                cell(found.mean_hu, 2),
                cell(found.median_hu, 1),
                cell(found.sd_hu, 2),
                place(0),
                place(1),
                place(2),
                found.touches_border.to_string(),
            ])
        })
        .collect()
}
