//! Input ranges of convolutions, which 8-bit inference needs beforehand.

use std::any::Any;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// Minimum and maximum input of each convolution, in order of execution.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputRanges(pub Vec<[f32; 2]>);

impl InputRanges {
    /// The union of both: the ranges of one network over all inputs.
    pub fn widened(mut self, other: &Self) -> Self {
        if self.0.is_empty() {
            return other.clone();
        }
        for ([low, high], [other_low, other_high]) in self.0.iter_mut().zip(&other.0) {
            *low = low.min(*other_low);
            *high = high.max(*other_high);
        }
        self
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow() {
        let first = InputRanges(vec![[-1.0, 2.0], [0.0, 1.0]]);
        let both = InputRanges::default()
            .widened(&first)
            .widened(&InputRanges(vec![[-0.5, 3.0], [-2.0, 0.5]]));
        assert_eq!(both, InputRanges(vec![[-1.0, 3.0], [-2.0, 1.0]]));
    }
}
