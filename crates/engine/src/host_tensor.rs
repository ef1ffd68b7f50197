//! What networks give, in plain memory.

use std::fmt;
use std::ops::Deref;

/// Numbers in plain memory; an engine may have lent it, and has it back when they are dropped.
pub enum HostValues {
    Plain(Vec<f32>),
    Lent(Box<dyn Deref<Target = [f32]> + Send>),
}

/// Logits in plain memory: (patch, structure, z, y, x), flattened, and that shape.
pub type Logits = (HostValues, [usize; 5]);

impl HostValues {
    /// The numbers in a vector; copied where the memory is lent.
    pub fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Plain(values) => values,
            Self::Lent(values) => values.to_vec(),
        }
    }
}

impl Deref for HostValues {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Plain(values) => values,
            Self::Lent(values) => values,
        }
    }
}

impl From<Vec<f32>> for HostValues {
    fn from(values: Vec<f32>) -> Self {
        Self::Plain(values)
    }
}

impl PartialEq for HostValues {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for HostValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
