//! Intensity histogram of a structure. Memory grows with the number of voxels if there are few, and with the number of
//! distinct intensities if there are many: a label map may contain thousands of structures.

/// Number of bins.
pub const BINS: u32 = (PAGES * PAGE) as u32;

/// Number of pages.
const PAGES: usize = 384;

/// Bins per page.
const PAGE: usize = 256;

/// Up to this many voxels are stored individually.
const FEW: usize = 512;

/// Counts per bin, below [`BINS`].
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// The bins of individual voxels, in any order; empty once there are pages.
    few: Vec<u32>,
    /// Empty while there are few voxels; pages without voxels are `None`.
    pages: Vec<Option<Box<[u64; PAGE]>>>,
}

impl Counts {
    /// Adds a voxel.
    pub fn add(&mut self, bin: u32) {
        if !self.pages.is_empty() {
            count(&mut self.pages, bin as usize, 1);
            return;
        }
        self.few.push(bin);
        if self.few.len() >= FEW && self.few.len().is_power_of_two() && self.fits_pages() {
            self.turn_to_pages();
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.few.iter().for_each(|bin| self.add(*bin));
        if other.pages.is_empty() {
            return;
        }
        self.turn_to_pages();
        for (page, counts) in other.pages.iter().enumerate() {
            for (bin, more) in counts.iter().flat_map(|counts| counts.iter().enumerate()) {
                if *more > 0 {
                    count(&mut self.pages, page * PAGE + bin, *more);
                }
            }
        }
    }

    /// The bin of the voxel with this rank (from 0) in ascending order.
    pub fn ranked(&self, rank: u64) -> Option<u32> {
        if self.pages.is_empty() {
            let rank = usize::try_from(rank).ok()?;
            let mut bins = self.few.clone();
            return (rank < bins.len()).then(|| *bins.select_nth_unstable(rank).1);
        }
        let mut below = 0;
        for (page, counts) in self.pages.iter().enumerate() {
            for (bin, count) in counts.iter().flat_map(|counts| counts.iter().enumerate()) {
                below += count;
                if below > rank {
                    return Some((page * PAGE + bin) as u32);
                }
            }
        }
        None
    }

    /// Whether pages take little more memory than individual bins, which they do not for noise over the whole range.
    fn fits_pages(&self) -> bool {
        let mut used = [false; PAGES];
        for bin in &self.few {
            used[*bin as usize / PAGE] = true;
        }
        let used = used.into_iter().filter(|used| *used).count();
        used * size_of::<[u64; PAGE]>() <= 4 * size_of_val(self.few.as_slice())
    }

    fn turn_to_pages(&mut self) {
        self.pages.resize(PAGES, None);
        for bin in std::mem::take(&mut self.few) {
            count(&mut self.pages, bin as usize, 1);
        }
    }
}

fn count(pages: &mut [Option<Box<[u64; PAGE]>>], bin: usize, more: u64) {
    let page = pages[bin / PAGE].get_or_insert_with(|| Box::new([0; PAGE]));
    page[bin % PAGE] += more;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_match_the_sorted_bins(
            parts in prop::collection::vec((0..BINS, 1u32..2000, 0usize..3000), 1..5),
        ) {
            let (mut merged, mut all) = (Counts::default(), Vec::new());
            for (first, width, voxels) in parts {
                let mut own = Counts::default();
                for voxel in 0..voxels as u32 {
                    let bin = (first + voxel * 7919 % width).min(BINS - 1);
                    own.add(bin);
                    all.push(bin);
                }
                merged.merge(&own);
            }
            all.sort_unstable();
            for rank in (0..all.len()).step_by(97) {
                prop_assert_eq!(merged.ranked(rank as u64), Some(all[rank]));
            }
            prop_assert_eq!(merged.ranked(all.len() as u64), None);
        }
    }
}
