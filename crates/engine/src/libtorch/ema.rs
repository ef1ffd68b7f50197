//! Exponential moving average of the weights, in place on libtorch's tensors.

use tch::Tensor;

use super::module::{deep_copy, tensors_of};
use super::ops::torch_error;
use crate::device::Compute;
use crate::learner::ema::{decay_after, restored};
use crate::networks::Network;
use crate::weights::NamedTensors;
use ctseg_base::Result;

/// See [`crate::learner::ema`].
pub(super) struct TorchEma {
    decay: f64,
    pub(super) network: Network,
    /// Each averaged tensor and its current counterpart, sharing memory with their networks.
    pairs: Vec<(Tensor, Tensor)>,
}

impl TorchEma {
    /// Averages `followed`, whose tensors must be updated in place from now on.
    pub(super) fn new(
        followed: &Network,
        decay: f64,
        state: &NamedTensors,
        compute: &Compute,
    ) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let network = deep_copy(restored(followed, state, &compute.device)?)?;
        // Both lists are in the order of the network's layers.
        let pairs = tensors_of(&network)?
            .into_iter()
            .zip(tensors_of(followed)?)
            .map(|((_, average), (_, current))| Ok((average, current.f_detach()?)))
            .collect::<std::result::Result<_, _>>()
            .map_err(torch_error)?;
        Ok(Self {
            decay,
            network,
            pairs,
        })
    }

    /// Updates the average with the weights and running statistics after step `steps`.
    pub(super) fn update(&mut self, steps: u64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let share = 1.0 - decay_after(steps, self.decay);
        for (average, current) in &mut self.pairs {
            let moved = average.f_lerp_(current, share);
            moved.map(drop).map_err(torch_error)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Compute, DeviceChoice};
    use crate::learner::golden_average;
    use crate::libtorch::module::for_training;
    use crate::precision::{Precision, PrecisionChoice};
    use crate::weights::network_tensors;

    #[test]
    fn the_average_equals_pytorchs() {
        let precision = PrecisionChoice::Fixed(Precision::F32);
        let compute = Compute::open(DeviceChoice::LibTorchCpu, precision, 2).unwrap();
        golden_average::compare(&compute.device, &mut |networks, decay| {
            let (first, later) = networks.split_first().unwrap();
            let network = for_training(first.clone(), 0).unwrap();
            let nothing = NamedTensors::new();
            let mut average = TorchEma::new(&network, decay, &nothing, &compute).unwrap();
            let mut after = Vec::new();
            for (index, other) in later.iter().enumerate() {
                let _no_grad = tch::no_grad_guard();
                let pairs = tensors_of(&network).unwrap().into_iter();
                for ((_, mut here), (_, there)) in pairs.zip(tensors_of(other).unwrap()) {
                    here.f_copy_(&there).unwrap();
                }
                average.update(index as u64 + 1).unwrap();
                after.push(network_tensors(&average.network).unwrap());
            }
            after
        });
    }
}
