//! Calibration of probabilities: of the voxels predicted with 0.8, are 80 % inside the structure?

/// Number of bins of equal width from 0 to 1, as in Guo et al. (On Calibration of Modern Neural Networks, ICML 2017).
pub const BINS: usize = 15;

/// A probability this close below a bin edge is on it up to rounding, and belongs to the upper bin.
const EDGE_TOLERANCE: f64 = 1e-9;

/// The voxels whose probability falls in one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many voxels it has.
    pub voxels: u64,
    /// How many of them are inside in the reference.
    pub inside: u64,
    /// Sum of their probabilities.
    sum: f64,
}

impl Bin {
    /// Mean probability; `None` without voxels.
    pub fn mean_probability(&self) -> Option<f64> {
        (self.voxels > 0).then(|| self.sum / self.voxels as f64)
    }

    /// Fraction of the voxels that are inside; `None` without voxels.
    pub fn observed_share(&self) -> Option<f64> {
        (self.voxels > 0).then(|| self.inside as f64 / self.voxels as f64)
    }

    fn gap(&self) -> Option<f64> {
        Some((self.observed_share()? - self.mean_probability()?).abs())
    }
}

/// A reliability curve and its summary measures, of one structure or several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reliability {
    bins: [Bin; BINS],
    /// Sum of (probability − inside)².
    squares: f64,
}

impl Reliability {
    /// Adds voxels predicted with `probability` (0 to 1): the numbers outside and inside in the reference.
    pub fn add(&mut self, probability: f64, outside: u64, inside: u64) {
        let place = (probability * BINS as f64 + EDGE_TOLERANCE) as usize;
        let bin = &mut self.bins[place.min(BINS - 1)];
        bin.voxels += outside + inside;
        bin.inside += inside;
        bin.sum += probability * (outside + inside) as f64;
        let rest = 1.0 - probability;
        self.squares += probability * probability * outside as f64 + rest * rest * inside as f64;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.bins.iter_mut().zip(&other.bins) {
            own.voxels += other.voxels;
            own.inside += other.inside;
            own.sum += other.sum;
        }
        self.squares += other.squares;
    }

    /// Bin `k` holds the probabilities in [k/15, (k + 1)/15); the last bin also holds 1.
    pub fn bins(&self) -> &[Bin; BINS] {
        &self.bins
    }

    /// The number of voxels in all bins.
    pub fn voxels(&self) -> u64 {
        self.bins.iter().map(|bin| bin.voxels).sum()
    }

    /// Expected calibration error (ECE): the absolute difference of a bin's mean probability and observed fraction,
    /// averaged over voxels (Guo et al., equation 3, for the probability of the structure instead of that of the
    /// predicted class). `None` without voxels.
    pub fn expected_calibration_error(&self) -> Option<f64> {
        let weighted = |bin: &Bin| Some(bin.gap()? * bin.voxels as f64);
        let sum: f64 = self.bins.iter().filter_map(weighted).sum();
        self.per_voxel(sum)
    }

    /// Maximum calibration error (MCE): the same difference in the worst bin with voxels (equation 5). `None` without
    /// voxels.
    pub fn maximum_calibration_error(&self) -> Option<f64> {
        self.bins.iter().filter_map(Bin::gap).reduce(f64::max)
    }

    /// Brier score: mean squared difference of the probabilities from the reference, 0 or 1 (Brier 1950). `None`
    /// without voxels.
    pub fn brier(&self) -> Option<f64> {
        self.per_voxel(self.squares)
    }

    fn per_voxel(&self, sum: f64) -> Option<f64> {
        let voxels = self.voxels();
        (voxels > 0).then(|| sum / voxels as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_match_a_hand_calculation() {
        let mut all = Reliability::default();
        assert_eq!(
            (all.expected_calibration_error(), all.brier()),
            (None, None)
        );
        assert_eq!(all.maximum_calibration_error(), None);
        all.add(0.0, 6, 0);
        all.add(0.9, 1, 2); // 0.9 where 2 of 3 are inside
        let mut more = Reliability::default();
        more.add(1.0, 1, 0);
        all.merge(&more);
        let close = |found: Option<f64>, expected: f64| {
            let found = found.unwrap_or(f64::NAN);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        };
        assert_eq!(all.voxels(), 10);
        close(
            all.expected_calibration_error(),
            (3.0 * (0.9 - 2.0 / 3.0) + 1.0) / 10.0,
        );
        close(all.maximum_calibration_error(), 1.0);
        close(all.brier(), (0.81 + 2.0 * 0.01 + 1.0) / 10.0);
        assert_eq!(all.bins()[13].voxels, 3);
        assert_eq!(all.bins()[14].inside, 0);
        assert_eq!(all.bins()[1].observed_share(), None);
    }

    #[test]
    fn every_edge_belongs_to_the_bin_above_it() {
        for edge in 0..BINS as u64 {
            // Steps of 1/255 hit every edge: they are 17 steps apart.
            let mut all = Reliability::default();
            all.add((17 * edge) as f64 / 255.0, 1, 0);
            assert_eq!(all.bins()[edge as usize].voxels, 1, "{edge}/15");
            let mut below = Reliability::default();
            below.add((17 * edge + 16) as f64 / 255.0, 1, 0);
            assert_eq!(below.bins()[edge as usize].voxels, 1, "below {edge}/15");
        }
    }
}
