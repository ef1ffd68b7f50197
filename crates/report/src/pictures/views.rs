//! A volume and its label map as they are looked at: in anatomical order, without the air around, plane by plane or
//! from the front.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayView3, Axis, Zip, s};

use super::Picture;
use ctseg_image::space::{Grid, label_colour};

/// What is denser is the patient (or the table), where it is more than so much of a plane.
const TISSUE_HU: f32 = -300.0;
const TISSUE_SHARE: f64 = 0.005;

/// Air that is shown around the patient.
const MARGIN_MM: f64 = 10.0;

/// Voxels in the order (superior, anterior, right), all increasing; nothing is copied.
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

/// The planes (superior, anterior, right) that hold the patient or a structure, with a little air around them; all
/// where there is nothing else.
pub(crate) fn body(image: ArrayView3<f32>, found: &Found, mm: [f64; 3]) -> [Range<usize>; 3] {
    let (s, a, r) = image.dim();
    // Some of the voxels show as well where the patient ends.
    let step = (s.max(a).max(r) / 256).max(1);
    let some = image.slice(s![..;step, ..;step, ..;step]);
    std::array::from_fn(|axis| {
        let world = 2 - axis;
        let has_tissue = |plane: ArrayView2<f32>| {
            let tissue = plane.iter().filter(|hu| **hu > TISSUE_HU).count();
            tissue as f64 > TISSUE_SHARE * plane.len() as f64
        };
        let tissue = some.axis_iter(Axis(axis)).enumerate();
        let tissue = tissue.filter(|(_, plane)| has_tissue(*plane));
        let labelled = found.per_plane[world].rows().into_iter().enumerate();
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

/// Where the structures are.
pub(crate) struct Found {
    /// Labels that occur, ascending.
    labels: Vec<u16>,
    /// Voxels in every plane across right, anterior and superior; (plane, label).
    per_plane: [Array2<u32>; 3],
}

impl Found {
    pub(crate) fn in_map(map: ArrayView3<u16>) -> Self {
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

    /// For each axis the plane that shows many structures large: with the largest sum of square roots of areas.
    /// Without any structure the one in the middle.
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

/// From front to back, for every line of sight (superior, right): the first structure and the largest intensity.
pub(super) fn from_the_front(
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

/// A plane whose first row is the lowest and whose first column is shown on the right.
pub(super) struct Panel<'a> {
    pub(super) image: ArrayView2<'a, f32>,
    pub(super) map: ArrayView2<'a, u16>,
    /// Black and white.
    pub(super) hu: [f32; 2],
    pub(super) share: f32,
}

impl Panel<'_> {
    /// With so many pixels per millimetre; voxels are `[rows, columns]` millimetres large.
    pub(super) fn drawn(&self, mm: [f64; 2], scale: f64) -> Picture {
        let (rows, columns) = self.image.dim();
        let pixels = |n: usize, mm: f64| ((n as f64 * mm * scale).round() as usize).max(1);
        let (height, width) = (pixels(rows, mm[0]), pixels(columns, mm[1]));
        // Voxel coordinates of the centres of pixels, counted from the top left.
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
            let share = if is_edge { 1.0 } else { self.share };
            label_colour(own).map(|part| {
                let grey = f32::from(grey);
                (grey + (f32::from(part) - grey) * share).round() as u8
            })
        })
    }

    /// Linear between the voxels around; black where the window ends and where values are not finite.
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
