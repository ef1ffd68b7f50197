//! Devices: `auto`, `flex`, `libtorch`, `libtorch:cuda:0`. `registry` maps them to the engines of this build.

pub use burn::tensor::Device;

use std::fmt;
use std::str::FromStr;

use crate::precision::Precision;
use ctseg_base::{Error, Result};

/// The value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The fastest engine in this build.
    #[default]
    Auto,
    /// Burn's pure-Rust CPU engine.
    Flex,
    /// libtorch on the CPU.
    LibTorchCpu,
    /// libtorch on the NVIDIA GPU with this index.
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

/// An opened device and its precision, see [`Compute::open`].
#[derive(Debug, Clone)]
pub struct Compute {
    /// Never [`DeviceChoice::Auto`].
    pub choice: DeviceChoice,
    pub precision: Precision,
    /// Without autodiff.
    pub device: Device,
}

impl Compute {
    /// Whether several batches should run in parallel; libtorch uses threads of its own.
    pub fn runs_batches_in_parallel(&self) -> bool {
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
