//! The average of the weights over the steps, in place on libtorch's tensors.

use tch::Tensor;

use super::module::{owned, tensors_of};
use super::ops::failed;
use crate::device::Compute;
use crate::learner::ema::{decay_after, restored};
use crate::networks::Network;
use crate::weights::NamedTensors;
use ctseg_base::Result;

/// See [`crate::learner::average`].
pub(super) struct TorchAverage {
    decay: f64,
    pub(super) network: Network,
    /// Each tensor of `network` and the one that it follows, both sharing their network's memory.
    pairs: Vec<(Tensor, Tensor)>,
}

impl TorchAverage {
    /// Of `followed`, whose tensors must change in place from here on.
    pub(super) fn new(
        followed: &Network,
        decay: f64,
        state: &NamedTensors,
        compute: &Compute,
    ) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let network = owned(restored(followed, state, &compute.device)?)?;
        // Both lists are in the order of the network's layers.
        let pairs = tensors_of(&network)?
            .into_iter()
            .zip(tensors_of(followed)?)
            .map(|((_, average), (_, current))| Ok((average, current.f_detach()?)))
            .collect::<std::result::Result<_, _>>()
            .map_err(failed)?;
        Ok(Self {
            decay,
            network,
            pairs,
        })
    }

    /// Takes in the weights and running statistics after step `steps`.
    pub(super) fn follow(&mut self, steps: u64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let share = 1.0 - decay_after(steps, self.decay);
        for (average, current) in &mut self.pairs {
            let moved = average.f_lerp_(current, share);
            moved.map(drop).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Compute, DeviceChoice};
    use crate::learner::golden_average;
    use crate::libtorch::module::trainable;
    use crate::precision::{Precision, PrecisionChoice};
    use crate::weights::network_tensors;

    #[test]
    fn the_average_equals_pytorchs() {
        let precision = PrecisionChoice::Fixed(Precision::F32);
        let compute = Compute::open(DeviceChoice::LibTorchCpu, precision, 2).unwrap();
        golden_average::compare(&compute.device, &mut |networks, decay| {
            let (first, later) = networks.split_first().unwrap();
            let network = trainable(first.clone(), 0).unwrap();
            let nothing = NamedTensors::new();
            let mut average = TorchAverage::new(&network, decay, &nothing, &compute).unwrap();
            let mut after = Vec::new();
            for (index, other) in later.iter().enumerate() {
                let _no_grad = tch::no_grad_guard();
                let pairs = tensors_of(&network).unwrap().into_iter();
                for ((_, mut here), (_, there)) in pairs.zip(tensors_of(other).unwrap()) {
                    here.f_copy_(&there).unwrap();
                }
                average.follow(index as u64 + 1).unwrap();
                after.push(network_tensors(&average.network).unwrap());
            }
            after
        });
    }
}
