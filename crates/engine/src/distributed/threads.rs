//! Threads in place of processes, for tests.

use std::sync::{Arc, Barrier, Mutex};

use super::process_group::{Collective, ProcessGroup};
use ctseg_base::Result;

struct Threads {
    sums: Mutex<Vec<f64>>,
    bytes: Mutex<Vec<u8>>,
    barrier: Barrier,
}

struct Thread(Arc<Threads>, usize);

impl Collective for Thread {
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        let mut wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        self.all_reduce_f64(&mut wide)?;
        for (to, from) in values.iter_mut().zip(wide) {
            *to = from as f32;
        }
        Ok(())
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        {
            let mut sums = self.0.sums.lock().unwrap();
            sums.resize(values.len(), 0.0);
            for (sum, value) in sums.iter_mut().zip(values.iter()) {
                *sum += value;
            }
        }
        self.0.barrier.wait();
        values.copy_from_slice(&self.0.sums.lock().unwrap());
        if self.0.barrier.wait().is_leader() {
            self.0.sums.lock().unwrap().clear();
        }
        self.0.barrier.wait();
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        if self.1 == 0 {
            *self.0.bytes.lock().unwrap() = bytes.to_vec();
        }
        self.0.barrier.wait();
        bytes.copy_from_slice(&self.0.bytes.lock().unwrap());
        self.0.barrier.wait();
        Ok(())
    }

    fn shutdown(&self) -> Result<()> {
        self.0.barrier.wait();
        Ok(())
    }
}

/// Runs `work` in `size` threads that form a process group.
pub(crate) fn in_process_group(size: usize, work: impl Fn(&ProcessGroup) + Send + Sync) {
    let threads = Arc::new(Threads {
        sums: Mutex::default(),
        bytes: Mutex::default(),
        barrier: Barrier::new(size),
    });
    std::thread::scope(|scope| {
        for rank in 0..size {
            let (threads, work) = (Arc::clone(&threads), &work);
            scope.spawn(move || {
                let collective = Arc::new(Thread(threads, rank));
                let group = ProcessGroup::new((rank, size), collective, |_| {}).unwrap();
                work(&group);
                group.mark_finished();
                group.shutdown().unwrap();
            });
        }
    });
}
