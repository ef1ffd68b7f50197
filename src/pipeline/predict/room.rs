//! Room for the volumes that are in memory at a time, in bytes that their headers promise.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits::memory::kept_at_most;
use crate::values::Grid;

/// For each worker: a volume of 512 × 512 × 600 that is segmented and another one beside it.
const BYTES_PER_WORKER: u64 = 2 << 30;

/// Bytes for each voxel: Hounsfield units and labels.
const VOXEL_BYTES: u64 = 6;

/// How much volumes that are read, wait, are segmented and written may take together. A volume that is larger
/// than all room passes alone.
pub(super) struct Room {
    bytes: u64,
    taken: Mutex<Taken>,
    freed: Condvar,
}

#[derive(Default)]
struct Taken {
    bytes: u64,
    volumes: usize,
}

/// A volume's place; dropped when the volume is.
pub(super) struct Place<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Room {
    pub(super) fn for_workers(workers: usize) -> Self {
        Self::new(kept_at_most(BYTES_PER_WORKER * workers.max(1) as u64))
    }

    /// For one volume at a time.
    pub(super) fn for_one() -> Self {
        Self::new(0)
    }

    fn new(bytes: u64) -> Self {
        Self {
            bytes,
            taken: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Waits until there is room for a volume on `grid`.
    pub(super) fn place(&self, grid: &Grid) -> Place<'_> {
        self.place_of((grid.voxels() as u64).saturating_mul(VOXEL_BYTES))
    }

    fn place_of(&self, bytes: u64) -> Place<'_> {
        let full =
            |taken: &mut Taken| taken.volumes > 0 && taken.bytes.saturating_add(bytes) > self.bytes;
        let mut taken = self
            .freed
            .wait_while(self.taken(), full)
            .unwrap_or_else(PoisonError::into_inner);
        taken.bytes = taken.bytes.saturating_add(bytes);
        taken.volumes += 1;
        Place { room: self, bytes }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.bytes = taken.bytes.saturating_sub(self.bytes);
        taken.volumes -= 1;
        self.room.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn volumes_share_the_room_and_huge_ones_pass_alone() {
        let room = Room::new(100);
        let (inside, most) = (AtomicU64::new(0), AtomicU64::new(0));
        let alone = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for index in 0..40u64 {
                let (room, inside, most, alone) = (&room, &inside, &most, &alone);
                scope.spawn(move || {
                    let bytes = if index % 8 == 0 { 1000 } else { 30 };
                    let _place = room.place_of(bytes);
                    let now = inside.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    if now > 100 {
                        assert_eq!(now, 1000, "a huge volume was not alone");
                        alone.fetch_add(1, Ordering::SeqCst);
                    } else {
                        most.fetch_max(now, Ordering::SeqCst);
                    }
                    std::thread::yield_now();
                    inside.fetch_sub(bytes, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(alone.into_inner(), 5);
        assert!(most.into_inner() <= 90);
        assert_eq!(room.taken().volumes, 0);
    }
}
