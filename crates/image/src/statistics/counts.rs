//! How many voxels of a structure have each intensity, in memory that grows with the voxels where there are few and with
//! the intensities where there are many: a label map may hold thousands of structures.

/// Intensities that are told apart.
pub const BINS: u32 = (PAGES * PAGE) as u32;

/// Intensities are counted so many to a page.
const PAGES: usize = 384;
const PAGE: usize = 256;

/// Fewer voxels than these are kept as they are.
const FEW: usize = 512;

/// Counts per bin, below [`BINS`].
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// The voxels' bins, in any order; empty once there are pages.
    few: Vec<u32>,
    /// Empty while there are few voxels; a page without any voxel is not there.
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

    /// Adds those of another.
    pub fn join(&mut self, other: &Self) {
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

    /// The bin that `rank` voxels lie below or in.
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

    /// Whether pages take little more memory than the voxels' bins: those of noise all over the range do not.
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
        fn ranks_are_those_of_the_sorted_bins(
            parts in prop::collection::vec((0..BINS, 1u32..2000, 0usize..3000), 1..5),
        ) {
            let (mut joined, mut all) = (Counts::default(), Vec::new());
            for (first, width, voxels) in parts {
                let mut own = Counts::default();
                for voxel in 0..voxels as u32 {
                    let bin = (first + voxel * 7919 % width).min(BINS - 1);
                    own.add(bin);
                    all.push(bin);
                }
                joined.join(&own);
            }
            all.sort_unstable();
            for rank in (0..all.len()).step_by(97) {
                prop_assert_eq!(joined.ranked(rank as u64), Some(all[rank]));
            }
            prop_assert_eq!(joined.ranked(all.len() as u64), None);
        }
    }
}
