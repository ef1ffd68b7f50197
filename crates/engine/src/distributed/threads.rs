//! Threads in the place of processes, for tests.

use std::sync::{Arc, Barrier, Mutex};

use super::process_group::{Collective, Team};
use ctseg_base::Result;

struct Threads {
    sums: Mutex<Vec<f64>>,
    bytes: Mutex<Vec<u8>>,
    met: Barrier,
}

struct Thread(Arc<Threads>, usize);

impl Collective for Thread {
    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let mut wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        self.sum_f64(&mut wide)?;
        for (to, from) in values.iter_mut().zip(wide) {
            *to = from as f32;
        }
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        {
            let mut sums = self.0.sums.lock().unwrap();
            sums.resize(values.len(), 0.0);
            for (sum, value) in sums.iter_mut().zip(values.iter()) {
                *sum += value;
            }
        }
        self.0.met.wait();
        values.copy_from_slice(&self.0.sums.lock().unwrap());
        if self.0.met.wait().is_leader() {
            self.0.sums.lock().unwrap().clear();
        }
        self.0.met.wait();
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        if self.1 == 0 {
            *self.0.bytes.lock().unwrap() = bytes.to_vec();
        }
        self.0.met.wait();
        bytes.copy_from_slice(&self.0.bytes.lock().unwrap());
        self.0.met.wait();
        Ok(())
    }

    fn end(&self) -> Result<()> {
        self.0.met.wait();
        Ok(())
    }
}

/// Runs `work` in `size` threads that are a team.
pub(crate) fn in_team(size: usize, work: impl Fn(&Team) + Send + Sync) {
    let threads = Arc::new(Threads {
        sums: Mutex::default(),
        bytes: Mutex::default(),
        met: Barrier::new(size),
    });
    std::thread::scope(|scope| {
        for rank in 0..size {
            let (threads, work) = (Arc::clone(&threads), &work);
            scope.spawn(move || {
                let collective = Arc::new(Thread(threads, rank));
                let team = Team::of((rank, size), collective, |_| {}).unwrap();
                work(&team);
                team.part();
                team.end().unwrap();
            });
        }
    });
}
