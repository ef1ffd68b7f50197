//! From stage 1's probabilities to the region of interest for stage 2.

use ndarray::{Array3, ArrayView3};
use rand::Rng;

use crate::recipe::{JitterConfig, OnBorder, RoiConfig};
use ctseg_base::{Error, Result};
use ctseg_image::labels::components::{Connectivity, keep_components};
use ctseg_image::space::{Grid, GridMap, LabelMap, VoxelBox};

/// A region of interest in a volume, and how it was obtained.
#[derive(Debug, Clone, PartialEq)]
pub struct Roi {
    /// In voxels of the RAS-ordered source grid.
    pub region: VoxelBox,
    /// Why the region is the whole volume instead of what stage 1 found.
    pub fallback: Option<String>,
    /// Whether the structures that stage 1 found touch the border of the scan.
    pub touches_border: bool,
}

/// Stage 1's probabilities of one case, quantised to 8 bits, which is precise enough for stage 2.
#[derive(Debug, Clone)]
pub struct Prior {
    pub grid: Grid,
    /// Probability · 255, shape (z, y, x).
    quantised: Array3<u8>,
}

impl Prior {
    /// From probabilities in [0, 1], shape (z, y, x) on `grid`.
    pub fn new(grid: Grid, probabilities: ArrayView3<f32>) -> Self {
        let quantised = probabilities.mapv(|p| (p.clamp(0.0, 1.0) * 255.0).round() as u8);
        Self { grid, quantised }
    }

    /// The stored probabilities: times 255 and rounded, shape (z, y, x).
    pub fn quantised(&self) -> ArrayView3<'_, u8> {
        self.quantised.view()
    }

    /// The probabilities, shape (z, y, x).
    pub fn probabilities(&self) -> Array3<f32> {
        self.quantised.mapv(|p| f32::from(p) / 255.0)
    }
}

/// Threshold, remove small components, take the bounding box, add the margin.
///
/// `source` is the volume's RAS-ordered grid; the prior's grid covers the same field of view. If nothing is found, the
/// region is the whole volume and [`Roi::fallback`] says so.
///
/// # Errors
/// Grids that are not parallel.
pub fn find_roi(prior: &Prior, source: &Grid, config: &RoiConfig) -> Result<Roi> {
    let whole = |reason: &str, touches_border| Roi {
        region: VoxelBox::whole(source.shape),
        fallback: Some(reason.to_owned()),
        touches_border,
    };
    let mut mask = prior
        .quantised
        .mapv(|p| f32::from(p) / 255.0 > config.threshold);
    keep_components(
        &mut mask,
        config.smallest_component,
        Connectivity::TwentySix,
    );
    let marked = LabelMap {
        grid: prior.grid,
        data: mask.mapv(u16::from),
    };
    let Some(found) = marked.bounding_box(|label| label > 0) else {
        return Ok(whole(
            "stage 1 found nothing; the whole volume was segmented",
            false,
        ));
    };
    let touches_border =
        (0..3).any(|axis| found.start[axis] == 0 || found.end[axis] == prior.grid.shape[axis]);
    if touches_border && config.on_border == OnBorder::Whole {
        return Ok(whole(
            "the region touches the end of the scan; the whole volume was segmented",
            true,
        ));
    }
    let region = map_box(&found, &prior.grid, source)?;
    let spacing = source.spacing_mm();
    let margin =
        std::array::from_fn(|axis| (config.margin_mm[axis] / spacing[axis]).ceil() as usize);
    Ok(Roi {
        region: region.grown(margin, source.shape),
        fallback: None,
        touches_border,
    })
}

/// Maps `region` from the grid `from` to the smallest box of the grid `onto` that covers it; the grids must be
/// parallel.
pub fn map_box(region: &VoxelBox, from: &Grid, onto: &Grid) -> Result<VoxelBox> {
    let map = map_between(from, onto)?;
    let mut mapped = VoxelBox {
        start: [0; 3],
        end: [0; 3],
    };
    for (axis, along) in map.iter().enumerate() {
        // Faces lie half a voxel outside the centres.
        let face = |index: usize| along.scale * (index as f64 - 0.5) + along.offset + 0.5;
        let (a, b) = (face(region.start[axis]), face(region.end[axis]));
        let limit = onto.shape[along.axis] as f64;
        mapped.start[along.axis] = (a.min(b) + 1e-6).floor().clamp(0.0, limit - 1.0) as usize;
        mapped.end[along.axis] = (a.max(b) - 1e-6).ceil().clamp(1.0, limit) as usize;
    }
    Ok(mapped)
}

/// The axes of `from` on those of `onto`; the grids must be parallel.
pub fn map_between(from: &Grid, onto: &Grid) -> Result<GridMap> {
    from.map_to(onto)
        .ok_or_else(|| Error::internal("the grids of region and volume are not parallel"))
}

/// The region with a random shift and a random change of each side, clipped to the volume.
pub fn jittered(
    region: &VoxelBox,
    source: &Grid,
    config: &JitterConfig,
    rng: &mut impl Rng,
) -> VoxelBox {
    /// In voxels: the smallest side that is useful as network input.
    const SMALLEST: usize = 8;
    let mut result = *region;
    for (axis, spacing_mm) in source.spacing_mm().into_iter().enumerate() {
        let mut draw = |range_mm: f64| rng.random_range(-1.0..=1.0) * range_mm / spacing_mm;
        let shift = draw(config.shift_mm);
        let (low, high) = (draw(config.grow_mm), draw(config.grow_mm));
        let limit = source.shape[axis];
        let start = (region.start[axis] as f64 + shift - low).round().max(0.0) as usize;
        let end = (region.end[axis] as f64 + shift + high).round().max(0.0) as usize;
        let end = end.clamp(SMALLEST.min(limit), limit);
        result.start[axis] = start.min(end.saturating_sub(SMALLEST));
        result.end[axis] = end;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn source() -> Grid {
        Grid::with_spacing([60, 50, 40], [2.0, 2.0, 3.0])
    }

    /// Independent of the defaults.
    fn settings() -> RoiConfig {
        RoiConfig {
            threshold: 0.3,
            margin_mm: [16.0; 3],
            ..RoiConfig::default()
        }
    }

    fn prior(mark: impl Fn(usize, usize, usize) -> f32) -> Prior {
        let grid = source().respaced([6.0; 3]); // 20 × 17 × 20
        let [z, y, x] = grid.shape_zyx();
        Prior::new(
            grid,
            Array3::from_shape_fn((z, y, x), |(z, y, x)| mark(z, y, x)).view(),
        )
    }

    #[test]
    fn the_region_covers_what_was_marked_plus_the_margin() {
        let config = RoiConfig {
            margin_mm: [4.0, 0.0, 6.0],
            ..settings()
        };
        let found = find_roi(
            &prior(|z, y, x| {
                if (5..8).contains(&z) && y == 4 && (10..12).contains(&x) {
                    0.9
                } else {
                    0.1
                }
            }),
            &source(),
            &config,
        )
        .unwrap();
        // x: coarse 10..12 are voxels 30..36, margin 2 voxels; y: 50/17 voxels per coarse one; z: 2 per coarse one.
        assert_eq!(
            found.region,
            VoxelBox {
                start: [28, 11, 8],
                end: [38, 15, 18]
            }
        );
        assert_eq!((found.fallback, found.touches_border), (None, false));
    }

    #[test]
    fn specks_do_not_widen_the_region() {
        let found = find_roi(
            &prior(|z, y, x| {
                f32::from(u8::from(
                    (5..12).contains(&z) && (5..12).contains(&y) && (5..12).contains(&x)
                        || (z, y, x) == (18, 15, 18),
                ))
            }),
            &source(),
            &settings(),
        )
        .unwrap();
        assert!(found.region.end[0] < 50, "{:?}", found.region);
    }

    #[test]
    fn nothing_found_is_the_whole_volume_and_says_so() {
        let found = find_roi(&prior(|_, _, _| 0.2), &source(), &settings()).unwrap();
        assert_eq!(found.region, VoxelBox::whole(source().shape));
        assert!(found.fallback.unwrap().contains("found nothing"));
    }

    #[test]
    fn a_region_at_the_end_of_the_scan_is_noted_or_widened() {
        let at_end = prior(|z, y, x| {
            f32::from(u8::from(
                z < 3 && (5..9).contains(&y) && (5..9).contains(&x),
            ))
        });
        let noted = find_roi(&at_end, &source(), &settings()).unwrap();
        assert!(noted.touches_border && noted.fallback.is_none());
        let config = RoiConfig {
            on_border: OnBorder::Whole,
            ..settings()
        };
        let widened = find_roi(&at_end, &source(), &config).unwrap();
        assert_eq!(widened.region, VoxelBox::whole(source().shape));
        assert!(widened.fallback.unwrap().contains("end of the scan"));
    }

    #[test]
    fn boxes_follow_flipped_and_permuted_axes() {
        let grid = source();
        let turned = grid.reoriented("PSL".parse().unwrap());
        let region = VoxelBox {
            start: [1, 2, 3],
            end: [10, 20, 30],
        };
        let there = map_box(&region, &grid, &turned).unwrap();
        assert_eq!(
            there,
            VoxelBox {
                start: [30, 3, 50],
                end: [48, 30, 59]
            }
        );
        assert_eq!(map_box(&there, &turned, &grid).unwrap(), region);
    }

    proptest! {
        #[test]
        fn jitter_stays_inside_and_large_enough(seed in 0u64..500, shift in 0.0f64..60.0, grow in 0.0f64..60.0) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let region = VoxelBox { start: [10, 20, 5], end: [30, 45, 20] };
            let moved = jittered(&region, &source(), &JitterConfig { shift_mm: shift, grow_mm: grow, drop_prior: 0.0 }, &mut rng);
            for axis in 0..3 {
                prop_assert!(moved.end[axis] <= source().shape[axis]);
                prop_assert!(moved.end[axis] - moved.start[axis] >= 8);
            }
        }
    }
}
