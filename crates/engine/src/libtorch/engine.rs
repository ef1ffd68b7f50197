//! libtorch as an [`Engine`], on the CPU and on NVIDIA GPUs.

use std::sync::Once;

use burn::tensor::{Device, Tensor};

use super::cuda_library::cuda_problem;
use super::device::{cuda_devices, kind_of};
use super::int8::Quantised;
use super::learner::TorchLearner;
use super::nccl::Nccl;
use super::self_test::ones_convolved;
use super::{ffi, inference, memory, module, ops, transfer};
use crate::attention_maps::Map;
use crate::device::{Compute, DeviceChoice};
use crate::distributed::process_group::GpuBackend;
use crate::engine::Engine;
use crate::host_tensor::Logits;
use crate::learner::{Learner, LearnerSetup};
use crate::networks::{Extras, Network};
use crate::precision::Precision;
use crate::quantisation::{Convolutions, ConvolutionsFrom, InputRanges};
use crate::weights::NamedTensors;
use ctseg_base::Result;

/// The libtorch engine.
pub(crate) struct LibTorch;

impl Engine for LibTorch {
    fn names(&self) -> &'static [&'static str] {
        &["libtorch", "libtorch:cuda:N"]
    }

    fn has(&self, choice: DeviceChoice) -> bool {
        matches!(
            choice,
            DeviceChoice::LibTorchCpu | DeviceChoice::LibTorchCuda(_)
        )
    }

    fn cpu(&self) -> DeviceChoice {
        DeviceChoice::LibTorchCpu
    }

    fn fastest(&self) -> DeviceChoice {
        match tch::Cuda::is_available() {
            true => DeviceChoice::LibTorchCuda(0),
            false => DeviceChoice::LibTorchCpu,
        }
    }

    fn gpus(&self) -> Option<usize> {
        Some(cuda_devices())
    }

    fn gpu_problem(&self) -> Option<&'static str> {
        cuda_problem()
    }

    fn gpu_has_bf16(&self) -> bool {
        ffi::cuda_has_bf16()
    }

    fn gpu_backend(&self, gpu: usize) -> Result<Box<dyn GpuBackend>> {
        Ok(Box::new(Nccl::open(gpu)?))
    }

    /// Also enables the caching allocator.
    fn set_up(&self, threads: usize) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            memory::use_caching_allocator();
            tch::set_num_interop_threads(1); // operations run in sequence
        });
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }

    fn device(&self, choice: DeviceChoice) -> Device {
        match choice {
            DeviceChoice::LibTorchCuda(index) => Device::libtorch_cuda(index),
            _ => Device::libtorch(),
        }
    }

    fn limit_memory_cache(&self) {
        memory::limit_cache();
    }

    fn release_memory(&self) -> Result<()> {
        memory::empty_cache()
    }

    fn reset_peak(&self, gpu: usize) -> Result<()> {
        memory::cuda_peak(gpu, true).map(drop)
    }

    fn peak_memory(&self, gpu: usize) -> Result<Option<u64>> {
        memory::cuda_peak(gpu, false).map(Some)
    }

    fn learner(
        &self,
        network: Network,
        setup: LearnerSetup,
        compute: &Compute,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Box<dyn Learner>> {
        let learner = TorchLearner::new(network, setup, compute, state, steps)?;
        Ok(Box::new(learner))
    }

    fn prepare_for_inference(&self, network: Network, precision: Precision) -> Result<Network> {
        module::for_inference(network, kind_of(precision))
    }

    fn with_int8(&self, ranges: Vec<InputRanges>) -> Convolutions {
        let quantised = ranges.into_iter().map(Quantised::boxed);
        Convolutions::Int8(quantised.collect())
    }

    fn mean_logits(
        &self,
        networks: &[Network],
        input: &[f32],
        shape: [usize; 5],
        convolutions: ConvolutionsFrom,
        compute: &Compute,
        wanted: Extras,
    ) -> Result<Logits> {
        inference::mean_logits(networks, input, shape, convolutions, compute, wanted)
    }

    fn attention_maps(
        &self,
        network: &Network,
        input: &[f32],
        shape: [usize; 5],
        compute: &Compute,
    ) -> Result<Vec<Map>> {
        inference::attention_maps(network, input, shape, compute)
    }

    fn values(&self, tensor: Tensor<1>) -> Result<Vec<f32>> {
        transfer::to_host(&ops::native(tensor)?)
    }

    fn ones_convolved(
        &self,
        compute: &Compute,
        dimensions: usize,
        side: usize,
    ) -> Result<Vec<f32>> {
        ones_convolved(compute, dimensions, side)
    }
}
