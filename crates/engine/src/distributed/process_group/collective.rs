//! Collective operations of distributed training.

use std::sync::Arc;

use ctseg_base::Result;

/// Collective operations. Every process must call the same functions in the same order, with arrays of the same
/// length; a call returns once all processes have made it.
pub trait Collective: Send + Sync {
    /// Replaces each value by its sum over the processes, bit-identical in all of them.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()>;

    /// Same, in 64 bits.
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces `bytes` by those of rank 0.
    fn broadcast(&self, bytes: &mut [u8]) -> Result<()>;

    /// [`Collective::all_reduce_f32`] of values on the GPU; `None` if they must be copied to the CPU first.
    fn all_reduce_gpu(&self, _values: GpuValues) -> Option<Result<()>> {
        None
    }

    /// Whether other processes are unreachable, if the collective can detect it. May be called during an operation.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Waits for all other processes, then shuts down.
    fn shutdown(&self) -> Result<()>;
}

/// Values in the memory of this process's GPU.
#[derive(Debug, Clone, Copy)]
pub struct GpuValues {
    pub address: *mut f32,
    pub count: usize,
}

/// Creates a [`Collective`] of processes with one GPU each.
pub trait GpuBackend {
    /// A unique id, to be shared with all processes that will join.
    fn new_unique_id(&self) -> Result<Vec<u8>>;

    /// Joins the other processes by their shared `id`, as rank `ranks.0` of `ranks.1` with a GPU of its own.
    /// Operations other than sums of gradients use `cpu_collective`, if given.
    fn join(
        &self,
        id: &[u8],
        ranks: (usize, usize),
        cpu_collective: Option<Box<dyn Collective>>,
    ) -> Result<Arc<dyn Collective>>;
}
