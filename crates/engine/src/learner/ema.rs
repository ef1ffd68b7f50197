//! Exponential moving average of a network's weights (Polyak and Juditsky, SIAM J. Control Optim. 1992; TensorFlow's
//! `ExponentialMovingAverage`), with the implementation for Burn's engines.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::named_parameters::{NamedMapper, NamedVisitor, map_named, visit_named};
use crate::networks::Network;
use crate::weights::{
    HostTensor, NamedTensors, below_prefix, network_tensors, prefixed, with_tensors,
};
use ctseg_base::Result;

/// Prefix of averaged tensors in a learner's state.
const PREFIX: &str = "average.";

/// The decay at step `steps` (from 1): `decay`, but less in the first steps, so that the initial weights are soon
/// forgotten (TensorFlow's `num_updates`).
pub(crate) fn decay_after(steps: u64, decay: f64) -> f64 {
    let steps = steps as f64;
    decay.min((1.0 + steps) / (10.0 + steps))
}

/// The average saved in `state`, or `network`'s own weights if there is none: a network on `device` without autodiff.
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

/// The state that [`restored`] reads.
pub(crate) fn state_of(average: &Network) -> Result<impl Iterator<Item = (String, HostTensor)>> {
    Ok(prefixed(PREFIX, network_tensors(average)?))
}

/// The average for Burn's engines.
pub(super) struct BurnEma {
    decay: f64,
    /// Without autodiff.
    pub(super) network: Network,
}

impl BurnEma {
    /// `network` must be on `device`, without autodiff.
    pub(super) fn new(
        network: &Network,
        decay: f64,
        state: &NamedTensors,
        device: &Device,
    ) -> Result<Self> {
        let network = restored(network, state, device)?;
        Ok(Self { decay, network })
    }

    /// Updates the average with `network`'s weights and running statistics after step `steps`.
    pub(super) fn update(&mut self, network: &Network, steps: u64) {
        let mut current = Collector(BTreeMap::new());
        visit_named(&network.valid(), &mut current);
        let mut mapper = Lerp {
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

/// Moves every tensor towards its current value by the fraction `share`.
struct Lerp {
    current: BTreeMap<String, Tensor<1>>,
    share: f64,
}

impl NamedMapper for Lerp {
    fn map<const D: usize>(&mut self, name: String, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(current) = self.current.remove(&name) else {
            return param;
        };
        let (id, average, mapper) = param.consume();
        let shape = average.dims();
        let average: Tensor<1> = average.flatten(0, D - 1);
        // Written so that rounding cannot make the two weights sum to anything but one.
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
            let mut average = BurnEma::new(first, decay, &NamedTensors::new(), &device).unwrap();
            let mut after = Vec::new();
            for (index, network) in later.iter().enumerate() {
                average.update(&network.clone().train(), index as u64 + 1);
                after.push(network_tensors(&average.network).unwrap());
            }
            after
        });
    }
}
