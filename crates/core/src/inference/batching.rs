//! Batch and chunk sizes when memory is limited.

/// Sizes of the working set. Smaller values take less memory and more time, and give the same labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Batch size, in slices or patches; `None` for the recipe's.
    pub batch: Option<usize>,
    /// Planes of logits that are exported at once; `None` for the default.
    pub chunk_planes: Option<usize>,
}

impl Batching {
    /// Takes the least memory.
    pub const LEAST: Self = Self {
        batch: Some(1),
        chunk_planes: Some(1),
    };

    /// From the fastest to the one that takes the least memory.
    pub const LEVELS: [Self; 4] = [
        Self {
            batch: None,
            chunk_planes: None,
        },
        Self {
            batch: Some(4),
            chunk_planes: Some(6),
        },
        Self {
            batch: Some(1),
            chunk_planes: Some(3),
        },
        Self::LEAST,
    ];
}
