//! The interface of an engine. Each engine implements it in one file (`flex`, `libtorch::engine`); `registry` lists
//! those of this build.

use burn::tensor::{Device, Tensor};

use crate::attention_maps::Map;
use crate::device::{Compute, DeviceChoice};
use crate::distributed::process_group::GpuBackend;
use crate::host_tensor::Logits;
use crate::learner::{Learner, LearnerSetup};
use crate::networks::{Extras, Network};
use crate::precision::Precision;
use crate::quantisation::{Convolutions, ConvolutionsFrom, InputRanges};
use crate::weights::NamedTensors;
use ctseg_base::{Error, Result};

/// A numerical library and its devices. Default methods are for engines without that capability.
pub(super) trait Engine: Sync {
    /// Its devices as `--device` takes them; the first is also the name of the Cargo feature.
    fn names(&self) -> &'static [&'static str];

    /// Whether `choice` is a device of this engine.
    fn has(&self, choice: DeviceChoice) -> bool;

    /// Its CPU device; does not initialise a GPU.
    fn cpu(&self) -> DeviceChoice;

    /// Its fastest device on this machine.
    fn fastest(&self) -> DeviceChoice {
        self.cpu()
    }

    /// Number of visible GPUs; `None` for CPU-only engines.
    fn gpus(&self) -> Option<usize> {
        None
    }

    /// Why a library that GPUs need could not be loaded, if there is a driver and GPUs are not hidden.
    fn gpu_problem(&self) -> Option<&'static str> {
        None
    }

    /// Whether its GPUs support bf16 natively.
    fn gpu_has_bf16(&self) -> bool {
        false
    }

    /// The all-reduce backend for processes with one GPU each; this process uses `gpu`.
    fn gpu_backend(&self, gpu: usize) -> Result<Box<dyn GpuBackend>> {
        Err(Error::internal(format!("no engine for GPU {gpu}")))
    }

    /// Sets the number of threads per CPU operation. Call it before creating the first tensor.
    fn set_up(&self, _threads: usize) {}

    /// The Burn device of `choice`, without autodiff. `choice` must be a device of this engine.
    fn device(&self, choice: DeviceChoice) -> Device;

    /// See [`Compute::limit_memory_cache`].
    fn limit_memory_cache(&self) {}

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

    /// A learner for `network` (on `compute`'s device, without autodiff) that resumes from [`Learner::state`] after
    /// `steps` steps.
    fn learner(
        &self,
        network: Network,
        setup: LearnerSetup,
        compute: &Compute,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Box<dyn Learner>>;

    /// Prepares `network` for inference: weights in `precision`, batch normalisation folded into convolutions.
    fn prepare_for_inference(&self, network: Network, precision: Precision) -> Result<Network>;

    /// Convolutions in 8-bit integers with the input `ranges` of each network; `Plain` if the engine does not support
    /// them.
    fn with_int8(&self, _ranges: Vec<InputRanges>) -> Convolutions {
        Convolutions::Plain
    }

    /// Mean logits of `networks` (each from [`Engine::prepare_for_inference`]) for a batch, or the `wanted` outputs
    /// instead. `convolutions` begin with those of `networks[0]`.
    ///
    /// # Shapes
    /// - `input`: (patch, channel, z, y, x), flattened
    fn mean_logits(
        &self,
        networks: &[Network],
        input: &[f32],
        shape: [usize; 5],
        convolutions: ConvolutionsFrom,
        compute: &Compute,
        wanted: Extras,
    ) -> Result<Logits>;

    /// The attention maps of `network` (from [`Engine::prepare_for_inference`]), finest first, each on the grid of
    /// its level.
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

    /// The values of a tensor of this engine in host memory, as f32.
    fn values(&self, tensor: Tensor<1>) -> Result<Vec<f32>>;

    /// Convolves ones along `dimensions` axes of length `side` with a kernel of ones, 3 along each axis, padding 1.
    fn ones_convolved(&self, compute: &Compute, dimensions: usize, side: usize)
    -> Result<Vec<f32>>;
}
