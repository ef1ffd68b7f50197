//! Reads predictions back, from a label map or from masks.

use std::path::Path;

use super::mask_names;
use super::sidecar::read_sidecar;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_file, read_header, read_label_map, read_label_runs};
use ctseg_image::labels::run_length_labels::LabelRuns;
use ctseg_image::space::LabelMap;

/// The labels of the case with label map `label_map`; if that does not exist, merged from the masks of the structures
/// in the sidecar.
///
/// # Errors
/// Files that cannot be read; masks that overlap (according to the sidecar, or in a voxel) or have different grids.
pub fn read_predicted(label_map: &Path) -> Result<LabelMap> {
    match label_map.exists() {
        true => Ok(read_label_map(label_map)?.1),
        false => of_masks(label_map),
    }
}

/// Like [`read_predicted`], run-length encoded; takes little memory if there is a label map.
pub fn read_predicted_runs(label_map: &Path) -> Result<LabelRuns> {
    match label_map.exists() {
        true => Ok(read_label_runs(label_map)?.1),
        false => Ok(LabelRuns::from(&of_masks(label_map)?)),
    }
}

/// Number of voxels of the case; 0 if unknown.
pub fn predicted_voxels(label_map: &Path) -> usize {
    match read_header(label_map) {
        Ok(header) => header.grid.voxels(),
        Err(_) => read_sidecar(label_map).map_or(0, |made| made.shape.iter().product()),
    }
}

fn of_masks(label_map: &Path) -> Result<LabelMap> {
    let Some(made) = read_sidecar(label_map) else {
        return Err(Error::file(label_map, "label map not found"));
    };
    if made.overlapping {
        return Err(Error::file(
            label_map,
            "the case has only masks that may overlap (--overlap --no-label-map); predict again with a label map",
        ));
    }
    let folder = case_file(label_map, "");
    let names = mask_names(&made.structures);
    let mut merged: Option<LabelMap> = None;
    for (name, value) in &made.structures {
        let path = folder.join(&names[name.as_str()]);
        let (_, mask) = read_label_map(&path)?;
        let labels = merged.get_or_insert_with(|| LabelMap::empty(mask.grid));
        if labels.grid != mask.grid {
            return Err(Error::file(
                &path,
                "has another grid than the case's other masks",
            ));
        }
        let overlapping: usize = labels.overlay(&mask, *value).values().sum();
        if overlapping > 0 {
            return Err(Error::file(
                &path,
                format!(
                    "overlaps the case's other masks in {overlapping} voxels; predict it again"
                ),
            ));
        }
    }
    merged.ok_or_else(|| Error::file(label_map, "its sidecar lists no structures"))
}
