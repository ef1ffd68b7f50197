//! The average of a network's weights over its steps (Polyak and Juditsky, SIAM J. Control Optim. 1992; with
//! exponential weights, as TensorFlow's `ExponentialMovingAverage`), and how Burn's engines keep it.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::Network;
use crate::weights::{
    HostTensor, NamedTensors, below_prefix, network_tensors, prefixed, with_tensors,
};
use ctseg_base::Result;

/// Stands before the names of averaged tensors in a learner's state.
const PREFIX: &str = "average.";

/// What is left of the average after step `steps` (from 1 on): `decay`, and less in the first steps, so that
/// the weights that training began with are soon forgotten (TensorFlow's with `num_updates`).
pub(crate) fn decay_after(steps: u64, decay: f64) -> f64 {
    let steps = steps as f64;
    decay.min((1.0 + steps) / (10.0 + steps))
}

/// The average that `state` tells of, else `network`'s own weights: a network on `device` without autodiff.
pub(crate) fn restored(
    network: &Network,
    state: &NamedTensors,
    device: &Device,
) -> Result<Network> {
    let saved = below_prefix(PREFIX, state);
    if saved.is_empty() {
        return Ok(network.valid());
    }
    with_tensors(network.clone(), &saved, device)
}

/// What [`restored`] reads back.
pub(crate) fn state_of(average: &Network) -> Result<impl Iterator<Item = (String, HostTensor)>> {
    Ok(prefixed(PREFIX, network_tensors(average)?))
}

/// The average on Burn's engines.
pub(super) struct BurnAverage {
    decay: f64,
    /// Without autodiff.
    pub(super) network: Network,
}

impl BurnAverage {
    /// `network` lies on `device` without autodiff.
    pub(super) fn new(
        network: &Network,
        decay: f64,
        state: &NamedTensors,
        device: &Device,
    ) -> Result<Self> {
        let network = restored(network, state, device)?;
        Ok(Self { decay, network })
    }

    /// Takes in `network`'s weights and running statistics after step `steps`.
    pub(super) fn follow(&mut self, network: &Network, steps: u64) {
        let mut current = Collector(BTreeMap::new());
        visit_named(&network.valid(), &mut current);
        let mut mapper = Toward {
            current: current.0,
            share: 1.0 - decay_after(steps, self.decay),
        };
        self.network = map_named(self.network.clone(), &mut mapper);
    }
}

/// All tensors by name, flattened.
struct Collector(BTreeMap<String, Tensor<1>>);

impl NamedVisitor for Collector {
    fn visit<const D: usize>(&mut self, name: String, param: &Param<Tensor<D>>) {
        self.0.insert(name, param.val().flatten(0, D - 1));
    }
}

/// Moves every tensor toward its current value by `share` of the way.
struct Toward {
    current: BTreeMap<String, Tensor<1>>,
    share: f64,
}

impl NamedMapper for Toward {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(current) = self.current.remove(&name) else {
            return param;
        };
        let (id, average, mapper) = param.consume();
        let shape = average.dims();
        let average: Tensor<1> = average.flatten(0, D - 1);
        // In this form rounding cannot let the two shares add up to anything but one.
        let average = average.clone() + (current - average) * self.share;
        Param::from_mapped_value(id, average.reshape(shape), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;
    use crate::learner::golden_average;

    #[test]
    fn the_average_equals_pytorchs() {
        let device = DeviceChoice::Auto.device().unwrap();
        golden_average::compare(&device, &mut |networks, decay| {
            let (first, later) = networks.split_first().unwrap();
            let mut average =
                BurnAverage::new(first, decay, &NamedTensors::new(), &device).unwrap();
            let mut after = Vec::new();
            for (index, network) in later.iter().enumerate() {
                average.follow(&network.clone().train(), index as u64 + 1);
                after.push(network_tensors(&average.network).unwrap());
            }
            after
        });
    }
}
