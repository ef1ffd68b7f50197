//! How patches are batched when memory is short.

/// How a volume is worked through; what is less takes less memory and more time, and gives the same labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frugality {
    /// Slices or patches that pass through a network at once; none: as many as the recipe says.
    pub batch: Option<usize>,
    /// Planes of logits that are restored at once; none: as many as usual.
    pub portion: Option<usize>,
}

impl Frugality {
    /// What takes the least memory.
    pub const LEAST: Self = Self {
        batch: Some(1),
        portion: Some(1),
    };

    /// From what is fastest to what takes the least.
    pub const STEPS: [Self; 4] = [
        Self {
            batch: None,
            portion: None,
        },
        Self {
            batch: Some(4),
            portion: Some(6),
        },
        Self {
            batch: Some(1),
            portion: Some(3),
        },
        Self::LEAST,
    ];
}
