//! What an engine does for the rest of the program. Each engine implements it in one file (`flex`,
//! `libtorch::engine`); `registry` lists those of this build.

use burn::tensor::{Device, Tensor};

use crate::attention_maps::Map;
use crate::device::{Compute, DeviceChoice};
use crate::distributed::process_group::GpuBackend;
use crate::host_tensor::Logits;
use crate::learner::{Learner, LearnerSetup};
use crate::networks::{Extras, Network};
use crate::precision::Precision;
use crate::quantisation::{Convolutions, InputRanges};
use crate::weights::NamedTensors;
use ctseg_base::{Error, Result};

/// A numerical library and its devices. Methods with a body are for engines that have no more to do there.
pub(super) trait Engine: Sync {
    /// Its devices as `--device` takes them; the first is also the feature that builds the engine in.
    fn names(&self) -> &'static [&'static str];

    /// Whether `choice` is a device of this engine.
    fn has(&self, choice: DeviceChoice) -> bool;

    /// The processor; no GPU is begun to know that.
    fn cpu(&self) -> DeviceChoice;

    /// Its fastest device on this machine.
    fn fastest(&self) -> DeviceChoice {
        self.cpu()
    }

    /// How many GPUs it sees; none where it computes on processors alone.
    fn gpus(&self) -> Option<usize> {
        None
    }

    /// Why a library that GPUs need could not be loaded, where there is a driver and GPUs are not hidden.
    fn gpu_problem(&self) -> Option<&'static str> {
        None
    }

    /// Whether its GPUs compute in bf16 by themselves.
    fn gpu_has_bf16(&self) -> bool {
        false
    }

    /// What processes with a GPU each sum by, for this process's `gpu`.
    fn gpu_backend(&self, gpu: usize) -> Result<Box<dyn GpuBackend>> {
        Err(Error::invalid(format!("internal: no engine for GPU {gpu}")))
    }

    /// Must come before the first tensor: `threads` for each operation on a CPU.
    fn set_up(&self, _threads: usize) {}

    /// The Burn device of `choice`, which the engine has, without autodiff.
    fn device(&self, choice: DeviceChoice) -> Device;

    /// See [`Compute::keep_little_memory`].
    fn keep_little_memory(&self) {}

    /// See [`Compute::release_memory`].
    fn release_memory(&self) -> Result<()> {
        Ok(())
    }

    /// See [`Compute::reset_peak`].
    fn reset_peak(&self, _gpu: usize) -> Result<()> {
        Ok(())
    }

    /// See [`Compute::peak_device_memory`].
    fn peak_memory(&self, _gpu: usize) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Whether `error` says that a device had no memory left, so that another attempt with less at once can help.
    fn is_out_of_memory(&self, _error: &Error) -> bool {
        false
    }

    /// A learner for `network`, which lies on `compute`'s device without autodiff, that goes on where
    /// [`Learner::state`] left off after `steps` steps.
    fn learner(
        &self,
        network: Network,
        setup: LearnerSetup,
        compute: &Compute,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Box<dyn Learner>>;

    /// `network` as it is used and not trained: weights in `precision`, batch normalisation folded away.
    fn prepared(&self, network: Network, precision: Precision) -> Result<Network>;

    /// How convolutions compute in 8-bit integers with inputs between `ranges` (of each network); plainly where the
    /// engine has no such convolutions.
    fn in_integers(&self, _ranges: Vec<InputRanges>) -> Convolutions {
        Convolutions::Plain
    }

    /// Mean logits of `networks` (each from [`Engine::prepared`]) for a batch, or what is wanted in their place. They are
    /// the ones from `first` on of those that `convolutions` is about.
    ///
    /// # Shapes
    /// - `input`: (patch, channel, z, y, x), flattened
    fn mean_logits(
        &self,
        networks: &[Network],
        input: &[f32],
        shape: [usize; 5],
        convolutions_from: (&Convolutions, usize),
        compute: &Compute,
        wanted: Extras,
    ) -> Result<Logits>;

    /// The maps of `network`'s attention gates (from [`Engine::prepared`]), finest first, each as large as its level.
    ///
    /// # Shapes
    /// - `input`: (patch, channel, z, y, x), flattened
    /// - output: (patch, 1, z, y, x), flattened, and its shape
    fn attention_maps(
        &self,
        network: &Network,
        input: &[f32],
        shape: [usize; 5],
        compute: &Compute,
    ) -> Result<Vec<Map>>;

    /// The values of a tensor of this engine in plain memory, as f32.
    fn values(&self, tensor: Tensor<1>) -> Result<Vec<f32>>;

    /// Ones along `dimensions` axes of `side` each, convolved with a kernel of ones, 3 along each axis, with a padding
    /// of 1.
    fn ones_convolved(&self, compute: &Compute, dimensions: usize, side: usize)
    -> Result<Vec<f32>>;
}
