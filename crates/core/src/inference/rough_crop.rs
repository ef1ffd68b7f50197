//! Where the structures are, as a rough model says.

use std::collections::BTreeSet;

use crate::dataset::Structure;
use crate::model::multi_part_manifest::RoughManifest;
use ctseg_base::text::words::listed;
use ctseg_image::labels::postprocess::boxes;
use ctseg_image::space::{LabelMap, VoxelBox};

/// Says where structures are from a rough model's label maps.
pub(super) struct Compass {
    margin_mm: f64,
    /// Each structure with the rough model's labels that show it; empty where none does.
    shown: Vec<(String, Vec<u16>)>,
}

/// Where to look.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Region {
    /// In voxels of the source file.
    pub(super) region: VoxelBox,
    pub(super) notes: Vec<String>,
}

impl Compass {
    /// For these structures, by a rough model that marks `known` ones.
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

    /// The box around all that shows one of the structures, with the margin (whole voxels, rounded down, as
    /// TotalSegmentator's `crop_to_mask`) and within the volume. Where nothing does, or a structure is wanted that the
    /// rough model does not know, the whole volume.
    pub(super) fn region(&self, rough: &LabelMap) -> Region {
        let whole = |note: String| Region {
            region: VoxelBox::whole(rough.grid.shape),
            notes: vec![format!("{note}; the whole volume was segmented")],
        };
        let unknown = self.names(|labels| labels.is_empty());
        if !unknown.is_empty() {
            return whole(format!(
                "the rough model does not know where to look for {}",
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
        let found = boxes(rough, &labels);
        let is_there = |label: &u16| {
            let place = labels.binary_search(label);
            place.is_ok_and(|place| found[place].is_some())
        };
        let missing = self.names(|own| !own.iter().any(is_there));
        let union = found.iter().flatten().copied();
        let Some(union) = union.reduce(|one, other| one.joined(&other)) else {
            return whole(format!(
                "the rough model found nothing of {}",
                listed(&missing)
            ));
        };
        let spacing = rough.grid.spacing_mm();
        let margin = spacing.map(|mm| (self.margin_mm / mm) as usize);
        let note = format!(
            "the rough model found nothing of {}; looked for where it found the others",
            listed(&missing)
        );
        Region {
            region: union.grown(margin, rough.grid.shape),
            notes: (!missing.is_empty()).then_some(note).into_iter().collect(),
        }
    }

    /// The structures of whose labels something holds.
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

    fn compass(wanted: &[&str], margin_mm: f64) -> Compass {
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
        Compass::new(&rough, &wanted, &known)
    }

    /// A liver of 3 × 2 × 2 voxels of 2 × 3 × 5 mm from (4, 5, 6) on, and a heart of one voxel at the end.
    fn rough() -> LabelMap {
        let mut map = LabelMap::empty(Grid::with_spacing([20, 20, 20], [2.0, 3.0, 5.0]));
        map.data.slice_mut(ndarray::s![6..8, 5..7, 4..7]).fill(1);
        map.data[[19, 10, 10]] = 3;
        map
    }

    #[test]
    fn the_box_has_its_margin_in_whole_voxels_and_ends_with_the_volume() {
        let found = compass(&["liver"], 9.9).region(&rough());
        let expected = VoxelBox {
            start: [0, 2, 5],
            end: [11, 10, 9],
        };
        assert_eq!((found.region, found.notes.len()), (expected, 0));
        let found = compass(&["liver", "valves"], 0.0).region(&rough());
        let expected = VoxelBox {
            start: [4, 5, 6],
            end: [11, 11, 20],
        };
        assert_eq!((found.region, found.notes.len()), (expected, 0));
    }

    #[test]
    fn what_is_not_found_is_said_and_nothing_at_all_is_the_whole_volume() {
        let some = compass(&["liver", "spleen"], 0.0).region(&rough());
        assert_eq!(some.region.start, [4, 5, 6]);
        assert!(some.notes[0].contains("nothing of spleen"), "{some:?}");
        for wanted in [&["spleen"][..], &["liver", "lung"]] {
            let found = compass(wanted, 5.0).region(&rough());
            assert_eq!(found.region, VoxelBox::whole([20; 3]));
            let name = wanted.last().unwrap();
            assert!(
                found.notes[0].contains(name) && found.notes[0].contains("whole volume"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..30).map(|n| format!("rib_{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(listed(&names).ends_with("rib_7 and 22 more"));
    }
}
