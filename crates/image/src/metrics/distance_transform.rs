//! Exact Euclidean distances on grids with anisotropic spacing, one axis at a time: Felzenszwalb and Huttenlocher,
//! "Distance transforms of sampled functions", Theory of Computing 2012.

use ndarray::{Array3, ArrayView3, Axis};

/// The signed distance in mm of every voxel from the surface of a mask: outside, the distance to the nearest voxel
/// inside; inside, minus the distance to the nearest voxel outside. Zero everywhere if the mask is full or empty, as
/// there is no surface.
///
/// # Shapes
/// `inside` and output: (z, y, x); `spacing_mm` in the same order
pub fn signed_distance_mm(inside: ArrayView3<bool>, spacing_mm: [f64; 3]) -> Array3<f32> {
    let first = inside.iter().next().copied().unwrap_or(false);
    if inside.iter().all(|voxel| *voxel == first) {
        return Array3::zeros(inside.raw_dim());
    }
    let outward = squared_distance(inside, true, spacing_mm);
    let inward = squared_distance(inside, false, spacing_mm);
    let mut result = Array3::zeros(inside.raw_dim());
    ndarray::Zip::from(&mut result)
        .and(&outward)
        .and(&inward)
        .for_each(|to, outward, inward| *to = (outward.sqrt() - inward.sqrt()) as f32);
    result
}

/// The squared distance to the nearest voxel with the value `to`; infinite if there is none.
fn squared_distance(mask: ArrayView3<bool>, to: bool, spacing_mm: [f64; 3]) -> Array3<f64> {
    let mut squares = mask.mapv(|voxel| if voxel == to { 0.0 } else { f64::INFINITY });
    let mut envelope = Envelope::default();
    let mut line = Vec::new();
    for axis in [2, 1, 0] {
        for mut lane in squares.lanes_mut(Axis(axis)) {
            // Skip lanes that consist of targets only.
            if lane.len() < 2 || lane.iter().all(|v| *v == 0.0) {
                continue;
            }
            line.clear();
            line.extend(lane.iter().copied());
            if envelope.build(&line, spacing_mm[axis]) {
                envelope.read(&mut lane, &line, spacing_mm[axis]);
            }
        }
    }
    squares
}

/// The lower envelope of the parabolas rooted at a line's voxels.
#[derive(Default)]
pub(super) struct Envelope {
    /// Voxels whose parabola is part of the envelope, ascending.
    lowest: Vec<usize>,
    /// Where each parabola's part starts, in mm.
    from_mm: Vec<f64>,
}

impl Envelope {
    /// Builds the envelope of voxels `step_mm` apart; false if none has a finite value.
    pub(super) fn build(&mut self, line: &[f64], step_mm: f64) -> bool {
        self.lowest.clear();
        self.from_mm.clear();
        for (at, value) in line.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let mut from = f64::NEG_INFINITY;
            while let (Some(last), Some(start)) = (self.lowest.last(), self.from_mm.last()) {
                let (here, there) = (at as f64 * step_mm, *last as f64 * step_mm);
                let crossing =
                    (value + here * here - line[*last] - there * there) / (2.0 * (here - there));
                if crossing > *start {
                    from = crossing;
                    break;
                }
                self.lowest.pop();
                self.from_mm.pop();
            }
            self.lowest.push(at);
            self.from_mm.push(from);
        }
        !self.lowest.is_empty()
    }

    fn read(&self, lane: &mut ndarray::ArrayViewMut1<f64>, line: &[f64], step_mm: f64) {
        let mut place = 0;
        for (at, to) in lane.iter_mut().enumerate() {
            let lowest = self.lowest_at(at, step_mm, &mut place);
            let offset_mm = at.abs_diff(lowest) as f64 * step_mm;
            *to = offset_mm * offset_mm + line[lowest];
        }
    }

    /// The voxel whose parabola is lowest at voxel `at`. `place` is a cursor: 0 at first, then as the previous call
    /// left it, for ascending `at`.
    pub(super) fn lowest_at(&self, at: usize, step_mm: f64, place: &mut usize) -> usize {
        let here = at as f64 * step_mm;
        while self
            .from_mm
            .get(*place + 1)
            .is_some_and(|from| *from < here)
        {
            *place += 1;
        }
        self.lowest[*place]
    }
}
