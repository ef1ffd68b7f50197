//! Network outputs in host memory.

use std::fmt;
use std::ops::Deref;

/// Values in host memory; `Borrowed` memory belongs to the engine and returns to it on drop.
pub enum HostValues {
    Owned(Vec<f32>),
    Borrowed(Box<dyn Deref<Target = [f32]> + Send>),
}

/// Logits in host memory: (patch, structure, z, y, x), flattened, and their shape.
pub type Logits = (HostValues, [usize; 5]);

impl HostValues {
    /// The values as a vector; copied if they are borrowed.
    pub fn into_vec(self) -> Vec<f32> {
        match self {
            Self::Owned(values) => values,
            Self::Borrowed(values) => values.to_vec(),
        }
    }
}

impl Deref for HostValues {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Owned(values) => values,
            Self::Borrowed(values) => values,
        }
    }
}

impl From<Vec<f32>> for HostValues {
    fn from(values: Vec<f32>) -> Self {
        Self::Owned(values)
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
