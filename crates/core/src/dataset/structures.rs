//! Finds the structures in label maps, and merges binary masks into one label map.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Case, Copies, LabelSource, Reading, Structure};
use ctseg_base::{Error, Result};
use ctseg_image::formats::{LabelNames, read_label_map, read_label_names};
use ctseg_image::space::LabelMap;

/// A file with more different values than this is probably an image, not a label map.
const MAX_STRUCTURES: usize = 1024;

/// Voxels per label value: (value, voxels), ascending, background included.
pub fn count_values(labels: &LabelMap) -> Vec<(u16, usize)> {
    let mut counts = vec![0usize; usize::from(u16::MAX) + 1];
    for value in &labels.data {
        counts[usize::from(*value)] += 1;
    }
    (0..=u16::MAX)
        .zip(counts)
        .filter(|(_, voxels)| *voxels > 0)
        .collect()
}

/// A structure for every value in the cases' label maps, with the name stored in the files, or `structure_<value>` if
/// there is none or the files disagree.
///
/// Unreadable files are left to the dataset's check; fails only if no file can be read.
pub(super) fn scan(root: &Path, cases: &[Case]) -> Result<Vec<Structure>> {
    let maps: Vec<&PathBuf> = cases
        .iter()
        .filter_map(|case| match &case.labels {
            LabelSource::Map(path) => Some(path),
            _ => None,
        })
        .collect();
    let scanned: Vec<Result<(Vec<u16>, LabelNames)>> = maps
        .par_iter()
        .map(|path| {
            let (_, labels) = read_label_map(path)?;
            let values = count_values(&labels).into_iter().map(|(value, _)| value);
            let values = values.filter(|value| *value > 0).collect();
            Ok((values, read_label_names(path)?))
        })
        .collect();
    let mut values = BTreeSet::new();
    let mut names: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let mut first_error = None;
    for (path, found) in maps.into_iter().zip(scanned) {
        match found {
            Ok((found, held)) => {
                values.extend(found);
                for (value, name) in held {
                    names.entry(value).or_default().insert(name);
                }
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
        if values.len() > MAX_STRUCTURES {
            return Err(Error::file(
                path,
                format!(
                    "the label maps up to this one hold {} different values; expected a few \
                     structures: check that these are label maps, or list the structures in a \
                     descriptor",
                    values.len()
                ),
            ));
        }
    }
    match (values.is_empty(), first_error) {
        (true, Some(error)) => Err(error),
        (true, None) => Err(Error::file(
            root,
            "no label map holds any structure; expected values above 0, or structures listed in a \
             descriptor",
        )),
        _ => Ok(named(&values, &names)),
    }
}

/// Structures of the values, each with its stored name if that is unambiguous.
fn named(values: &BTreeSet<u16>, names: &BTreeMap<u16, BTreeSet<String>>) -> Vec<Structure> {
    let only = |value: &u16| {
        let held = names.get(value).filter(|held| held.len() == 1)?;
        let name = held.first()?;
        let is_shared = values
            .iter()
            .filter(|other| *other != value)
            .any(|other| names.get(other).is_some_and(|held| held.contains(name)));
        (!is_shared).then(|| name.clone())
    };
    values
        .iter()
        .map(|value| Structure {
            value: *value,
            name: only(value).unwrap_or_else(|| format!("structure_{value}")),
        })
        .collect()
}

/// Reads binary masks one by one into one label map; where they overlap, the later one wins.
pub(super) fn merge_masks(
    files: &[(u16, PathBuf)],
    copies: &Copies,
    reading: &Reading,
) -> Result<LabelMap> {
    let mut merged: Option<LabelMap> = None;
    for (value, path) in files {
        let (_, mask) = copies.read(path, read_label_map)?;
        let labels = merged.get_or_insert_with(|| LabelMap::empty(mask.grid));
        let placed = reading
            .grid_tolerance
            .placed(mask, &labels.grid, "first mask");
        let (mask, _) = placed.map_err(|problem| Error::file(path, problem))?;
        labels.overlay(&mask, *value);
    }
    merged
        .ok_or_else(|| Error::invalid("a case has no masks; expected one mask file per structure"))
}

/// Sorts structures by value; fails on duplicate, empty or zero values and names.
pub(super) fn sorted(
    mut structures: Vec<Structure>,
) -> std::result::Result<Vec<Structure>, String> {
    structures.sort_by(|a, b| a.value.cmp(&b.value).then_with(|| a.name.cmp(&b.name)));
    for pair in structures.windows(2) {
        if pair[0].value == pair[1].value {
            return Err(format!(
                "structures '{}' and '{}' both have the value {}; every structure needs its own",
                pair[0].name, pair[1].name, pair[0].value
            ));
        }
    }
    let mut names = BTreeSet::new();
    for structure in &structures {
        if structure.name.trim().is_empty() {
            return Err(format!(
                "the structure of value {} has no name",
                structure.value
            ));
        }
        if structure.value == 0 {
            return Err(format!(
                "structure '{}' has the value 0, which is background; number structures from 1",
                structure.name
            ));
        }
        if !names.insert(structure.name.as_str()) {
            return Err(format!(
                "two structures are named '{}'; every structure needs its own name",
                structure.name
            ));
        }
    }
    Ok(structures)
}
