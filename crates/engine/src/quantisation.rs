//! Input ranges of convolutions, which 8-bit inference needs beforehand.

use std::any::Any;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// Minimum and maximum input of each convolution, in order of execution.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputRanges(pub Vec<[f32; 2]>);

/// How convolutions are computed.
pub enum Convolutions {
    /// In the type of the weights.
    Plain,
    /// Same, and input ranges of each network are recorded.
    Recorded(Vec<Mutex<InputRanges>>),
    /// In 8-bit integers, with the engine's own data per network.
    Int8(Vec<Box<dyn Any + Send + Sync>>),
}

/// The convolutions of some of a stage's networks, beginning with that at index `first`.
#[derive(Clone, Copy)]
pub struct ConvolutionsFrom<'a> {
    /// Of all networks.
    pub all: &'a Convolutions,
    pub first: usize,
}
