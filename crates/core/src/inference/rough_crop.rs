//! The region that contains the structures, from a rough model's label map.

use std::collections::BTreeSet;

use crate::dataset::Structure;
use crate::model::multi_part_manifest::RoughManifest;
use ctseg_base::text::words::listed;
use ctseg_image::labels::postprocess::bounding_boxes;
use ctseg_image::space::{LabelMap, VoxelBox};

/// Finds the region of structures in a rough model's label maps.
pub(super) struct RoughCrop {
    margin_mm: f64,
    /// Each structure with the rough model's labels that stand for it; empty if there are none.
    shown: Vec<(String, Vec<u16>)>,
}

/// The region to segment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Region {
    /// In voxels of the source file.
    pub(super) region: VoxelBox,
    pub(super) notes: Vec<String>,
}

impl RoughCrop {
    /// For the structures `wanted`; the rough model segments `known`.
    pub(super) fn new(
        rough: &RoughManifest,
        wanted: &BTreeSet<String>,
        known: &[Structure],
    ) -> Self {
        let value = |name: &String| known.iter().find(|own| own.name == *name).map(|s| s.value);
        let shown = wanted.iter().map(|name| {
            let labels = rough.shows(name).iter().filter_map(value).collect();
            (name.clone(), labels)
        });
        Self {
            margin_mm: rough.margin_mm,
            shown: shown.collect(),
        }
    }

    /// The bounding box of the structures, with the margin (whole voxels, rounded down, as in TotalSegmentator's
    /// `crop_to_mask`), clipped to the volume. The whole volume if nothing is found, or if a structure is wanted that
    /// the rough model does not have.
    pub(super) fn region(&self, rough: &LabelMap) -> Region {
        let whole = |note: String| Region {
            region: VoxelBox::whole(rough.grid.shape),
            notes: vec![format!("{note}; the whole volume was segmented")],
        };
        let unknown = self.names(|labels| labels.is_empty());
        if !unknown.is_empty() {
            return whole(format!(
                "the rough model cannot locate {}",
                listed(&unknown)
            ));
        }
        let labels: BTreeSet<u16> = self
            .shown
            .iter()
            .flat_map(|(_, own)| own)
            .copied()
            .collect();
        let labels: Vec<u16> = labels.into_iter().collect();
        let found = bounding_boxes(rough, &labels);
        let is_there = |label: &u16| {
            let place = labels.binary_search(label);
            place.is_ok_and(|place| found[place].is_some())
        };
        let missing = self.names(|own| !own.iter().any(is_there));
        let union = found.iter().flatten().copied();
        let Some(union) = union.reduce(|one, other| one.union(&other)) else {
            return whole(format!("the rough model did not find {}", listed(&missing)));
        };
        let spacing = rough.grid.spacing_mm();
        let margin = spacing.map(|mm| (self.margin_mm / mm) as usize);
        let note = format!(
            "the rough model did not find {}; only the region of the other structures was segmented",
            listed(&missing)
        );
        Region {
            region: union.grown(margin, rough.grid.shape),
            notes: (!missing.is_empty()).then_some(note).into_iter().collect(),
        }
    }

    /// The structures whose labels satisfy `holds`.
    fn names(&self, holds: impl Fn(&[u16]) -> bool) -> Vec<&str> {
        let those = self.shown.iter().filter(|(_, labels)| holds(labels));
        those.map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::multi_part_manifest::When;
    use ctseg_image::space::Grid;

    fn rough_crop(wanted: &[&str], margin_mm: f64) -> RoughCrop {
        let known = [(1, "liver"), (2, "spleen"), (3, "heart")];
        let known = known.map(|(value, name)| Structure {
            value,
            name: name.to_owned(),
        });
        let stands_for = [
            ("liver", vec!["liver"]),
            ("spleen", vec!["spleen"]),
            ("valves", vec!["heart", "spleen"]),
        ];
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let stands_for: BTreeMap<String, Vec<String>> = stands_for
            .into_iter()
            .map(|(name, by)| (name.to_owned(), owned(by)))
            .collect();
        let rough = RoughManifest {
            folder: "rough".to_owned(),
            sha256: String::new(),
            when: When::Chosen,
            margin_mm,
            stands_for,
        };
        let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
        RoughCrop::new(&rough, &wanted, &known)
    }

    /// A liver of 3 × 2 × 2 voxels of 2 × 3 × 5 mm from (4, 5, 6) on, and a heart of one voxel at the end.
    fn rough() -> LabelMap {
        let mut map = LabelMap::empty(Grid::with_spacing([20, 20, 20], [2.0, 3.0, 5.0]));
        map.data.slice_mut(ndarray::s![6..8, 5..7, 4..7]).fill(1);
        map.data[[19, 10, 10]] = 3;
        map
    }

    #[test]
    fn the_margin_is_in_whole_voxels_and_clipped_to_the_volume() {
        let found = rough_crop(&["liver"], 9.9).region(&rough());
        let expected = VoxelBox {
            start: [0, 2, 5],
            end: [11, 10, 9],
        };
        assert_eq!((found.region, found.notes.len()), (expected, 0));
        let found = rough_crop(&["liver", "valves"], 0.0).region(&rough());
        let expected = VoxelBox {
            start: [4, 5, 6],
            end: [11, 11, 20],
        };
        assert_eq!((found.region, found.notes.len()), (expected, 0));
    }

    #[test]
    fn missing_structures_are_noted_and_an_empty_map_gives_the_whole_volume() {
        let some = rough_crop(&["liver", "spleen"], 0.0).region(&rough());
        assert_eq!(some.region.start, [4, 5, 6]);
        assert!(some.notes[0].contains("did not find spleen"), "{some:?}");
        for wanted in [&["spleen"][..], &["liver", "lung"]] {
            let found = rough_crop(wanted, 5.0).region(&rough());
            assert_eq!(found.region, VoxelBox::whole([20; 3]));
            let name = wanted.last().unwrap();
            assert!(
                found.notes[0].contains(name) && found.notes[0].contains("whole volume"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn long_lists_are_shortened() {
        let names: Vec<String> = (0..30).map(|n| format!("rib_{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(listed(&names).ends_with("rib_7 and 22 more"));
    }
}
