//! Lets as many cases in as there is memory for.

use std::sync::{Condvar, Mutex, PoisonError};

/// A number of bytes that those inside share.
pub struct Gate {
    free: Mutex<u64>,
    changed: Condvar,
    whole: u64,
}

/// Gives its bytes back when it is dropped.
pub struct Admitted<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Gate {
    /// With no bytes at all there is still one inside at a time.
    pub fn new(bytes: u64) -> Self {
        let whole = bytes.max(1);
        Self {
            free: Mutex::new(whole),
            changed: Condvar::new(),
            whole,
        }
    }

    /// Waits until so many `bytes` are free; who needs more than there are waits until nobody else is inside.
    pub fn admit(&self, bytes: u64) -> Admitted<'_> {
        let bytes = bytes.clamp(1, self.whole);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(free, |free| *free < bytes);
        *waited.unwrap_or_else(PoisonError::into_inner) -= bytes;
        Admitted { gate: self, bytes }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let free = self.gate.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_are_more_bytes_inside_than_there_are() {
        let (gate, inside, most) = (Gate::new(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..8u64 {
                let (gate, inside, most) = (&gate, &inside, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        // Some need more than there is.
                        let bytes = 1 + (worker * 31 + round * 17) % 130;
                        let admitted = gate.admit(bytes);
                        let counted = bytes.min(100);
                        let now = inside.fetch_add(counted, Ordering::SeqCst) + counted;
                        most.fetch_max(now, Ordering::SeqCst);
                        inside.fetch_sub(counted, Ordering::SeqCst);
                        drop(admitted);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 100);
        drop(gate.admit(100)); // All are back.
    }

    #[test]
    fn who_needs_more_than_there_is_is_alone() {
        for whole in [100, 0] {
            let (gate, inside) = (Gate::new(whole), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for index in 0..40u64 {
                    let (gate, inside) = (&gate, &inside);
                    scope.spawn(move || {
                        let bytes = if index % 8 == 0 { 1000 } else { 30 };
                        let _admitted = gate.admit(bytes);
                        let others = inside.fetch_add(bytes, Ordering::SeqCst);
                        let most = whole.saturating_sub(bytes);
                        assert!(others <= most, "{bytes} beside {others} of {whole}");
                        std::thread::yield_now();
                        inside.fetch_sub(bytes, Ordering::SeqCst);
                    });
                }
            });
        }
    }
}
