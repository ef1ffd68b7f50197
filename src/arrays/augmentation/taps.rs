//! Where the voxels of a row of a patch come from, found once for all channels and for the labels.

/// Marks a position that has no such voxel.
const NONE: usize = usize::MAX;

/// One position in an array of `D` axes, the fastest one last.
#[derive(Clone, Copy)]
struct Tap<const D: usize> {
    /// Index of the voxel at or before the position, where it and those after it are all inside.
    inner: usize,
    /// Index of the nearest voxel, where it is inside.
    nearest: usize,
    /// The voxel at or before the position along each axis; -1 before the first one.
    low: [i32; D],
    /// How far the position lies behind it.
    share: [f32; D],
}

/// The positions of one row, in an array of `shape`.
pub(super) struct Taps<const D: usize> {
    shape: [usize; D],
    /// Steps in memory along each axis.
    strides: [usize; D],
    taps: Vec<Tap<D>>,
}

impl<const D: usize> Taps<D> {
    /// No positions yet, in an array of `shape` whose values lie one after the other.
    pub fn new(shape: [usize; D]) -> Self {
        let mut strides = [1; D];
        for axis in (0..D.saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1];
        }
        Self {
            shape,
            strides,
            taps: Vec::new(),
        }
    }

    /// Takes the positions of another row.
    pub fn place(&mut self, positions: impl Iterator<Item = [f64; D]>) {
        let (shape, strides) = (self.shape, self.strides);
        let ends = shape.map(|length| length as f64);
        self.taps.clear();
        self.taps
            .extend(positions.map(|at| Tap::at(at, ends, shape, strides)));
    }

    /// The nearest voxels; outside the array 0 (order 0).
    pub fn nearest<'a>(&self, values: &[u16], to: impl Iterator<Item = &'a mut u16>) {
        for (to, tap) in to.zip(&self.taps) {
            *to = values.get(tap.nearest).copied().unwrap_or(0);
        }
    }

    /// The value by linear interpolation near the array's border, where what lies outside counts as 0.
    #[cold]
    fn at_border(&self, values: &[f32], tap: &Tap<D>) -> f32 {
        let mut sum = 0.0;
        'corner: for corner in 0..1 << D {
            let (mut weight, mut index) = (1.0, 0);
            for axis in 0..D {
                let upper = corner >> axis & 1;
                let Ok(at) = usize::try_from(tap.low[axis] + upper) else {
                    continue 'corner;
                };
                if at >= self.shape[axis] {
                    continue 'corner;
                }
                weight *= match upper {
                    1 => tap.share[axis],
                    _ => 1.0 - tap.share[axis],
                };
                index += at * self.strides[axis];
            }
            sum += weight * values[index];
        }
        sum
    }
}

impl Taps<2> {
    /// Linear interpolation (order 1); outside the array 0.
    pub fn linear<'a>(&self, values: &[f32], to: impl Iterator<Item = &'a mut f32>) {
        let below = self.strides[0];
        for (to, tap) in to.zip(&self.taps) {
            let first = tap.inner;
            *to = match (pair(values, first), pair(values, first.wrapping_add(below))) {
                (Some(top), Some(bottom)) => {
                    let [down, along] = tap.share;
                    mixed(mixed_pair(top, along), mixed_pair(bottom, along), down)
                }
                _ => self.outer(values, tap),
            };
        }
    }
}

impl Taps<3> {
    /// Linear interpolation (order 1); outside the array 0.
    pub fn linear<'a>(&self, values: &[f32], to: impl Iterator<Item = &'a mut f32>) {
        let [above, below, _] = self.strides;
        for (to, tap) in to.zip(&self.taps) {
            let first = tap.inner;
            let next = first.wrapping_add(above);
            let around = (
                pair(values, first),
                pair(values, first.wrapping_add(below)),
                pair(values, next),
                pair(values, next.wrapping_add(below)),
            );
            *to = match around {
                (Some(a), Some(b), Some(c), Some(d)) if first != NONE => {
                    let [up, down, along] = tap.share;
                    let low = mixed(mixed_pair(a, along), mixed_pair(b, along), down);
                    let high = mixed(mixed_pair(c, along), mixed_pair(d, along), down);
                    mixed(low, high, up)
                }
                _ => self.outer(values, tap),
            };
        }
    }
}

impl<const D: usize> Taps<D> {
    fn outer(&self, values: &[f32], tap: &Tap<D>) -> f32 {
        match tap.low[0] {
            i32::MIN => 0.0,
            _ => self.at_border(values, tap),
        }
    }
}

impl<const D: usize> Tap<D> {
    const OUTSIDE: Self = Self {
        inner: NONE,
        nearest: NONE,
        low: [i32::MIN; D],
        share: [0.0; D],
    };

    fn at(position: [f64; D], ends: [f64; D], shape: [usize; D], strides: [usize; D]) -> Self {
        let mut tap = Self::OUTSIDE;
        if (0..D).any(|axis| !(position[axis] > -1.0 && position[axis] < ends[axis])) {
            return tap;
        }
        let (mut inner, mut all_inside) = (0, true);
        let (mut nearest, mut nearest_inside) = (0, true);
        for axis in 0..D {
            // One is added so that cutting off decimals rounds down.
            let above = position[axis] + 1.0;
            let up = above as i32;
            let share = above - f64::from(up);
            let (low, length) = (up - 1, shape[axis]);
            tap.low[axis] = low;
            tap.share[axis] = share as f32;
            all_inside &= low >= 0 && (up as usize) < length;
            inner += low.max(0) as usize * strides[axis];
            let near = if share >= 0.5 { up } else { low };
            nearest_inside &= near >= 0 && (near as usize) < length;
            nearest += near.max(0) as usize * strides[axis];
        }
        if all_inside {
            tap.inner = inner;
        }
        if nearest_inside {
            tap.nearest = nearest;
        }
        tap
    }
}

/// The values at `first` and behind it; none where `first` is [`NONE`].
#[inline]
fn pair(values: &[f32], first: usize) -> Option<[f32; 2]> {
    let two = values.get(first..first.wrapping_add(2))?;
    Some([two[0], two[1]])
}

#[inline]
fn mixed_pair([a, b]: [f32; 2], share: f32) -> f32 {
    mixed(a, b, share)
}

#[inline]
fn mixed(a: f32, b: f32, share: f32) -> f32 {
    a + share * (b - a)
}
