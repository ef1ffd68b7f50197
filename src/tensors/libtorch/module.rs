//! Whole networks between Burn's modules and libtorch: weights to train, weights to use.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor as BurnTensor;
use burn_tch::{LibTorch, TchTensor};
use tch::{Kind, Tensor};

use super::ops::{channels_last, failed, native};
use crate::error::{Error, Result};
use crate::tensors::networks::Network;
use crate::tensors::weights::{PathNames, is_trained};

/// A Burn tensor around a libtorch one.
pub(super) fn wrapped<const D: usize>(tensor: Tensor) -> BurnTensor<D> {
    BurnTensor::from_primitive::<LibTorch>(TchTensor::new(tensor))
}

/// `network` with weights of its own, channels side by side in memory; those that are trained ask libtorch
/// for gradients.
pub(super) fn trainable(network: Network) -> Result<Network> {
    converted(network, &|tensor, trained| {
        let own = channels_last(&tensor, Kind::Float)?
            .f_detach()
            .and_then(|tensor| tensor.f_clone(&tensor))
            .map_err(failed)?;
        own.f_set_requires_grad(trained).map_err(failed)
    })
}

/// `network` as it is used: batch normalisation inside the convolutions, weights in `kind`.
pub(super) fn usable(network: Network, kind: Kind) -> Result<Network> {
    let _no_grad = tch::no_grad_guard();
    converted(network.folded(), &|tensor, _| {
        // Normalisations that are left compute in f32.
        let kind = if tensor.dim() > 1 { kind } else { Kind::Float };
        let own = channels_last(&tensor.f_detach().map_err(failed)?, kind)?;
        own.f_set_requires_grad(false).map_err(failed)
    })
}

type Convert<'a> = &'a dyn Fn(Tensor, bool) -> Result<Tensor>;

fn converted(network: Network, convert: Convert) -> Result<Network> {
    struct Mapper<'a> {
        names: PathNames,
        convert: Convert<'a>,
        problem: Option<Error>,
    }
    impl ModuleMapper for Mapper<'_> {
        fn map_float<const D: usize>(
            &mut self,
            param: Param<BurnTensor<D>>,
        ) -> Param<BurnTensor<D>> {
            let trained = is_trained(&self.names.current());
            let (id, value, mapper) = param.consume();
            let kept = value.clone();
            let value = match native(value).and_then(|tensor| (self.convert)(tensor, trained)) {
                Ok(tensor) => wrapped(tensor),
                Err(error) => {
                    self.problem.get_or_insert(error);
                    kept
                }
            };
            Param::from_mapped_value(id, value, mapper)
        }
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.names.enter(name, container_type);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.names.exit();
        }
    }
    let mut mapper = Mapper {
        names: PathNames::default(),
        convert,
        problem: None,
    };
    let network = network.map(&mut mapper);
    match mapper.problem {
        Some(problem) => Err(problem),
        None => Ok(network),
    }
}

/// The weights of `network` that are trained, by name; they share memory with the network's.
pub(super) fn trained_weights(network: &Network) -> Result<Vec<(String, Tensor)>> {
    struct Visitor {
        names: PathNames,
        found: Vec<(String, Tensor)>,
        problem: Option<Error>,
    }
    impl ModuleVisitor for Visitor {
        fn visit_float<const D: usize>(&mut self, param: &Param<BurnTensor<D>>) {
            match native(param.val()) {
                Ok(tensor) if tensor.requires_grad() => {
                    self.found.push((self.names.current(), tensor));
                }
                Ok(_) => {}
                Err(error) => self.problem = Some(error),
            }
        }
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.names.enter(name, container_type);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.names.exit();
        }
    }
    let mut visitor = Visitor {
        names: PathNames::default(),
        found: Vec::new(),
        problem: None,
    };
    network.visit(&mut visitor);
    match visitor.problem {
        Some(problem) => Err(problem),
        None => Ok(visitor.found),
    }
}
