//! A volume and its label map for display: in anatomical order, cropped to the patient, as planes or projection.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayView3, Axis, Zip, s};

use super::Picture;
use ctseg_image::space::{Grid, label_colour};

/// Voxels above this are tissue (or the table).
const TISSUE_HU: f32 = -300.0;
/// A plane with more than this fraction of tissue belongs to the patient.
const TISSUE_SHARE: f64 = 0.005;

/// Margin of air around the patient.
const MARGIN_MM: f64 = 10.0;

/// A view of the voxels in the order (superior, anterior, right), all increasing, without copying.
pub(crate) fn in_ras<'a, T>(data: ArrayView3<'a, T>, grid: &Grid) -> ArrayView3<'a, T> {
    let own = grid.orientation();
    // The array's axis that runs along a world axis; arrays are (z, y, x).
    let along = |world: usize| {
        2 - own
            .axes
            .iter()
            .position(|axis| *axis == world)
            .unwrap_or(world)
    };
    let mut view = data.permuted_axes([along(2), along(1), along(0)]);
    for (axis, world) in own.axes.iter().enumerate() {
        if own.flipped[axis] {
            view.invert_axis(Axis(2 - world));
        }
    }
    view
}

/// Voxel sizes along right, anterior, superior.
pub(crate) fn spacing_in_ras(grid: &Grid) -> [f64; 3] {
    let own = grid.orientation();
    let mut mm = [1.0; 3];
    for (axis, world) in own.axes.iter().enumerate() {
        mm[*world] = grid.spacing_mm()[axis];
    }
    mm
}

/// The ranges (superior, anterior, right) of planes with the patient or a structure, plus a margin; all planes if there
/// are none.
pub(crate) fn body(
    image: ArrayView3<f32>,
    label_counts: &LabelCounts,
    mm: [f64; 3],
) -> [Range<usize>; 3] {
    let (s, a, r) = image.dim();
    // A subset of the voxels is enough to find the patient's extent.
    let step = (s.max(a).max(r) / 256).max(1);
    let sampled = image.slice(s![..;step, ..;step, ..;step]);
    std::array::from_fn(|axis| {
        let world = 2 - axis;
        let has_tissue = |plane: ArrayView2<f32>| {
            let tissue = plane.iter().filter(|hu| **hu > TISSUE_HU).count();
            tissue as f64 > TISSUE_SHARE * plane.len() as f64
        };
        let tissue = sampled.axis_iter(Axis(axis)).enumerate();
        let tissue = tissue.filter(|(_, plane)| has_tissue(*plane));
        let labelled = label_counts.per_plane[world].rows().into_iter().enumerate();
        let labelled = labelled.filter(|(_, counts)| counts.iter().any(|n| *n > 0));
        let planes = tissue.map(|(at, _)| at * step);
        let (first, last) = planes
            .chain(labelled.map(|(at, _)| at))
            .fold((usize::MAX, 0), |(first, last), at| {
                (first.min(at), last.max(at))
            });
        let all = [s, a, r][axis];
        let margin = (MARGIN_MM / mm[world]).ceil() as usize;
        match first {
            usize::MAX => 0..all,
            first => first.saturating_sub(margin)..(last + step + margin).min(all),
        }
    })
}

/// Number of voxels of each label in every plane.
pub(crate) struct LabelCounts {
    /// Labels that occur, ascending.
    labels: Vec<u16>,
    /// Voxels per plane perpendicular to right, anterior and superior; indexed by (plane, label).
    per_plane: [Array2<u32>; 3],
}

impl LabelCounts {
    pub(crate) fn of(map: ArrayView3<u16>) -> Self {
        let mut slot_of = vec![usize::MAX; usize::from(u16::MAX) + 1];
        map.iter()
            .for_each(|label| slot_of[usize::from(*label)] = 0);
        let labels: Vec<u16> = (1..=u16::MAX)
            .filter(|label| slot_of[usize::from(*label)] == 0)
            .collect();
        for (slot, label) in labels.iter().enumerate() {
            slot_of[usize::from(*label)] = slot;
        }
        let (s, a, r) = map.dim();
        let mut per_plane = [r, a, s].map(|planes| Array2::zeros((planes, labels.len())));
        for ((z, y, x), label) in map.indexed_iter().filter(|(_, label)| **label > 0) {
            for (planes, at) in per_plane.iter_mut().zip([x, y, z]) {
                planes[[at, slot_of[usize::from(*label)]]] += 1;
            }
        }
        Self { labels, per_plane }
    }

    /// For each axis, the plane that shows the most structures well: the largest sum of square roots of areas. The
    /// central plane if there is no structure.
    pub(super) fn best_planes(&self) -> [usize; 3] {
        std::array::from_fn(|axis| {
            let planes = &self.per_plane[axis];
            let mut best = (planes.nrows() / 2, 0.0);
            for (at, counts) in planes.rows().into_iter().enumerate() {
                let score: f64 = counts.iter().map(|n| f64::from(*n).sqrt()).sum();
                best = if score > best.1 { (at, score) } else { best };
            }
            best.0
        })
    }

    pub(super) fn voxels(&self) -> BTreeMap<u16, u64> {
        let counts = self.per_plane[2].columns().into_iter();
        let counts = counts.map(|planes| planes.iter().map(|n| u64::from(*n)).sum());
        self.labels.iter().copied().zip(counts).collect()
    }
}

/// Projection from front to back: the first structure and the maximum intensity at each (superior, right).
pub(super) fn frontal_projection(
    image: ArrayView3<f32>,
    map: ArrayView3<u16>,
) -> (Array2<u16>, Array2<f32>) {
    let (s, _, r) = image.dim();
    let mut nearest = Array2::zeros((s, r));
    let mut brightest = Array2::from_elem((s, r), f32::NEG_INFINITY);
    Zip::from(nearest.rows_mut())
        .and(brightest.rows_mut())
        .and(image.axis_iter(Axis(0)))
        .and(map.axis_iter(Axis(0)))
        .par_for_each(|mut nearest, mut brightest, image, map| {
            let lines = image.rows().into_iter().zip(map.rows());
            for (values, labels) in lines.rev() {
                Zip::from(&mut brightest)
                    .and(&values)
                    .for_each(|most, value| {
                        *most = if value.is_finite() {
                            most.max(*value)
                        } else {
                            *most
                        };
                    });
                Zip::from(&mut nearest)
                    .and(&labels)
                    .for_each(|first, label| {
                        *first = if *first == 0 { *label } else { *first };
                    });
            }
        });
    (nearest, brightest)
}

/// A plane to draw; the first row is shown at the bottom, the first column on the right.
pub(super) struct Panel<'a> {
    pub(super) image: ArrayView2<'a, f32>,
    pub(super) map: ArrayView2<'a, u16>,
    /// Hounsfield units of black and white.
    pub(super) hu: [f32; 2],
    /// Opacity of a structure's colour.
    pub(super) opacity: f32,
}

impl Panel<'_> {
    /// Draws the plane with `scale` pixels per mm; `mm` is the voxel size along rows and columns.
    pub(super) fn drawn(&self, mm: [f64; 2], scale: f64) -> Picture {
        let (rows, columns) = self.image.dim();
        let pixels = |n: usize, mm: f64| ((n as f64 * mm * scale).round() as usize).max(1);
        let (height, width) = (pixels(rows, mm[0]), pixels(columns, mm[1]));
        // Voxel coordinates of pixel centres; pixels count from the top left.
        let row = |y: f64| rows as f64 - 0.5 - (y + 0.5) / height as f64 * rows as f64;
        let column = |x: f64| columns as f64 - 0.5 - (x + 0.5) / width as f64 * columns as f64;
        let nearest = |at: f64, n: usize| (at.round().max(0.0) as usize).min(n - 1);
        let label = |x: f64, y: f64| {
            let at = [nearest(row(y), rows), nearest(column(x), columns)];
            self.map[at]
        };
        Picture::from_fn(width, height, |x, y| {
            let (x, y) = (x as f64, y as f64);
            let grey = self.grey(row(y), column(x));
            let own = label(x, y);
            if own == 0 {
                return [grey; 3];
            }
            let is_edge = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
                .iter()
                .any(|(dx, dy)| label(x + dx, y + dy) != own);
            let opacity = if is_edge { 1.0 } else { self.opacity };
            label_colour(own).map(|part| {
                let grey = f32::from(grey);
                (grey + (f32::from(part) - grey) * opacity).round() as u8
            })
        })
    }

    /// Windowed grey value by bilinear interpolation; non-finite values are black.
    fn grey(&self, row: f64, column: f64) -> u8 {
        let (rows, columns) = self.image.dim();
        let split = |at: f64, n: usize| {
            let at = at.clamp(0.0, (n - 1) as f64);
            let low = at.floor() as usize;
            (low, (low + 1).min(n - 1), (at - low as f64) as f32)
        };
        let ((y0, y1, dy), (x0, x1, dx)) = (split(row, rows), split(column, columns));
        let [black, white] = self.hu;
        let value = |y: usize, x: usize| {
            let share = (self.image[[y, x]] - black) / (white - black);
            if share.is_finite() {
                share.clamp(0.0, 1.0)
            } else {
                0.0
            }
        };
        let (low, high) = (
            value(y0, x0) + (value(y0, x1) - value(y0, x0)) * dx,
            value(y1, x0) + (value(y1, x1) - value(y1, x0)) * dx,
        );
        (255.0 * (low + (high - low) * dy)).round() as u8
    }
}
