//! What processes that train together sum by.

use std::sync::Arc;

use ctseg_base::Result;

/// What processes can do together. Every process must call the same functions in the same order, with arrays of
/// the same length; a call returns once all have come.
pub trait Collective: Send + Sync {
    /// Replaces each value by its sum over the processes, the same bits in each of them.
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;

    /// The same in 64 bits.
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces `bytes` by those of process 0.
    fn broadcast(&self, bytes: &mut [u8]) -> Result<()>;

    /// [`Collective::sum_f32`] of `count` values on the GPU; none where values must come to the processor first.
    fn sum_on_gpu(&self, _values: GpuValues) -> Option<Result<()>> {
        None
    }

    /// Whether the others are beyond reach, where the collective can tell; asked while it is at work.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Waits for all others, and ends.
    fn end(&self) -> Result<()>;
}

/// Values that lie on the GPU of this process.
#[derive(Debug, Clone, Copy)]
pub struct GpuValues {
    pub address: *mut f32,
    pub count: usize,
}

/// Forms a [`Collective`] of processes that have a GPU each.
pub trait GpuBackend {
    /// A name that no other meeting has, for all processes that will take part.
    fn new_meeting(&self) -> Result<Vec<u8>>;

    /// Meets the others by the `name` of a meeting, as process `ranks.0` of `ranks.1` with a GPU of its own. What is no
    /// sum of gradients goes by `beside`, where there is something.
    fn join(
        &self,
        name: &[u8],
        ranks: (usize, usize),
        beside: Option<Box<dyn Collective>>,
    ) -> Result<Arc<dyn Collective>>;
}
