//! `ctseg inspect` of a label map: its labels and their volumes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use ctseg_base::text::table::table;
use ctseg_image::formats::{LabelNames, VolumeImage};
use ctseg_image::space::Volume;

/// Voxels of each label from 1, if the volume is a label map: it has label names, or whole numbers from 0 to 65535 in
/// regions of equal value, unlike a scan.
pub fn labels_of(image: &VolumeImage, names: &LabelNames) -> Option<BTreeMap<u16, u64>> {
    let Volume { data, .. } = &image.volume;
    let mut voxels = vec![0u64; usize::from(u16::MAX) + 1];
    for value in data {
        let label = *value as u16;
        if f32::from(label) != *value {
            return None;
        }
        voxels[usize::from(label)] += 1;
    }
    let labels: BTreeMap<u16, u64> = (0..=u16::MAX)
        .zip(voxels)
        .filter(|(label, voxels)| *label > 0 && *voxels > 0)
        .collect();
    let inside: u64 = labels.values().sum();
    let has_background = inside < data.len() as u64;
    let is_map = match labels.len() {
        _ if !names.is_empty() => true,
        // Empty; a signed type might also be a broken scan.
        0 => image.header.voxel_type.name().starts_with('u'),
        1 => has_background,
        _ => has_background && is_in_regions(&image.volume),
    };
    is_map.then_some(labels)
}

/// Smallest share of equal neighbours in a label map; in scans nearly all neighbours differ.
const MIN_EQUAL: f64 = 0.8;

/// The same for a single label, which may be a thin structure.
const MIN_EQUAL_OF_LABEL: f64 = 0.5;

/// Whether most pairs of nonzero neighbours along x are equal, and so for most labels: the air of a scan may be one
/// large region.
fn is_in_regions(volume: &Volume) -> bool {
    // For each label: pairs of neighbours, and equal pairs.
    let mut pairs = vec![(0u64, 0u64); usize::from(u16::MAX) + 1];
    for row in volume.data.rows() {
        for (a, b) in row.iter().zip(row.iter().skip(1)) {
            if *a != 0.0 && *b != 0.0 {
                let (all, equal) = &mut pairs[usize::from(*a as u16)];
                *all += 1;
                *equal += u64::from(a == b);
            }
        }
    }
    pairs.retain(|(all, _)| *all > 0);
    let all: u64 = pairs.iter().map(|(all, _)| all).sum();
    let equal: u64 = pairs.iter().map(|(_, equal)| equal).sum();
    let is_region = |(all, equal): &(u64, u64)| *equal as f64 >= MIN_EQUAL_OF_LABEL * *all as f64;
    let regions = pairs.iter().filter(|pair| is_region(pair)).count();
    equal as f64 >= MIN_EQUAL * all as f64 && 2 * regions >= pairs.len()
}

/// The labels as a table, including named labels that do not occur.
pub fn described(
    labels: &BTreeMap<u16, u64>,
    names: &LabelNames,
    voxel_ml: f64,
) -> (String, Vec<Value>) {
    let all = labels.keys().chain(names.keys());
    let all: BTreeSet<u16> = all.copied().collect();
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for label in all {
        let voxels = labels.get(&label).copied().unwrap_or(0);
        let volume_ml = voxels as f64 * voxel_ml;
        let name = names.get(&label);
        rows.push(vec![
            name.cloned().unwrap_or_else(|| "–".to_owned()),
            label.to_string(),
            voxels.to_string(),
            format!("{volume_ml:.2}"),
        ]);
        values
            .push(json!({"label": label, "name": name, "voxels": voxels, "volume_ml": volume_ml}));
    }
    let text = match rows.is_empty() {
        true => "  label map    empty, all voxels are 0\n".to_owned(),
        false => table(&["structure", "label", "voxels", "mL"], &rows),
    };
    (text, values)
}
