//! Whether probabilities are what they say: of the voxels that were given 0.8, are 80 % inside?

/// Bins of equal width from 0 to 1, as many as Guo et al. take (On Calibration of Modern Neural Networks, ICML 2017).
pub const BINS: usize = 15;

/// A probability this close below the border of two bins is on it but for rounding, and belongs to the upper one.
const ON_BORDER: f64 = 1e-9;

/// The voxels whose probability lies in one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    pub voxels: u64,
    /// Of these, how many the reference has inside.
    pub inside: u64,
    /// Sum of their probabilities.
    sum: f64,
}

impl Bin {
    /// Mean probability; none without voxels.
    pub fn mean_probability(&self) -> Option<f64> {
        (self.voxels > 0).then(|| self.sum / self.voxels as f64)
    }

    /// Share of the voxels that are inside; none without voxels.
    pub fn observed_share(&self) -> Option<f64> {
        (self.voxels > 0).then(|| self.inside as f64 / self.voxels as f64)
    }

    fn gap(&self) -> Option<f64> {
        Some((self.observed_share()? - self.mean_probability()?).abs())
    }
}

/// A reliability curve and what is measured on it, of one structure or several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reliability {
    bins: [Bin; BINS],
    /// Sum of (probability − inside)².
    squares: f64,
}

impl Reliability {
    /// Counts voxels that were all given `probability` (0 to 1): so many that the reference has outside and inside.
    pub fn add(&mut self, probability: f64, outside: u64, inside: u64) {
        let place = (probability * BINS as f64 + ON_BORDER) as usize;
        let bin = &mut self.bins[place.min(BINS - 1)];
        bin.voxels += outside + inside;
        bin.inside += inside;
        bin.sum += probability * (outside + inside) as f64;
        let rest = 1.0 - probability;
        self.squares += probability * probability * outside as f64 + rest * rest * inside as f64;
    }

    /// Counts what another one has counted.
    pub fn join(&mut self, other: &Self) {
        for (own, other) in self.bins.iter_mut().zip(&other.bins) {
            own.voxels += other.voxels;
            own.inside += other.inside;
            own.sum += other.sum;
        }
        self.squares += other.squares;
    }

    /// Bin `k` holds the probabilities from k/15 up to, but not including, (k + 1)/15; the last one 1 too.
    pub fn bins(&self) -> &[Bin; BINS] {
        &self.bins
    }

    pub fn voxels(&self) -> u64 {
        self.bins.iter().map(|bin| bin.voxels).sum()
    }

    /// Expected calibration error: how far mean probability and observed share of a bin lie apart, in the mean over
    /// voxels (Guo et al., equation 3, of the probability of being inside instead of the likeliest class). None
    /// without voxels.
    pub fn expected_error(&self) -> Option<f64> {
        let weighted = |bin: &Bin| Some(bin.gap()? * bin.voxels as f64);
        let sum: f64 = self.bins.iter().filter_map(weighted).sum();
        self.per_voxel(sum)
    }

    /// Maximum calibration error: the same of the worst bin that has voxels (equation 5). None without voxels.
    pub fn maximum_error(&self) -> Option<f64> {
        self.bins.iter().filter_map(Bin::gap).reduce(f64::max)
    }

    /// Mean squared distance of the probabilities from the truth, 0 or 1 (Brier 1950). None without voxels.
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
    fn errors_are_those_by_hand() {
        let mut all = Reliability::default();
        assert_eq!((all.expected_error(), all.brier()), (None, None));
        assert_eq!(all.maximum_error(), None);
        all.add(0.0, 6, 0);
        all.add(0.9, 1, 2); // 0.9 where 2 of 3 are inside
        let mut more = Reliability::default();
        more.add(1.0, 1, 0);
        all.join(&more);
        let close = |found: Option<f64>, expected: f64| {
            let found = found.unwrap_or(f64::NAN);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        };
        assert_eq!(all.voxels(), 10);
        close(all.expected_error(), (3.0 * (0.9 - 2.0 / 3.0) + 1.0) / 10.0);
        close(all.maximum_error(), 1.0);
        close(all.brier(), (0.81 + 2.0 * 0.01 + 1.0) / 10.0);
        assert_eq!(all.bins()[13].voxels, 3);
        assert_eq!(all.bins()[14].inside, 0);
        assert_eq!(all.bins()[1].observed_share(), None);
    }

    #[test]
    fn every_border_belongs_to_the_bin_above_it() {
        for border in 0..BINS as u64 {
            // In steps of 1/255 all borders are met, each 17 steps from the next.
            let mut all = Reliability::default();
            all.add((17 * border) as f64 / 255.0, 1, 0);
            assert_eq!(all.bins()[border as usize].voxels, 1, "{border}/15");
            let mut below = Reliability::default();
            below.add((17 * border + 16) as f64 / 255.0, 1, 0);
            assert_eq!(below.bins()[border as usize].voxels, 1, "below {border}/15");
        }
    }
}
