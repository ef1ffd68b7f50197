//! Freezing of encoder levels during training.

use burn::module::Param;
use burn::tensor::Tensor;

use crate::named_parameters::NamedMapper;

/// Whether the tensor of this name belongs to the first `levels` levels of the encoder, finest first; the stem counts
/// as part of the first level. A frozen level also keeps its running statistics and normalises with them.
pub fn is_frozen(name: &str, levels: usize) -> bool {
    let mut parts = name.split('.');
    let level = match parts.next() {
        Some("stem") => Some(0),
        Some("encoder") => parts.next().and_then(|level| level.parse::<usize>().ok()),
        _ => None,
    };
    level.is_some_and(|level| level < levels)
}

/// Disables gradients of frozen parameters (Burn's autodiff).
pub(super) struct Freeze(pub usize);

impl NamedMapper for Freeze {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_frozen(&name, self.0) {
            param.set_require_grad(false)
        } else {
            param
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_by_name() {
        let frozen = |levels: usize| {
            let names = [
                "stem.0.conv.weight",
                "encoder.0.1.norm.gamma",
                "encoder.1.0.conv.weight",
                "encoder.10.0.conv.weight",
                "decoder.0.0.conv.weight",
                "head.bias",
            ];
            names.map(|name| is_frozen(name, levels))
        };
        assert_eq!(frozen(0), [false; 6]);
        assert_eq!(frozen(1), [true, true, false, false, false, false]);
        assert_eq!(frozen(2), [true, true, true, false, false, false]);
    }
}
