//! Limits the number of concurrent cases by their memory.

use std::sync::{Condvar, Mutex, PoisonError};

/// A semaphore over a number of bytes.
pub struct MemorySemaphore {
    free: Mutex<u64>,
    changed: Condvar,
    total: u64,
}

/// Releases its bytes when dropped.
pub struct MemoryPermit<'a> {
    semaphore: &'a MemorySemaphore,
    bytes: u64,
}

impl MemorySemaphore {
    /// A semaphore of `bytes`; with 0 it admits one holder at a time.
    pub fn new(bytes: u64) -> Self {
        let total = bytes.max(1);
        Self {
            free: Mutex::new(total),
            changed: Condvar::new(),
            total,
        }
    }

    /// Waits until `bytes` are free. A request for more than the total waits until all are free.
    pub fn acquire(&self, bytes: u64) -> MemoryPermit<'_> {
        let bytes = bytes.clamp(1, self.total);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(free, |free| *free < bytes);
        *waited.unwrap_or_else(PoisonError::into_inner) -= bytes;
        MemoryPermit {
            semaphore: self,
            bytes,
        }
    }
}

impl Drop for MemoryPermit<'_> {
    fn drop(&mut self) {
        let free = self.semaphore.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.semaphore.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn held_bytes_never_exceed_the_total() {
        let (semaphore, held, most) = (
            MemorySemaphore::new(100),
            AtomicU64::new(0),
            AtomicU64::new(0),
        );
        std::thread::scope(|scope| {
            for worker in 0..8u64 {
                let (semaphore, held, most) = (&semaphore, &held, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        // Some need more than the total.
                        let bytes = 1 + (worker * 31 + round * 17) % 130;
                        let permit = semaphore.acquire(bytes);
                        let counted = bytes.min(100);
                        let now = held.fetch_add(counted, Ordering::SeqCst) + counted;
                        most.fetch_max(now, Ordering::SeqCst);
                        held.fetch_sub(counted, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 100);
        drop(semaphore.acquire(100)); // All are released.
    }

    #[test]
    fn a_request_above_the_total_is_exclusive() {
        for total in [100, 0] {
            let (semaphore, held) = (MemorySemaphore::new(total), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for index in 0..40u64 {
                    let (semaphore, held) = (&semaphore, &held);
                    scope.spawn(move || {
                        let bytes = if index % 8 == 0 { 1000 } else { 30 };
                        let _permit = semaphore.acquire(bytes);
                        let others = held.fetch_add(bytes, Ordering::SeqCst);
                        let most = total.saturating_sub(bytes);
                        assert!(others <= most, "{bytes} beside {others} of {total}");
                        std::thread::yield_now();
                        held.fetch_sub(bytes, Ordering::SeqCst);
                    });
                }
            });
        }
    }
}
