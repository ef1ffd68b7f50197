//! Work that only rank 0 does, and work that is split over the ranks.

use super::ProcessGroup;
use ctseg_base::Result;

impl ProcessGroup {
    /// Runs `work` on rank 0 while the other ranks wait. Its value is returned on rank 0, `None` on the others.
    ///
    /// # Errors
    /// On all ranks if `work` fails.
    pub fn on_rank_zero<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let own = self.is_rank_zero().then(work).transpose();
        self.all_ok(own)
    }

    /// The value that `make` returns on rank 0; on the other ranks what `unpack` makes of the bytes from `pack`.
    ///
    /// # Errors
    /// On all ranks if any of these calls fails.
    pub fn from_rank_zero<T>(
        &self,
        make: impl FnOnce() -> Result<T>,
        pack: impl FnOnce(&T) -> Result<Vec<u8>>,
        unpack: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Result<T> {
        if self.is_single() {
            return make();
        }
        let made = self.on_rank_zero(|| {
            let value = make()?;
            let bytes = pack(&value)?;
            Ok((value, bytes))
        })?;
        let (own, bytes) = made.unzip();
        let bytes = self.broadcast(bytes.unwrap_or_default())?;
        self.all_ok(own.map_or_else(|| unpack(&bytes), Ok))
    }

    /// Splits `items` over the ranks. `work` returns a row of `width` numbers for each item of its shard; the rows of
    /// all items are returned on all ranks, in order.
    ///
    /// # Errors
    /// On all ranks if `work` fails on one.
    pub fn map_shards<T>(
        &self,
        items: &[T],
        width: usize,
        work: impl FnOnce(&[T]) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        let shard = self.shard(items.len());
        let own = self.all_ok(work(&items[shard.clone()]))?;
        if self.is_single() {
            return Ok(own);
        }
        let mut rows = vec![0.0; items.len() * width];
        rows[shard.start * width..][..own.len()].copy_from_slice(&own);
        self.all_reduce_f64(&mut rows)?;
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessGroup;
    use crate::distributed::threads::in_process_group;
    use ctseg_base::{Error, Result};

    #[test]
    fn work_of_rank_zero_is_shared() {
        in_process_group(3, |group| {
            let rank = group.rank();
            let own = group.on_rank_zero(|| Ok(rank)).unwrap();
            assert_eq!(own, (rank == 0).then_some(0));
            let make = || Ok(vec![7 + rank as u8; 4]);
            let unpack = |bytes: &[u8]| Ok([bytes, &[rank as u8]].concat());
            let shared = group.from_rank_zero(make, |own| Ok(own.clone()), unpack);
            let expected = [&[7; 4], &[rank as u8; 1][..usize::from(rank > 0)]].concat();
            assert_eq!(shared.unwrap(), expected);
        });
    }

    #[test]
    fn an_error_of_rank_zero_is_one_of_all() {
        let disk_full = || Err::<(), _>(Error::invalid("disk full"));
        in_process_group(2, |group| {
            let expected = ["disk full", "another of the 2"][group.rank()];
            let said = group.on_rank_zero(disk_full).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        });
        in_process_group(2, |group| {
            let unpack = |_: &[u8]| -> Result<()> { Err(Error::invalid("another version")) };
            let said = group.from_rank_zero(|| Ok(()), |()| Ok(Vec::new()), unpack);
            let expected = ["another of the 2", "another version"][group.rank()];
            assert!(said.unwrap_err().to_string().contains(expected));
        });
    }

    #[test]
    fn rows_of_all_shards_are_returned_in_order() {
        let rows = |items: &[f64]| Ok(items.iter().flat_map(|item| [*item, -item]).collect());
        for processes in [2, 3] {
            in_process_group(processes, |group| {
                let all = group.map_shards(&[1.0, 2.0], 2, rows).unwrap();
                assert_eq!(all, [1.0, -1.0, 2.0, -2.0]);
            });
        }
        let alone = ProcessGroup::single().map_shards(&[3.0], 2, rows);
        assert_eq!(alone.unwrap(), [3.0, -3.0]);
    }
}
