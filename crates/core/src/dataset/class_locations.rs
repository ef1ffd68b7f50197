//! Index of the voxels of each structure in a case, for fast random sampling (nnU-Net's `class_locations`).

use std::collections::BTreeMap;

use ndarray::{Array3, ArrayView1, Axis};
use rand::Rng;

/// Maximum runs per structure (1 MiB); beyond it only every second, fourth … run is kept.
const MAX_RUNS: usize = 1 << 16;

/// The voxels of each structure of a label map as runs along x, in a small part of the label map's
/// memory.
pub struct StructureIndex {
    /// Sorted by label value.
    structures: Vec<Positions>,
    /// Annotated voxels (background included), if there is an ignore label.
    annotated: Option<Positions>,
    /// Rows of a slice.
    height: usize,
}

#[derive(Default)]
struct Positions {
    /// In order of rows and slices.
    runs: Vec<Run>,
    /// Only every N-th run is kept.
    stride: usize,
    seen: usize,
    /// Voxels in all kept runs.
    voxels: usize,
    /// Slices with the structure, ascending.
    slices: Vec<usize>,
}

struct Run {
    /// Row number, counted over all slices.
    row: usize,
    first: u32,
    length: u32,
    /// Voxels in the runs before it.
    before: usize,
}

impl Positions {
    fn add(&mut self, [z, row]: [usize; 2], first: usize, length: usize) {
        if self.slices.last() != Some(&z) {
            self.slices.push(z);
        }
        let stride = self.stride.max(1);
        if self.seen.is_multiple_of(stride) {
            self.runs.push(Run {
                row,
                first: first as u32,
                length: length as u32,
                before: 0,
            });
        }
        self.seen += 1;
        if self.runs.len() > MAX_RUNS {
            self.stride = 2 * stride;
            let mut index = 0;
            self.runs.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    fn with_offsets(mut self) -> Self {
        for run in &mut self.runs {
            run.before = self.voxels;
            self.voxels += run.length as usize;
        }
        self
    }

    /// A random voxel (row over all slices, x) of the kept runs `from..to`.
    fn voxel(&self, from: usize, to: usize, rng: &mut impl Rng) -> Option<(usize, usize)> {
        let begin = self.runs.get(from)?.before;
        let end = self.runs.get(to).map_or(self.voxels, |run| run.before);
        if begin >= end {
            return None;
        }
        let drawn = rng.random_range(begin..end);
        let index = self.runs.partition_point(|run| run.before <= drawn) - 1;
        let run = &self.runs[index];
        Some((run.row, run.first as usize + drawn - run.before))
    }
}

impl StructureIndex {
    /// Index of a label map (z, y, x); 0 is background, `ignore` the ignore label.
    pub fn new(labels: &Array3<u16>, ignore: Option<u16>) -> Self {
        let (_, height, _) = labels.dim();
        let mut structures: BTreeMap<u16, Positions> = BTreeMap::new();
        let mut annotated = ignore.map(|_| Positions::default());
        for (z, plane) in labels.outer_iter().enumerate() {
            for (y, row) in plane.axis_iter(Axis(0)).enumerate() {
                for_each_run(row, |label, first, length| {
                    let mut add = |positions: &mut Positions| {
                        positions.add([z, z * height + y], first, length);
                    };
                    if Some(label) == ignore {
                        return;
                    }
                    annotated.iter_mut().for_each(&mut add);
                    if label > 0 {
                        add(structures.entry(label).or_default());
                    }
                });
            }
        }
        let structures = structures
            .into_values()
            .map(Positions::with_offsets)
            .collect();
        Self {
            structures,
            annotated: annotated.map(Positions::with_offsets),
            height,
        }
    }

    /// Whether a slice has annotated voxels.
    pub fn is_annotated(&self, z: usize) -> bool {
        let annotated = self.annotated.as_ref();
        annotated.is_none_or(|annotated| annotated.slices.binary_search(&z).is_ok())
    }

    /// A random annotated voxel (z, y, x); none without an ignore label.
    pub fn annotated_voxel(&self, rng: &mut impl Rng) -> Option<[usize; 3]> {
        let annotated = self.annotated.as_ref()?;
        self.voxel_of(annotated, rng)
    }

    /// A random annotated pixel (y, x) of a slice; none without an ignore label.
    pub fn annotated_pixel(&self, z: usize, rng: &mut impl Rng) -> Option<[usize; 2]> {
        self.pixel_of(self.annotated.as_ref()?, z, rng)
    }

    /// Whether a slice has any structure.
    pub fn has_structure(&self, z: usize) -> bool {
        let mut structures = self.structures.iter();
        structures.any(|structure| structure.slices.binary_search(&z).is_ok())
    }

    /// A random voxel (z, y, x) of a random structure, structures equally likely; none without structures.
    pub fn voxel(&self, rng: &mut impl Rng) -> Option<[usize; 3]> {
        self.voxel_of(one_of(&self.structures, rng)?, rng)
    }

    fn voxel_of(&self, positions: &Positions, rng: &mut impl Rng) -> Option<[usize; 3]> {
        let (row, x) = positions.voxel(0, positions.runs.len(), rng)?;
        Some([row / self.height, row % self.height, x])
    }

    /// A random voxel (z, y, x) of a random slice of a random structure, structures and their slices
    /// equally likely; none without structures.
    pub fn voxel_of_a_slice(&self, rng: &mut impl Rng) -> Option<[usize; 3]> {
        let structure = one_of(&self.structures, rng)?;
        let z = *one_of(&structure.slices, rng)?;
        let [y, x] = self.pixel_of(structure, z, rng)?;
        Some([z, y, x])
    }

    /// A random pixel (y, x) of a random structure of a slice, structures equally likely; none without structures.
    pub fn pixel(&self, z: usize, rng: &mut impl Rng) -> Option<[usize; 2]> {
        let structures = self.structures.iter();
        let present: Vec<&Positions> = structures
            .filter(|structure| structure.slices.binary_search(&z).is_ok())
            .collect();
        self.pixel_of(one_of(&present, rng)?, z, rng)
    }

    fn pixel_of(&self, structure: &Positions, z: usize, rng: &mut impl Rng) -> Option<[usize; 2]> {
        let before = |row: usize| structure.runs.partition_point(|run| run.row < row);
        let (from, to) = (before(z * self.height), before((z + 1) * self.height));
        if from == to {
            return None;
        }
        let (row, x) = structure.voxel(from, to, rng)?;
        Some([row % self.height, x])
    }
}

/// Calls `on_run` with each run of one label in a row: label, start and length.
fn for_each_run(row: ArrayView1<u16>, mut on_run: impl FnMut(u16, usize, usize)) {
    let mut first = 0;
    while first < row.len() {
        let label = row[first];
        let run = row.iter().skip(first);
        let length = run.take_while(|other| **other == label).count();
        on_run(label, first, length);
        first += length;
    }
}

fn one_of<'a, T>(all: &'a [T], rng: &mut impl Rng) -> Option<&'a T> {
    (!all.is_empty()).then(|| &all[rng.random_range(0..all.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A block of 1000 voxels, one of 8, and a line through all slices.
    fn labels() -> Array3<u16> {
        Array3::from_shape_fn((20, 24, 28), |(z, y, x)| match (z, y, x) {
            (z, y, x) if z < 10 && y < 10 && x < 10 => 3,
            (12..=13, 20..=21, 20..=21) => 300,
            (_, 15, 27) => 7,
            _ => 0,
        })
    }

    fn shares(draws: usize, draw: impl Fn(&mut ChaCha8Rng) -> u16) -> BTreeMap<u16, f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = BTreeMap::new();
        for _ in 0..draws {
            *counts.entry(draw(&mut rng)).or_insert(0.0) += 1.0 / draws as f64;
        }
        counts
    }

    #[test]
    fn structures_and_their_voxels_are_drawn_uniformly() {
        let labels = labels();
        let index = StructureIndex::new(&labels, None);
        let of = |at: Option<[usize; 3]>| labels[at.unwrap()];
        for draw in [
            shares(9000, |rng| of(index.voxel(rng))),
            shares(9000, |rng| of(index.voxel_of_a_slice(rng))),
        ] {
            assert_eq!(draw.keys().copied().collect::<Vec<_>>(), [3, 7, 300]);
            assert!(
                draw.values().all(|v| (v - 1.0 / 3.0).abs() < 0.025),
                "{draw:?}"
            );
        }
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut seen = Array3::<u32>::zeros(labels.dim());
        (0..60_000).for_each(|_| seen[index.voxel(&mut rng).unwrap()] += 1);
        for ((at, count), label) in seen.indexed_iter().zip(&labels) {
            // 20 expected of the block's voxels, 2500 and 1000 of the others.
            let expected = match label {
                3 => 2..50,
                300 => 2200..2800,
                7 => 850..1150,
                _ => 0..1,
            };
            assert!(expected.contains(count), "{at:?} {count}");
        }
    }

    #[test]
    fn slices_are_indexed() {
        let labels = labels();
        let index = StructureIndex::new(&labels, None);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for z in 0..20 {
            assert!(index.has_structure(z));
            let [y, x] = index.pixel(z, &mut rng).unwrap();
            assert!(labels[[z, y, x]] > 0);
        }
        let in_slice = shares(4000, |rng| {
            let [y, x] = index.pixel(12, rng).unwrap();
            labels[[12, y, x]]
        });
        assert!((in_slice[&7] - 0.5).abs() < 0.04 && (in_slice[&300] - 0.5).abs() < 0.04);
        let empty = StructureIndex::new(&Array3::zeros((3, 4, 5)), None);
        assert!(!empty.has_structure(1));
        assert_eq!(empty.voxel(&mut rng), None);
        assert_eq!(empty.voxel_of_a_slice(&mut rng), None);
        assert_eq!(empty.pixel(1, &mut rng), None);
    }

    #[test]
    fn ignored_voxels_are_never_drawn() {
        let mut labels = labels();
        labels.slice_mut(ndarray::s![..5, .., ..]).fill(9);
        labels.slice_mut(ndarray::s![5.., ..12, ..]).fill(9);
        let index = StructureIndex::new(&labels, Some(9));
        assert_eq!(index.structures.len(), 2, "the block's slices are ignored");
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..500 {
            let [z, y, _] = index.annotated_voxel(&mut rng).unwrap();
            assert!(z >= 5 && y >= 12);
            assert!(index.annotated_pixel(7, &mut rng).unwrap()[0] >= 12);
        }
        assert!(!index.is_annotated(4) && index.is_annotated(5));
        assert_eq!(index.annotated_pixel(4, &mut rng), None);
        let all = StructureIndex::new(&labels, None);
        assert!(all.is_annotated(4) && all.annotated_voxel(&mut rng).is_none());
    }

    #[test]
    fn scattered_voxels_are_thinned_evenly() {
        let labels = Array3::from_shape_fn((40, 80, 100), |(_, y, x)| ((x + y) % 2) as u16);
        let index = StructureIndex::new(&labels, None);
        let kept = index.structures[0].runs.len();
        assert!(kept <= MAX_RUNS && 2 * kept > MAX_RUNS, "{kept}");
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let low = (0..4000)
            .filter(|_| {
                let at = index.voxel(&mut rng).unwrap();
                assert_eq!(labels[at], 1);
                at[0] < 20
            })
            .count();
        assert!(
            (1840..2160).contains(&low),
            "{low} of 4000 in the lower half"
        );
    }
}
