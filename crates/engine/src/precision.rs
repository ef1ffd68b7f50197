//! Precision of a network's activations. Weights, statistics, losses and optimisers stay in f32.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use ctseg_base::{Error, Result};

/// The value of `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrecisionChoice {
    /// bf16 if the device is faster in it, otherwise f32.
    #[default]
    Auto,
    Fixed(Precision),
}

/// The number format of a network's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    Bf16,
    /// Uses loss scaling in training; GPUs only.
    F16,
    /// Convolutions in 8-bit integers, the rest in bf16 or f32; for prediction with libtorch on the CPU.
    Int8,
}

impl FromStr for PrecisionChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Fixed(Precision::F32)),
            "bf16" => Ok(Self::Fixed(Precision::Bf16)),
            "f16" => Ok(Self::Fixed(Precision::F16)),
            "int8" => Ok(Self::Fixed(Precision::Int8)),
            _ => Err(Error::invalid(format!(
                "'{text}' is not a precision; expected auto, f32, bf16, f16 or int8"
            ))),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// Whether this CPU has native bf16 instructions (AVX-512 BF16 or AMX).
pub(crate) fn cpu_has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        for name in ["f32", "bf16", "f16", "int8"] {
            let PrecisionChoice::Fixed(precision) = name.parse().unwrap() else {
                panic!("{name}")
            };
            assert_eq!(precision.to_string(), name);
        }
        assert!("fp8".parse::<PrecisionChoice>().is_err());
    }
}
