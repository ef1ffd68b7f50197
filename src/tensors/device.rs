//! Which engine computes, and where: `auto`, `flex`, `libtorch`, `libtorch:cuda:0`.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use super::precision::{Precision, PrecisionChoice};
use crate::error::{Error, Result};

/// What the user asked for with `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The fastest engine that this build holds.
    #[default]
    Auto,
    /// Burn's pure-Rust CPU engine.
    Flex,
    /// libtorch on the CPU.
    LibTorchCpu,
    /// libtorch on the NVIDIA GPU of this index.
    LibTorchCuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            ["auto"] => Ok(Self::Auto),
            ["flex"] => Ok(Self::Flex),
            ["libtorch"] | ["libtorch", "cpu"] => Ok(Self::LibTorchCpu),
            ["libtorch", "cuda"] => Ok(Self::LibTorchCuda(0)),
            ["libtorch", "cuda", index] if index.parse::<usize>().is_ok() => {
                Ok(Self::LibTorchCuda(index.parse().unwrap_or(0)))
            }
            _ => Err(Error::invalid(format!(
                "'{text}' is not a device; expected auto, flex, libtorch, libtorch:cuda or libtorch:cuda:N"
            ))),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Flex => write!(f, "flex"),
            Self::LibTorchCpu => write!(f, "libtorch"),
            Self::LibTorchCuda(index) => write!(f, "libtorch:cuda:{index}"),
        }
    }
}

impl DeviceChoice {
    /// `auto` replaced by the fastest that this build and machine have: an NVIDIA GPU, libtorch on the CPU,
    /// flex.
    pub fn resolved(self) -> Self {
        match self {
            #[cfg(feature = "libtorch")]
            Self::Auto if super::libtorch::has_cuda() => Self::LibTorchCuda(0),
            Self::Auto if cfg!(feature = "libtorch") => Self::LibTorchCpu,
            Self::Auto => Self::Flex,
            chosen => chosen,
        }
    }

    /// Whether libtorch computes.
    pub fn is_libtorch(self) -> bool {
        matches!(self.resolved(), Self::LibTorchCpu | Self::LibTorchCuda(_))
    }

    /// The Burn device to create tensors on (without autodiff).
    ///
    /// # Errors
    /// The build lacks the engine; the message says how to build it in.
    pub fn device(self) -> Result<Device> {
        match self.resolved() {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "libtorch")]
            #[allow(deprecated)] // burn-tch is the one way to libtorch; it is pinned
            Self::LibTorchCpu => Ok(Device::libtorch()),
            #[cfg(feature = "libtorch")]
            Self::LibTorchCuda(index) if index >= super::libtorch::cuda_devices() => {
                self.check_gpu_libraries()?;
                Err(Error::invalid(format!(
                    "device {self} is not there: libtorch sees {} NVIDIA GPUs on this machine; use --device libtorch for its CPU",
                    super::libtorch::cuda_devices()
                )))
            }
            #[cfg(feature = "libtorch")]
            #[allow(deprecated)]
            Self::LibTorchCuda(index) => Ok(Device::libtorch_cuda(index)),
            #[allow(unreachable_patterns)] // reachable where a feature is off
            missing => Err(Error::invalid(format!(
                "device {missing} is not in this build; build ctseg with --features {}, or use one of: {}",
                if missing == Self::Flex {
                    "flex"
                } else {
                    "libtorch"
                },
                Self::built_in().join(", ")
            ))),
        }
    }

    /// Where there may be a GPU to take but for libraries that cannot be loaded, nobody shall wait for a CPU: an error for
    /// `auto` and GPUs then.
    pub fn check_gpu_libraries(self) -> Result<()> {
        match (self, Self::gpu_problem()) {
            (Self::Auto | Self::LibTorchCuda(_), Some(problem)) => Err(Error::invalid(format!(
                "device {self}: NVIDIA's driver is here, but a library that libtorch needs for GPUs cannot be loaded ({problem}); mend it, for libtorch's own by scripts/setup-libtorch.sh and another build, or use --device libtorch for the CPU"
            ))),
            _ => Ok(()),
        }
    }

    /// Why a library that GPUs need could not be loaded, where there is a driver and GPUs are not hidden.
    pub fn gpu_problem() -> Option<&'static str> {
        #[cfg(feature = "libtorch")]
        return super::libtorch::cuda_problem();
        #[cfg(not(feature = "libtorch"))]
        None
    }

    /// How many NVIDIA GPUs libtorch sees; none in a build without libtorch.
    pub fn gpus_seen() -> Option<usize> {
        #[cfg(feature = "libtorch")]
        return Some(super::libtorch::cuda_devices());
        #[cfg(not(feature = "libtorch"))]
        None
    }

    /// The names of the engines in this build.
    pub fn built_in() -> Vec<&'static str> {
        let mut names = Vec::new();
        if cfg!(feature = "flex") {
            names.push("flex");
        }
        if cfg!(feature = "libtorch") {
            names.extend(["libtorch", "libtorch:cuda:N"]);
        }
        names
    }
}

/// How many NVIDIA GPUs this build can use here.
pub fn gpus() -> usize {
    #[cfg(feature = "libtorch")]
    return super::libtorch::cuda_devices();
    #[cfg(not(feature = "libtorch"))]
    0
}

/// An engine that is ready: which, where, in which numbers.
#[derive(Debug, Clone)]
pub struct Compute {
    /// Never [`DeviceChoice::Auto`].
    pub choice: DeviceChoice,
    pub precision: Precision,
    /// Without autodiff.
    pub device: Device,
}

impl Compute {
    /// Opens a device, with `threads` for each operation on a CPU.
    ///
    /// # Errors
    /// The build lacks the engine, the machine the device or its libraries, or the device the precision.
    pub fn open(choice: DeviceChoice, precision: PrecisionChoice, threads: usize) -> Result<Self> {
        choice.check_gpu_libraries()?;
        let choice = choice.resolved();
        #[cfg(feature = "libtorch")]
        if choice.is_libtorch() {
            super::libtorch::set_up(threads);
        }
        let _ = threads; // flex computes on rayon's threads
        Ok(Self {
            choice,
            precision: precision.on(choice)?,
            device: choice.device()?,
        })
    }

    /// Forgets the peak of [`Compute::peak_device_memory`].
    pub fn reset_peak(&self) -> Result<()> {
        #[cfg(feature = "libtorch")]
        if let DeviceChoice::LibTorchCuda(index) = self.choice {
            super::libtorch::cuda_peak(index, true)?;
        }
        Ok(())
    }

    /// From here on the engine keeps little memory for later. Asking the system for it again costs about a tenth of
    /// the time that networks take in 16 bits, and next to nothing of what they take in 32.
    pub fn keep_little_memory(&self) {
        #[cfg(feature = "libtorch")]
        if self.choice.is_libtorch() {
            super::libtorch::keep_little();
        }
    }

    /// Gives memory that the engine keeps for later back to the system.
    pub fn release_memory(&self) -> Result<()> {
        #[cfg(feature = "libtorch")]
        if self.choice.is_libtorch() {
            super::libtorch::free_memory()?;
        }
        Ok(())
    }

    /// The most memory that tensors held on a GPU so far, in bytes; none on a CPU.
    pub fn peak_device_memory(&self) -> Result<Option<u64>> {
        match self.choice {
            #[cfg(feature = "libtorch")]
            DeviceChoice::LibTorchCuda(index) => super::libtorch::cuda_peak(index, false).map(Some),
            _ => Ok(None),
        }
    }

    /// As [`Compute::release_memory`], where the memory is the processor's own.
    pub fn release_host_memory(&self) -> Result<()> {
        #[cfg(feature = "libtorch")]
        if self.choice == DeviceChoice::LibTorchCpu {
            super::libtorch::free_memory()?;
        }
        Ok(())
    }

    /// Whether batches gain from running on several threads at once: libtorch has threads of its own.
    pub fn runs_side_by_side(&self) -> bool {
        self.choice == DeviceChoice::Flex
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.choice, self.precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_round_trip() {
        for name in ["auto", "flex", "libtorch", "libtorch:cuda:3"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for wrong in ["", "gpu", "libtorch:cuda:x", "cuda:0", "libtorch:mps"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }
}
