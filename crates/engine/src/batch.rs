//! A training batch in host memory.

/// Patches and their targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (patch, channel, z, y, x), flattened
    pub input: Vec<f32>,
    pub input_shape: [usize; 5],
    /// (patch, structure, z, y, x), flattened, 0 or 1
    pub targets: Vec<f32>,
    pub targets_shape: [usize; 5],
    /// Signed distance to the structure's surface in mm, negative inside; same shape as `targets`. Only if the loss
    /// needs it.
    pub distances: Option<Vec<f32>>,
    /// Size of the whole batch, of which this process may hold only its share.
    pub whole: usize,
}

impl Batch {
    /// Whether every process holds the whole batch, because there are fewer patches than processes.
    pub(crate) fn is_whole(&self) -> bool {
        self.input_shape[0] == self.whole
    }
}
