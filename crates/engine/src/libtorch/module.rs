//! Whole networks between Burn's modules and libtorch: weights to train, weights to use, a pass through one.

use burn::module::Param;
use burn::tensor::Tensor as BurnTensor;
use burn_tch::{LibTorch, TchTensor};
use tch::{Kind, Tensor};

use super::ops::{SharedTensor, channels_last, failed, native};
use crate::blocks::Ops;
use crate::freezing::is_frozen;
use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::{Extras, Network, PassOutputs};
use crate::weights::is_trained;
use ctseg_base::{Error, Result};

/// A Burn tensor around a libtorch one.
pub(super) fn wrapped<const D: usize>(tensor: Tensor) -> BurnTensor<D> {
    BurnTensor::from_primitive::<LibTorch>(TchTensor::new(tensor))
}

/// `network` with weights of its own, channels side by side in memory; those that are trained ask libtorch
/// for gradients, but for those of the first `frozen` levels of the encoder.
pub(super) fn trainable(network: Network, frozen: usize) -> Result<Network> {
    converted(network, &|tensor, name| {
        let own = copied(&channels_last(&tensor, Kind::Float)?)?;
        own.f_set_requires_grad(is_trained(name) && !is_frozen(name, frozen))
            .map_err(failed)
    })
}

/// `network` with memory of its own, laid out as [`trainable`] does, outside of any graph.
pub(super) fn owned(network: Network) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    converted(network, &|tensor, _| {
        let tensor = tensor.f_detach().map_err(failed)?;
        copied(&channels_last(&tensor, Kind::Float)?)
    })
}

/// `network` as it is used: batch normalisation inside the convolutions, weights in `kind`.
pub(super) fn usable(network: Network, kind: Kind) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    converted(network.folded(), &|tensor, _| {
        // Normalisations that are left compute in f32.
        let kind = if tensor.dim() > 1 { kind } else { Kind::Float };
        copied(&channels_last(&tensor.f_detach().map_err(failed)?, kind)?)
    })
}

/// The same values, laid out alike, in memory of their own.
fn copied(tensor: &Tensor) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let mut own = tensor.f_zeros_like().map_err(failed)?;
    own.f_copy_(tensor).map_err(failed)?;
    Ok(own)
}

type Convert<'a> = &'a dyn Fn(Tensor, &str) -> Result<Tensor>;

fn converted(network: Network, convert: Convert) -> Result<Network> {
    struct Mapper<'a> {
        convert: Convert<'a>,
        problem: Option<Error>,
    }
    impl NamedMapper for Mapper<'_> {
        fn map<const D: usize>(
            &mut self,
            name: String,
            param: Param<BurnTensor<D>>,
        ) -> Param<BurnTensor<D>> {
            let (id, value, mapper) = param.consume();
            let kept = value.clone();
            let value = match native(value).and_then(|tensor| (self.convert)(tensor, &name)) {
                Ok(tensor) => wrapped(tensor),
                Err(error) => {
                    self.problem.get_or_insert(error);
                    kept
                }
            };
            Param::from_mapped_value(id, value, mapper)
        }
    }
    let mut mapper = Mapper {
        convert,
        problem: None,
    };
    let network = map_named(network, &mut mapper);
    match mapper.problem {
        Some(problem) => Err(problem),
        None => Ok(network),
    }
}

/// The tensors of `network` by name, sharing its memory: weights that are trained ask for gradients, running
/// statistics do not.
pub(super) fn tensors_of(network: &Network) -> Result<Vec<(String, Tensor)>> {
    struct Visitor {
        found: Vec<(String, Tensor)>,
        problem: Option<Error>,
    }
    impl NamedVisitor for Visitor {
        fn visit<const D: usize>(&mut self, name: String, param: &Param<BurnTensor<D>>) {
            match native(param.val()) {
                Ok(tensor) => self.found.push((name, tensor)),
                Err(error) => self.problem = Some(error),
            }
        }
    }
    let mut visitor = Visitor {
        found: Vec::new(),
        problem: None,
    };
    visit_named(network, &mut visitor);
    match visitor.problem {
        Some(problem) => Err(problem),
        None => Ok(visitor.found),
    }
}

/// Operations of libtorch's tensors for slices and for volumes.
pub(super) trait AnyRank:
    Ops<4, Tensor = SharedTensor> + Ops<5, Tensor = SharedTensor>
{
}

impl<E> AnyRank for E where E: Ops<4, Tensor = SharedTensor> + Ops<5, Tensor = SharedTensor> {}

/// Logits of a batch, in `kind`, and what else is wanted.
///
/// # Shapes
/// As [`Network::outputs`].
pub(super) fn outputs(
    network: &Network,
    ops: &impl AnyRank,
    input: &Tensor,
    kind: Kind,
    wanted: Extras,
) -> Result<PassOutputs<Tensor>> {
    let (outputs, flat) = match network {
        // The slices of each channel one after the other as channels.
        Network::Slices(network) => {
            let slices = input.f_flatten(1, 2).map_err(failed)?;
            let slices = SharedTensor(channels_last(&slices, kind)?);
            (network.outputs(ops, slices, wanted)?, true)
        }
        Network::Volumes(network) => {
            let input = SharedTensor(channels_last(input, kind)?);
            (network.outputs(ops, input, wanted)?, false)
        }
    };
    let volumes = |tensors: Vec<SharedTensor>| -> Result<Vec<Tensor>> {
        let volume = |tensor: SharedTensor| match flat {
            true => tensor.0.f_unsqueeze(2).map_err(failed),
            false => Ok(tensor.0),
        };
        tensors.into_iter().map(volume).collect()
    };
    Ok(PassOutputs {
        logits: volumes(outputs.logits)?,
        maps: volumes(outputs.maps)?,
    })
}
