//! The output files of a case: label map, mask per structure, statistics, preview.

pub mod entropy;
pub mod existing;
pub mod inputs;
pub mod label_folders;
mod links;
mod names;
pub mod overlapping_masks;
mod patterns;
pub mod predicted;
pub mod probabilities;
pub mod probabilities_reader;
pub mod sidecar;
mod streamed_map;
mod structure_masks;

pub use links::refuse_links_out;
pub use structure_masks::StructureMasks;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;

use ctseg_base::atomic_file::{parent_of, write_bytes_atomically};
use ctseg_base::text::suggest::nearest;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{LabelNames, VolumeImage, case_file, write_label_map, write_mask};
use ctseg_image::space::{LabelMap, Volume, VoxelBox};
use ctseg_image::statistics::structures::StructureStatistics;
use ctseg_image::statistics::totalsegmentator::{StatisticsJson, TableOptions};

use entropy::EntropyFile;
use links::leads_out;
use overlapping_masks::OverlappingMasks;

/// Masks that are written in parallel, each by all threads.
const MASKS_AT_ONCE: usize = 4;

/// Number of names that an error about an unknown one suggests.
const MAX_NAMES: usize = 6;

/// Draws a preview of a volume and its label map, with the names of the labels.
pub type DrawPreview = fn(&Path, &Volume, &LabelMap, &LabelNames) -> Result<()>;

/// The outputs of each case.
#[derive(Debug, Clone)]
pub struct Outputs {
    pub label_map: bool,
    /// A mask per structure in a folder named after the case, in TotalSegmentator's layout.
    pub split: bool,
    /// Whether those masks may overlap, for models with independent structures. Statistics are then those of the masks.
    pub overlap: bool,
    /// An uncertainty map, see [`EntropyFile`]; written while logits are exported.
    pub entropy: bool,
    /// Draws `<case>_preview.png`.
    pub preview: Option<DrawPreview>,
    /// `<case>_statistics.json`, in the format of TotalSegmentator's `statistics.json`.
    pub statistics_json: Option<TableOptions>,
    /// Only these structures; `None` for all of the model's.
    pub structures: Option<Vec<String>>,
}

impl Default for Outputs {
    /// The label map with all structures.
    fn default() -> Self {
        Self {
            label_map: true,
            split: false,
            overlap: false,
            entropy: false,
            preview: None,
            statistics_json: None,
            structures: None,
        }
    }
}

impl Outputs {
    /// The structures to write, out of the model's `known` ones (label values by name).
    ///
    /// # Errors
    /// A structure that the model does not have.
    pub fn chosen(&self, mut known: BTreeMap<String, u16>) -> Result<BTreeMap<String, u16>> {
        let Some(wanted) = &self.structures else {
            return Ok(known);
        };
        if let Some(unknown) = wanted.iter().find(|name| !known.contains_key(*name)) {
            let names = nearest(unknown, known.keys().map(String::as_str), MAX_NAMES);
            let more = known.len() - names.len();
            return Err(Error::usage(format!(
                "--structures {unknown}: the model has no such structure; expected one or more of {}{}",
                names.join(", "),
                match more {
                    0 => String::new(),
                    more =>
                        format!(" (nearest first; 'ctseg inspect MODEL' shows the {more} others)"),
                }
            )));
        }
        known.retain(|name, _| wanted.contains(name));
        Ok(known)
    }

    /// Removes the labels of other structures, if structures were chosen.
    pub fn select(&self, labels: &mut LabelMap, structures: &BTreeMap<String, u16>) {
        if self.structures.is_none() {
            return;
        }
        let mut is_kept = vec![false; usize::from(u16::MAX) + 1];
        for label in structures.values() {
            is_kept[usize::from(*label)] = true;
        }
        let keep = |label: u16| {
            if is_kept[usize::from(label)] {
                label
            } else {
                0
            }
        };
        labels.data.par_mapv_inplace(keep);
    }

    /// The files of the case with label map `output` (which may not be written), relative to its folder.
    pub fn files(&self, output: &Path, structures: &BTreeMap<String, u16>) -> Vec<PathBuf> {
        let name_of = |path: PathBuf| path.file_name().map(PathBuf::from);
        let mut files = Vec::new();
        if self.label_map {
            files.extend(name_of(output.to_path_buf()));
        }
        if self.split {
            let masks = mask_names(structures).into_values();
            let case = name_of(case_file(output, "")).unwrap_or_default();
            files.extend(masks.map(|name| case.join(name)));
        }
        if self.entropy {
            files.extend(name_of(EntropyFile::path(output)));
        }
        if self.statistics_json.is_some() {
            files.extend(name_of(statistics_path(output)));
        }
        if self.preview.is_some() {
            files.extend(name_of(case_file(output, "_preview.png")));
        }
        files
    }

    /// The files of [`Outputs::files`] that users edit: the label map and masks.
    pub fn editable(&self, output: &Path, structures: &BTreeMap<String, u16>) -> Vec<PathBuf> {
        let labels = Self {
            label_map: self.label_map,
            split: self.split,
            ..Self::default()
        };
        labels.files(output, structures)
    }

    /// Writes the case's files except those written while logits were exported; masks from `overlapping` if given.
    /// Returns [`Outputs::files`].
    pub(super) fn write(
        &self,
        output: &Path,
        image: &VolumeImage,
        labels: &LabelMap,
        overlapping: Option<&OverlappingMasks>,
        structures: &BTreeMap<String, u16>,
        statistics: &BTreeMap<String, StructureStatistics>,
    ) -> Result<Vec<PathBuf>> {
        let names: LabelNames = structures
            .iter()
            .map(|(name, value)| (*value, name.clone()))
            .collect();
        if self.label_map {
            write_label_map(output, labels, &image.header, &names)?;
        }
        if self.split {
            let bounds = |name: &str| statistics.get(name).and_then(|found| found.bounds);
            let masks: &dyn StructureMasks = match overlapping {
                Some(masks) => masks,
                None => labels,
            };
            write_masks(output, image, masks, structures, &bounds)?;
        }
        if let Some(options) = self.statistics_json {
            write_statistics_json(output, image, labels, &names, options)?;
        }
        let files = self.files(output, structures);
        if let (Some(draw), Some(picture)) = (self.preview, files.last()) {
            draw(
                &parent_of(output).join(picture),
                &image.volume,
                labels,
                &names,
            )?;
        }
        Ok(files)
    }
}

/// Path of `<case>_statistics.json` of a label map.
pub fn statistics_path(output: &Path) -> PathBuf {
    case_file(output, "_statistics.json")
}

fn write_statistics_json(
    output: &Path,
    image: &VolumeImage,
    labels: &LabelMap,
    names: &LabelNames,
    options: TableOptions,
) -> Result<()> {
    let structures: Vec<(u16, &str)> = names.iter().map(|(l, name)| (*l, name.as_str())).collect();
    let voxel_mm3 = image.header.voxel_mm3;
    let measured = StatisticsJson::measured(&structures, labels, &image.volume, voxel_mm3, options);
    write_bytes_atomically(&statistics_path(output), measured.text()?.as_bytes())
}

/// Writes `<case>/<structure>.nii.gz` for every structure; `bounds` gives its bounding box, if it has voxels.
fn write_masks(
    output: &Path,
    image: &VolumeImage,
    masks: &dyn StructureMasks,
    structures: &BTreeMap<String, u16>,
    bounds: &(dyn Fn(&str) -> Option<VoxelBox> + Sync),
) -> Result<()> {
    let folder = case_file(output, "");
    let [nx, ny, _] = image.volume.grid.shape;
    let names = mask_names(structures);
    let all: Vec<(&String, &u16)> = structures.iter().collect();
    for some in all.chunks(MASKS_AT_ONCE) {
        some.par_iter().try_for_each(|(name, label)| {
            let [first, end] = bounds(name).map_or([0, 0], |b| [b.start[2], b.end[2]]);
            let held = first * nx * ny..end * nx * ny;
            let file = folder.join(&names[name.as_str()]);
            write_mask(&file, &image.header, &|voxels, mask| {
                // Outside the box everything is background.
                let inside = voxels.start.max(held.start)..voxels.end.min(held.end);
                if !inside.is_empty() {
                    let part = inside.start - voxels.start..inside.end - voxels.start;
                    masks.mark(**label, inside, &mut mask[part]);
                }
            })
        })?;
    }
    Ok(())
}

/// A file name for every structure: letters, digits and a few other characters are kept, the rest becomes `_`, and
/// names that would clash (ignoring case) get the label value as a suffix.
fn mask_names(structures: &BTreeMap<String, u16>) -> BTreeMap<&str, String> {
    let plain = |name: &str| -> String {
        let keep = |c: char| {
            if c.is_alphanumeric() || "-+._".contains(c) {
                c
            } else {
                '_'
            }
        };
        let plain: String = name.trim().chars().map(keep).collect();
        // A leading dot would hide the file.
        match plain.strip_prefix('.') {
            Some(rest) => format!("_{rest}"),
            None => plain,
        }
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in structures.keys() {
        *counts.entry(plain(name).to_lowercase()).or_default() += 1;
    }
    let named = |name: &str, label: u16| {
        let plain = plain(name);
        match counts.get(&plain.to_lowercase()) {
            Some(1) if !plain.is_empty() => format!("{plain}.nii.gz"),
            _ => format!("{plain}_{label}.nii.gz"),
        }
    };
    structures
        .iter()
        .map(|(name, label)| (name.as_str(), named(name, *label)))
        .collect()
}

/// Removes files of an earlier prediction of the case that the next one will not write, such as masks of structures
/// that are no longer chosen. The sidecar still lists them, so that a killed process leaves no unknown files. Ignores
/// paths that are not below the label map's folder, and links that lead out of it.
pub(super) fn remove_stale_files(output: &Path, stale: &[PathBuf]) {
    let plain = |file: &Path| {
        let mut parts = file.components();
        parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let inside = |file: &Path| !leads_out(parent_of(output), parent_of(file));
    for file in stale.iter().filter(|file| plain(file) && inside(file)) {
        let path = parent_of(output).join(file);
        // A file that cannot be removed does not fail the case.
        let _ = std::fs::remove_file(&path);
        if file.components().count() > 1 {
            // Fails unless the folder is empty, as intended.
            let _ = std::fs::remove_dir(parent_of(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_image::space::Grid;

    fn structures(pairs: &[(&str, u16)]) -> BTreeMap<String, u16> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
    }

    #[test]
    fn file_names_are_plain_and_never_shared() {
        let all = structures(&[
            ("left lung/upper", 1),
            ("left_lung:upper", 2),
            ("Liver", 3),
            ("liver", 4),
            ("../up", 5),
            ("größe", 6),
            (" ", 7),
        ]);
        let names = mask_names(&all);
        assert_eq!(names["left lung/upper"], "left_lung_upper_1.nii.gz");
        assert_eq!(names["left_lung:upper"], "left_lung_upper_2.nii.gz");
        assert_eq!(names["Liver"], "Liver_3.nii.gz");
        assert_eq!(names["../up"], "_._up.nii.gz");
        assert_eq!(names["größe"], "größe.nii.gz");
        assert_eq!(names[" "], "_7.nii.gz");
    }

    #[test]
    fn only_known_structures_can_be_chosen_and_only_those_are_kept() {
        let all = structures(&[("liver", 1), ("spleen", 300)]);
        let outputs = |names: &[&str]| Outputs {
            structures: Some(names.iter().map(|n| (*n).to_owned()).collect()),
            ..Outputs::default()
        };
        let chosen = outputs(&["spleen"]).chosen(all.clone()).unwrap();
        assert_eq!(chosen, structures(&[("spleen", 300)]));
        let error = outputs(&["spleen", "heart"]).chosen(all.clone());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("heart") && error.contains("liver, spleen"),
            "{error}"
        );
        assert_eq!(Outputs::default().chosen(all.clone()).unwrap(), all);
        let grid = Grid::with_spacing([3, 1, 1], [1.0; 3]);
        let mut labels = LabelMap::empty(grid);
        labels.data.assign(&ndarray::array![[[1, 300, 0]]]);
        Outputs::default().select(&mut labels, &chosen);
        assert_eq!(labels.data, ndarray::array![[[1, 300, 0]]]);
        outputs(&["spleen"]).select(&mut labels, &chosen);
        assert_eq!(labels.data, ndarray::array![[[0, 300, 0]]]);
    }

    #[test]
    fn masks_are_the_same_in_any_memory_layout() {
        let grid = Grid::with_spacing([4, 3, 2], [1.0; 3]);
        let data =
            ndarray::Array3::from_shape_fn([4, 3, 2], |(x, y, z)| u16::from((x + y + z) % 3 == 0));
        let turned = LabelMap {
            grid,
            data: data.reversed_axes(),
        };
        let plain = LabelMap {
            grid,
            data: turned.data.as_standard_layout().into_owned(),
        };
        for voxels in [0..24, 5..17] {
            let marked = |labels: &LabelMap| {
                let mut mask = vec![0; voxels.len()];
                labels.mark(1, voxels.clone(), &mut mask);
                mask
            };
            assert_eq!(marked(&turned), marked(&plain));
        }
    }
}
