//! The engines of this build. Only this file knows which features are enabled; other code asks a [`DeviceChoice`] or
//! a [`Compute`].

use burn::tensor::Device;

use crate::device::{Compute, DeviceChoice};
use crate::distributed::process_group::GpuBackend;
use crate::engine::Engine;
#[cfg(feature = "flex")]
use crate::flex::Flex;
use crate::learner::{Learner, LearnerSetup};
#[cfg(feature = "libtorch")]
use crate::libtorch::engine::LibTorch;
use crate::networks::Network;
use crate::precision::{Precision, PrecisionChoice, cpu_has_bf16};
use crate::weights::NamedTensors;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};

/// In ascending order of speed.
static ENGINES: &[&dyn Engine] = &[
    #[cfg(feature = "flex")]
    &Flex,
    #[cfg(feature = "libtorch")]
    &LibTorch,
];

impl DeviceChoice {
    /// Resolves `auto` to the fastest device of this build and machine: an NVIDIA GPU, libtorch on the CPU, or flex.
    pub fn resolved(self) -> Self {
        match self {
            Self::Auto => ENGINES.last().map_or(Self::Flex, |engine| engine.fastest()),
            chosen => chosen,
        }
    }

    /// A CPU device, for reading weights; does not initialise a GPU.
    pub fn cpu() -> Self {
        ENGINES
            .first()
            .map_or(Self::LibTorchCpu, |engine| engine.cpu())
    }

    /// Whether the device uses libtorch.
    pub fn is_libtorch(self) -> bool {
        matches!(self.resolved(), Self::LibTorchCpu | Self::LibTorchCuda(_))
    }

    /// Whether this build has the device's engine.
    pub fn is_in_build(self) -> bool {
        self.engine_in_build().is_some()
    }

    fn engine_in_build(self) -> Option<&'static dyn Engine> {
        let mut engines = ENGINES.iter().copied();
        engines.find(|engine| engine.has(self))
    }

    /// The engine of the device, which must not be `auto`.
    pub(super) fn engine(self) -> Result<&'static dyn Engine> {
        self.engine_in_build().ok_or_else(|| {
            Error::unsupported(format!(
                "device {self} is not in this build; build ctseg with --features {}, or use one of: {}",
                if self == Self::Flex {
                    "flex"
                } else {
                    "libtorch"
                },
                Self::built_in().join(", ")
            ))
        })
    }

    /// The Burn device to create tensors on (without autodiff).
    ///
    /// # Errors
    /// The engine is not in this build; the message says how to build it in.
    pub fn device(self) -> Result<Device> {
        let choice = self.resolved();
        let engine = choice.engine()?;
        if let Self::LibTorchCuda(index) = choice {
            let gpus = engine.gpus().unwrap_or(0);
            if index >= gpus {
                choice.check_gpu_libraries()?;
                return Err(Error::invalid(format!(
                    "device {choice} not found: libtorch sees {} on this machine; use --device libtorch for the CPU",
                    counted(gpus, "NVIDIA GPU")
                )));
            }
        }
        Ok(engine.device(choice))
    }

    /// Fails for `auto` and GPUs if there is an NVIDIA driver but a library cannot be loaded: falling back to the CPU
    /// would be slow without notice.
    pub fn check_gpu_libraries(self) -> Result<()> {
        match (self, Self::gpu_problem()) {
            (Self::Auto | Self::LibTorchCuda(_), Some(problem)) => Err(Error::invalid(format!(
                "device {self}: found the NVIDIA driver, but a library that libtorch needs for GPUs cannot be loaded ({problem}); reinstall it (libtorch's own: run scripts/setup-libtorch.sh and rebuild), or use --device libtorch for the CPU"
            ))),
            _ => Ok(()),
        }
    }

    /// Why a library that GPUs need could not be loaded, if there is a driver and GPUs are not hidden.
    pub fn gpu_problem() -> Option<&'static str> {
        ENGINES.iter().find_map(|engine| engine.gpu_problem())
    }

    /// Number of NVIDIA GPUs visible to libtorch; `None` in builds without libtorch.
    pub fn gpu_count() -> Option<usize> {
        ENGINES.iter().find_map(|engine| engine.gpus())
    }

    /// The all-reduce backend for processes with one such device each; `None` on a CPU.
    ///
    /// # Errors
    /// The engine is not in this build, or this process cannot use the GPU.
    pub fn gpu_backend(self) -> Result<Option<Box<dyn GpuBackend>>> {
        match self {
            Self::LibTorchCuda(gpu) => self.engine()?.gpu_backend(gpu).map(Some),
            _ => Ok(None),
        }
    }

    /// The names of the devices in this build.
    pub fn built_in() -> Vec<&'static str> {
        let names = ENGINES.iter().flat_map(|engine| engine.names());
        names.copied().collect()
    }

    /// All devices of this build and machine.
    pub fn available() -> Vec<Self> {
        let mut devices = Vec::new();
        for engine in ENGINES {
            devices.push(engine.cpu());
            devices.extend((0..engine.gpus().unwrap_or(0)).map(Self::LibTorchCuda));
        }
        devices
    }
}

impl PrecisionChoice {
    /// Resolves the precision for `device`.
    ///
    /// # Errors
    /// The device does not support the requested precision.
    pub fn on(self, device: DeviceChoice) -> Result<Precision> {
        let device = device.resolved();
        let engine = device.engine_in_build();
        match (self, device) {
            (Self::Auto, DeviceChoice::LibTorchCuda(_))
                if engine.is_some_and(|engine| engine.gpu_has_bf16()) =>
            {
                Ok(Precision::Bf16)
            }
            (Self::Auto, DeviceChoice::LibTorchCpu) if cpu_has_bf16() => Ok(Precision::Bf16),
            (Self::Auto, _) => Ok(Precision::F32),
            (Self::Fixed(precision), DeviceChoice::Flex) if precision != Precision::F32 => {
                Err(Error::usage(format!(
                    "--precision {precision}: device flex computes in f32 only; use --device libtorch"
                )))
            }
            (Self::Fixed(Precision::F16), DeviceChoice::LibTorchCpu) => Err(Error::usage(
                "--precision f16 is for GPUs; on a CPU use bf16 or f32",
            )),
            (Self::Fixed(Precision::Int8), DeviceChoice::LibTorchCuda(_)) => Err(Error::usage(
                "--precision int8 is for CPUs; on a GPU use bf16 or f16",
            )),
            (Self::Fixed(precision), _) => Ok(precision),
        }
    }
}

impl Compute {
    /// Opens a device with `threads` threads per CPU operation.
    ///
    /// # Errors
    /// The build lacks the engine, the machine lacks the device or its libraries, or the device lacks the precision.
    pub fn open(choice: DeviceChoice, precision: PrecisionChoice, threads: usize) -> Result<Self> {
        choice.check_gpu_libraries()?;
        let choice = choice.resolved();
        if let Some(engine) = choice.engine_in_build() {
            engine.set_up(threads);
        }
        Ok(Self {
            choice,
            precision: precision.on(choice)?,
            device: choice.device()?,
        })
    }

    /// A new learner for `network`, which must be on this device without autodiff.
    pub fn learner(&self, network: Network, setup: LearnerSetup) -> Result<Box<dyn Learner>> {
        self.restored_learner(network, setup, &NamedTensors::new(), 0)
    }

    /// A learner that resumes from [`Learner::state`] after `steps` steps.
    pub fn restored_learner(
        &self,
        network: Network,
        setup: LearnerSetup,
        state: &NamedTensors,
        steps: u64,
    ) -> Result<Box<dyn Learner>> {
        let engine = self.choice.engine()?;
        engine.learner(network, setup, self, state, steps)
    }

    /// Resets the peak of [`Compute::peak_device_memory`].
    pub fn reset_peak(&self) -> Result<()> {
        match self.choice {
            DeviceChoice::LibTorchCuda(gpu) => self.choice.engine()?.reset_peak(gpu),
            _ => Ok(()),
        }
    }

    /// Limits the memory that the engine caches. Allocating it again costs about a tenth of the run time in 16-bit
    /// precision, and almost nothing in f32.
    pub fn limit_memory_cache(&self) {
        if let Some(engine) = self.choice.engine_in_build() {
            engine.limit_memory_cache();
        }
    }

    /// Returns cached memory to the system.
    pub fn release_memory(&self) -> Result<()> {
        self.choice.engine()?.release_memory()
    }

    /// Peak memory of tensors on the GPU, in bytes; `None` on a CPU.
    pub fn peak_device_memory(&self) -> Result<Option<u64>> {
        match self.choice {
            DeviceChoice::LibTorchCuda(gpu) => self.choice.engine()?.peak_memory(gpu),
            _ => Ok(None),
        }
    }

    /// [`Compute::release_memory`], if the device is a CPU.
    pub fn release_host_memory(&self) -> Result<()> {
        match self.choice {
            DeviceChoice::LibTorchCuda(_) => Ok(()),
            _ => self.release_memory(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_respected() {
        let flex = DeviceChoice::Flex;
        assert_eq!(PrecisionChoice::Auto.on(flex).unwrap(), Precision::F32);
        assert!(PrecisionChoice::Fixed(Precision::Bf16).on(flex).is_err());
        let cuda = DeviceChoice::LibTorchCuda(0);
        let half = PrecisionChoice::Fixed(Precision::F16);
        assert_eq!(half.on(cuda).unwrap(), Precision::F16);
        assert!(half.on(DeviceChoice::LibTorchCpu).is_err());
    }
}
