//! Plausibility of Hounsfield units: whether intensities look like CT, with air near −1000, fat near −100, water at 0
//! and bone at several hundred.

pub use super::suspicion::Suspicion;

use ndarray::{ArrayView2, ArrayView3, Axis};
use rayon::prelude::*;

use crate::window::Window;

/// The offset that scanners add, still present if a program ignores DICOM's rescale intercept.
pub const SCANNER_OFFSET_HU: f32 = 1024.0;

/// What reading signed 16-bit values as unsigned adds to negative values.
pub const WRAP: f32 = 65_536.0;

/// Values within ±this are normalised (0 to 1, −1 to 1, standard deviations); the noise of CT alone spans more.
const NORMALISED: f32 = 20.0;

impl Suspicion {
    /// Why the values of a volume (z, y, x) are implausible; `None` if they can be Hounsfield units. `trained` is the
    /// range that a model uses, if any. Non-finite values are ignored.
    pub fn of(values: ArrayView3<f32>, trained: Option<Window>) -> Option<Self> {
        let slices = values.axis_iter(Axis(0)).into_par_iter();
        let counted = |mut counts: ValueCounts, slice: ArrayView2<f32>| {
            slice.iter().for_each(|value| counts.add(*value));
            counts
        };
        let none = || ValueCounts::new(trained);
        let counts = slices.fold(none, counted).reduce(none, ValueCounts::merged);
        counts.suspicion()
    }
}

/// The start of the first of [`ValueCounts::bins`]; their width; their number.
const FIRST: i32 = -4096;
const STEP: i32 = 8;
const BINS: usize = 1024;

/// Value counts for [`Suspicion`] of a volume that is read in chunks.
#[derive(Debug, Clone)]
pub struct ValueCounts {
    finite: u64,
    low: f32,
    high: f32,
    /// Voxels per bin of width [`STEP`], from [`FIRST`] up.
    bins: Vec<u64>,
    /// Voxels with the lowest value.
    lowest: u64,
    /// Voxels from 4096 below [`WRAP`] up to it.
    wrapped: u64,
    /// Voxels at or above the end of the last bin.
    above: u64,
    /// The range that a model uses, and the voxels within.
    trained: Option<Window>,
    in_trained: u64,
}

impl ValueCounts {
    /// Empty counts; `trained` is the range that a model uses, if any.
    pub fn new(trained: Option<Window>) -> Self {
        Self {
            finite: 0,
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            bins: vec![0; BINS],
            lowest: 0,
            wrapped: 0,
            above: 0,
            trained,
            in_trained: 0,
        }
    }

    /// Counts a voxel, unless its value is not finite.
    pub fn add(&mut self, value: f32) {
        if !value.is_finite() {
            return;
        }
        self.finite += 1;
        self.high = self.high.max(value);
        if value < self.low {
            (self.low, self.lowest) = (value, 0);
        }
        self.lowest += u64::from(value == self.low);
        let bin = ((value - FIRST as f32) / STEP as f32).floor();
        if bin >= BINS as f32 {
            self.above += 1;
            self.wrapped += u64::from((WRAP - 4096.0..WRAP).contains(&value));
        } else if bin >= 0.0 {
            self.bins[bin as usize] += 1;
        }
        let is_inside = |window: Window| window.low_hu < value && value < window.high_hu;
        self.in_trained += u64::from(self.trained.is_some_and(is_inside));
    }

    fn merged(mut self, other: Self) -> Self {
        self.lowest = match self.low.total_cmp(&other.low) {
            std::cmp::Ordering::Less => self.lowest,
            std::cmp::Ordering::Equal => self.lowest + other.lowest,
            std::cmp::Ordering::Greater => other.lowest,
        };
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        for (count, more) in self.bins.iter_mut().zip(other.bins) {
            *count += more;
        }
        self.finite += other.finite;
        self.wrapped += other.wrapped;
        self.above += other.above;
        self.in_trained += other.in_trained;
        self
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.finite.max(1) as f64
    }

    /// The fraction of the voxels from `low` to below `high`, both multiples of [`STEP`].
    fn between(&self, low: i32, high: i32) -> f64 {
        let bin = |value: i32| ((value - FIRST) / STEP).clamp(0, BINS as i32) as usize;
        self.share(self.bins[bin(low)..bin(high)].iter().sum())
    }

    /// Why the values are implausible, if they are.
    pub fn suspicion(&self) -> Option<Suspicion> {
        if self.finite == 0 {
            return Some(Suspicion::NoValue);
        }
        let found = self.of_other_scale().or_else(|| self.of_distribution());
        found.or_else(|| {
            let share = self.share(self.in_trained);
            let trained = self.trained.filter(|_| share < 0.001)?;
            Some(Suspicion::Untrained { share, trained })
        })
    }

    /// Checks the range of the values.
    fn of_other_scale(&self) -> Option<Suspicion> {
        let (low, high) = (self.low, self.high);
        if low == high {
            return Some(Suspicion::Constant(low));
        }
        if low >= -NORMALISED && high <= NORMALISED {
            return Some(Suspicion::Normalised { low, high });
        }
        if low >= 0.0 && high <= 255.0 {
            return Some(Suspicion::Bytes { low, high });
        }
        let wrapped = self.share(self.wrapped);
        // An image scaled to 16 bits has values throughout the range.
        let between = self.share(self.above - self.wrapped);
        if low >= 0.0 && wrapped > 0.001 && between < 0.01 {
            return Some(Suspicion::Wrapped { share: wrapped });
        }
        let too_high = self.between(3000, 4096) + self.share(self.above);
        (too_high > 0.02).then_some(Suspicion::TooHigh { share: too_high })
    }

    /// Checks for air, fat and soft tissue.
    fn of_distribution(&self) -> Option<Suspicion> {
        let low = self.low;
        let below = self.between(FIRST, -24);
        if self.is_offset(below) {
            return Some(Suspicion::Offset);
        }
        if below < 0.0005 && low > -500.0 {
            return Some(Suspicion::NoAir { low });
        }
        let spike = self.lowest_share();
        if (-800.0..=-24.0).contains(&low) && spike > 0.1 {
            return Some(Suspicion::Cut { share: spike, low });
        }
        let tissue = self.between(-248, 352);
        let below_air = self.between(FIRST, -1224);
        let is_rare = tissue < 0.005 || (tissue < 0.015 && below_air > 0.2);
        is_rare.then_some(Suspicion::NoTissue { share: tissue })
    }

    /// Whether soft tissue stands out where [`SCANNER_OFFSET_HU`] puts it (bone alone does not stand out) and air is
    /// missing. The single value that scanners pad the corners of a slice with does not count as air.
    fn is_offset(&self, below: f64) -> bool {
        let soft = self.between(848, 1248);
        let stands_out = soft > 0.01
            && soft > 2.5 * self.between(352, 752)
            && soft > 3.0 * self.between(1248, 1648);
        let filled = match self.low < -24.0 {
            true => self.share(self.lowest),
            false => 0.0,
        };
        let no_air = below - filled < 0.001;
        let is_common = filled == 0.0 || soft > 0.35 * self.between(-176, 224);
        stands_out && no_air && is_common
    }

    /// The fraction of the voxels in the two lowest bins.
    fn lowest_share(&self) -> f64 {
        let low = (self.low / STEP as f32).floor() as i32 * STEP;
        self.between(low, low + 2 * STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    /// A body of soft tissue, fat, lung and bone in air, with noise.
    fn ct() -> Array3<f32> {
        Array3::from_shape_fn((12, 32, 32), |(z, y, x)| {
            let noise = ((x * 7919 + y * 104_729 + z * 1_299_709) % 41) as f32 - 20.0;
            let (dx, dy) = (x as f32 - 15.5, y as f32 - 15.5);
            let tissue = match (dx * dx / 1.4 + dy * dy).sqrt() {
                r if r > 13.0 => -1000.0,
                r if r > 11.0 => -100.0,
                r if r > 6.0 => 45.0,
                r if r > 3.0 => -850.0,
                _ => [300.0, 500.0, 700.0, 1100.0][x % 4],
            };
            tissue + noise
        })
    }

    fn of(values: &Array3<f32>) -> Option<Suspicion> {
        Suspicion::of(values.view(), None)
    }

    #[test]
    fn usual_variants_of_ct_are_plausible() {
        let ct = ct();
        assert_eq!(of(&ct), None);
        // Clipped as by scanners and datasets, with unmeasured corners, with metal, and without air.
        assert_eq!(of(&ct.mapv(|hu| hu.max(-1000.0))), None);
        let mut filled = ct.clone();
        filled.slice_mut(ndarray::s![.., ..4, ..]).fill(-3024.0);
        filled[[0, 9, 9]] = 30_710.0;
        assert_eq!(of(&filled), None);
        let inside = ct.slice(ndarray::s![.., 4..15, 6..26]);
        assert_eq!(Suspicion::of(inside, None), None);
        let mut broken = ct;
        broken[[0, 0, 0]] = f32::NAN;
        broken[[0, 0, 1]] = f32::INFINITY;
        assert_eq!(of(&broken), None);
    }

    #[test]
    fn other_scales_are_detected() {
        let ct = ct();
        let found = |changed: &dyn Fn(f32) -> f32| of(&ct.mapv(changed));
        let window = |hu: f32| (hu.clamp(-160.0, 240.0) + 160.0) / 400.0;
        assert_eq!(found(&|hu| hu + 1024.0), Some(Suspicion::Offset));
        assert_eq!(found(&|hu| (hu + 1024.0).max(0.0)), Some(Suspicion::Offset));
        assert!(matches!(found(&window), Some(Suspicion::Normalised { .. })));
        assert!(matches!(
            found(&|hu| (window(hu) * 255.0).round()),
            Some(Suspicion::Bytes { .. })
        ));
        let wrapped = |hu: f32| if hu < 0.0 { hu + WRAP } else { hu };
        assert!(matches!(found(&wrapped), Some(Suspicion::Wrapped { .. })));
        assert!(matches!(
            found(&|hu| if hu < 0.0 { hu + 4096.0 } else { hu }),
            Some(Suspicion::TooHigh { .. })
        ));
        assert!(matches!(
            found(&|hu| (hu + 1024.0) * 20.0),
            Some(Suspicion::TooHigh { .. })
        ));
        assert_eq!(found(&|_| -1024.0), Some(Suspicion::Constant(-1024.0)));
        assert_eq!(found(&|_| f32::NAN), Some(Suspicion::NoValue));
        assert!(matches!(
            found(&|hu| 1000.0 * window(hu)),
            Some(Suspicion::NoAir { low: 0.0 })
        ));
        assert!(matches!(
            found(&|hu| hu.max(-160.0)),
            Some(Suspicion::Cut { low: -160.0, .. })
        ));
        assert!(matches!(
            found(&|hu| hu - 1024.0),
            Some(Suspicion::NoTissue { .. })
        ));
    }

    #[test]
    fn filled_corners_do_not_hide_a_missing_offset() {
        let mut raw = ct().mapv(|hu| hu + 1024.0);
        raw.slice_mut(ndarray::s![.., ..4, ..]).fill(-976.0);
        assert_eq!(of(&raw), Some(Suspicion::Offset));
    }

    #[test]
    fn values_outside_the_trained_range_are_reported() {
        let ct = ct();
        let with = |low: f32, high: f32| Suspicion::of(ct.view(), Some([low, high].into()));
        assert_eq!(with(-200.0, 300.0), None);
        let text = with(2000.0, 3000.0).unwrap().to_string();
        assert!(
            text.contains("only 0.0 % of the voxels lie from 2000 to 3000"),
            "{text}"
        );
    }
}
