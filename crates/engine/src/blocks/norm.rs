//! Normalisations over channels.

use burn::module::{Module, Param};
use burn::nn::{
    BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig, Initializer, InstanceNorm,
    InstanceNormConfig,
};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// A normalisation over channels.
#[derive(Module, Debug)]
pub enum Norm {
    Batch(BatchNorm),
    Instance(InstanceNorm),
    Group(GroupNorm),
}

/// Which normalisation a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// Ioffe and Szegedy, ICML 2015.
    Batch,
    /// Ulyanov, Vedaldi and Lempitsky, 2016.
    Instance,
    /// Wu and He, "Group Normalization", ECCV 2018.
    Group,
}

impl Norm {
    /// Over `channels`; a group normalisation uses `groups`, or their greatest common divisor with `channels`.
    pub fn new(kind: NormKind, groups: usize, channels: usize, device: &Device) -> Self {
        match kind {
            NormKind::Batch => Self::Batch(BatchNormConfig::new(channels).init(device)),
            NormKind::Instance => Self::Instance(InstanceNormConfig::new(channels).init(device)),
            NormKind::Group => {
                let groups = common_divisor(groups, channels).max(1);
                Self::Group(GroupNormConfig::new(groups, channels).init(device))
            }
        }
    }

    /// Same, with the scale initialised to zero.
    pub(super) fn zero_initialised(self, channels: usize, device: &Device) -> Self {
        let zeros = || -> Param<Tensor<1>> { Initializer::Zeros.init([channels], device) };
        match self {
            Self::Batch(norm) => Self::Batch(BatchNorm {
                gamma: zeros(),
                ..norm
            }),
            Self::Instance(norm) => Self::Instance(InstanceNorm {
                gamma: Some(zeros()),
                ..norm
            }),
            Self::Group(norm) => Self::Group(GroupNorm {
                gamma: Some(zeros()),
                ..norm
            }),
        }
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => common_divisor(b, a % b),
    }
}
