//! Conversion of whole networks between Burn modules and libtorch: for training, for inference, and a pass through
//! one.

use burn::module::Param;
use burn::tensor::Tensor as BurnTensor;
use burn_tch::{LibTorch, TchTensor};
use tch::{Kind, Tensor};

use super::int8::Int8Ops;
use super::ops::{SharedTensor, TorchOps, channels_last, native, torch_error};
use crate::freezing::is_frozen;
use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::{Extras, Network, PassOutputs, Ranks};
use crate::weights::is_trained;
use ctseg_base::{Error, Result};

/// Wraps a libtorch tensor as a Burn tensor.
pub(super) fn wrapped<const D: usize>(tensor: Tensor) -> BurnTensor<D> {
    BurnTensor::from_primitive::<LibTorch>(TchTensor::new(tensor))
}

/// A copy of `network` for training: channels-last, with gradients enabled for trained weights except those of the
/// first `frozen` encoder levels.
pub(super) fn for_training(network: Network, frozen: usize) -> Result<Network> {
    converted(network, &|tensor, name| {
        let own = copied(&channels_last(&tensor, Kind::Float)?)?;
        own.f_set_requires_grad(is_trained(name) && !is_frozen(name, frozen))
            .map_err(torch_error)
    })
}

/// A copy of `network` in the layout of [`for_training`], without a graph.
pub(super) fn deep_copy(network: Network) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    converted(network, &|tensor, _| {
        let tensor = tensor.f_detach().map_err(torch_error)?;
        copied(&channels_last(&tensor, Kind::Float)?)
    })
}

/// `network` for inference: batch normalisation folded into convolutions, weights in `kind`.
pub(super) fn for_inference(network: Network, kind: Kind) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    converted(network.folded(), &|tensor, _| {
        // Remaining normalisations compute in f32.
        let kind = if tensor.dim() > 1 { kind } else { Kind::Float };
        copied(&channels_last(
            &tensor.f_detach().map_err(torch_error)?,
            kind,
        )?)
    })
}

/// A copy with the same values and layout.
fn copied(tensor: &Tensor) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let mut own = tensor.f_zeros_like().map_err(torch_error)?;
    own.f_copy_(tensor).map_err(torch_error)?;
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

/// The tensors of `network` by name, sharing its memory. Trained weights require gradients, running statistics do
/// not.
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

/// A batch of volumes, and the type to compute in.
pub(super) struct Batch {
    tensor: Tensor,
    kind: Kind,
}

/// Implements [`Ranks`] for operations on [`SharedTensor`].
macro_rules! torch_ranks {
    ($ops:ty) => {
        impl Ranks for $ops {
            type Input = Batch;
            type Output = Tensor;

            fn to_slices(Batch { tensor, kind }: Batch) -> Result<SharedTensor> {
                let slices = tensor.f_flatten(1, 2).map_err(torch_error)?;
                Ok(SharedTensor(channels_last(&slices, kind)?))
            }

            fn to_volumes(Batch { tensor, kind }: Batch) -> Result<SharedTensor> {
                Ok(SharedTensor(channels_last(&tensor, kind)?))
            }

            fn from_slices(slices: SharedTensor) -> Result<Tensor> {
                slices.0.f_unsqueeze(2).map_err(torch_error)
            }

            fn from_volumes(volumes: SharedTensor) -> Result<Tensor> {
                Ok(volumes.0)
            }
        }
    };
}

torch_ranks!(TorchOps);
torch_ranks!(Int8Ops<'_>);

/// Logits of a batch, in `kind`, and the additional `wanted` outputs.
///
/// # Shapes
/// As [`Network::outputs`].
pub(super) fn outputs(
    network: &Network,
    ops: &impl Ranks<Input = Batch, Output = Tensor>,
    input: &Tensor,
    kind: Kind,
    wanted: Extras,
) -> Result<PassOutputs<Tensor>> {
    let tensor = input.shallow_clone();
    network.pass(ops, Batch { tensor, kind }, wanted)
}
