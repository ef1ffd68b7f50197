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
}
