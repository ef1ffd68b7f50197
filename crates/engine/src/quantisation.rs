//! What 8-bit inference must know of a network beforehand: the values that its convolutions take in.

use std::any::Any;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// The least and the largest input of each convolution, in the order in which a network computes them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InputRanges(pub Vec<[f32; 2]>);

impl InputRanges {
    /// Wide enough for both: of the same network on other inputs.
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

/// How an engine computes convolutions.
pub enum Convolutions {
    /// As the networks' weights are.
    Plain,
    /// Likewise, while each network's inputs are looked at.
    Recorded(Vec<Mutex<InputRanges>>),
    /// In 8-bit integers, with what the engine needs for that of each network.
    Int8(Vec<Box<dyn Any + Send + Sync>>),
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
