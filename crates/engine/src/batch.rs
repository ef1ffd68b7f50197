//! One training batch in plain memory.

/// Patches side by side with what the network should say of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (patch, channel, z, y, x), flattened
    pub input: Vec<f32>,
    pub input_shape: [usize; 5],
    /// (patch, structure, z, y, x), flattened, 0 or 1
    pub targets: Vec<f32>,
    pub targets_shape: [usize; 5],
    /// As `targets`: signed distance to the structure's surface in mm, negative inside; where the loss asks
    /// for it.
    pub distances: Option<Vec<f32>>,
    /// Patches of the batch of which these are one process's share; as many as there are here where it is all of it.
    pub whole: usize,
}

impl Batch {
    /// Whether each process has all of it, there being fewer patches than processes.
    pub(crate) fn is_whole(&self) -> bool {
        self.input_shape[0] == self.whole
    }
}
