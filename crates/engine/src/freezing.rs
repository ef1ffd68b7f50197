//! Which parts of a network keep their weights while the rest learns.

use burn::module::Param;
use burn::tensor::Tensor;

use crate::named_parameters::NamedMapper;

/// Whether the tensor of this name belongs to the first `levels` levels of an encoder, the finest first; a stem
/// before them belongs to the first. Such a level also keeps its running statistics, and normalises by them.
pub fn is_frozen(name: &str, levels: usize) -> bool {
    let mut parts = name.split('.');
    let level = match parts.next() {
        Some("stem") => Some(0),
        Some("encoder") => parts.next().and_then(|level| level.parse::<usize>().ok()),
        _ => None,
    };
    level.is_some_and(|level| level < levels)
}

/// Takes the gradients of frozen parameters away (Burn's autodiff).
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
    fn levels_are_told_by_name() {
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
