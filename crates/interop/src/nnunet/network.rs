//! Converts nnU-Net's description of a network (`arch_kwargs`) to a recipe's `[network]`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::plans::{Architecture, typed, unknown_network};
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_engine::blocks::{Activation, NormKind};
use ctseg_engine::networks::{Downsampling, NetworkConfig, UnetConfig};

/// `arch_kwargs` of `PlainConvUNet` and `ResidualEncoderUNet`.
#[derive(Debug, Clone, Deserialize)]
struct Arguments {
    n_stages: usize,
    features_per_stage: OneOrEach<usize>,
    conv_op: String,
    kernel_sizes: OneOrEach<OneOrEach<usize>>,
    strides: OneOrEach<OneOrEach<usize>>,
    #[serde(default)]
    n_conv_per_stage: Option<OneOrEach<usize>>,
    #[serde(default)]
    n_blocks_per_stage: Option<OneOrEach<usize>>,
    n_conv_per_stage_decoder: OneOrEach<usize>,
    #[serde(default)]
    norm_op: Option<String>,
    #[serde(default)]
    norm_op_kwargs: Option<NormArguments>,
    #[serde(default)]
    nonlin: Option<String>,
    #[serde(default)]
    nonlin_kwargs: Option<ActivationArguments>,
    #[serde(default)]
    nonlin_first: bool,
    // For residual encoders; nnU-Net's own plans set none of them. (Stochastic depth only affects training.)
    #[serde(default)]
    bottleneck_channels: Value,
    #[serde(default)]
    stem_channels: Option<usize>,
    #[serde(default)]
    squeeze_excitation: bool,
    #[serde(default)]
    block: Value,
}

/// One value for all, or a list with one for each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrEach<T> {
    One(T),
    Each(Vec<T>),
}

impl<T: Clone> OneOrEach<T> {
    fn each(&self, count: usize) -> Vec<T> {
        match self {
            Self::One(one) => vec![one.clone(); count],
            Self::Each(all) => all.clone(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
struct NormArguments {
    #[serde(default = "default_eps")]
    eps: f64,
    #[serde(default)]
    affine: bool,
}

fn default_eps() -> f64 {
    DEFAULT_EPS
}

const DEFAULT_EPS: f64 = 1e-5;
const DEFAULT_SLOPE: f64 = 0.01;

#[derive(Debug, Clone, Default, Deserialize)]
struct ActivationArguments {
    #[serde(default)]
    negative_slope: Option<f64>,
}

/// Maximum number of stages accepted.
const MAX_STAGES: usize = 16;

/// Builds a recipe's network; `path` names the plans in errors.
///
/// # Errors
/// An unsupported network class, operation or setting, by name.
pub(super) fn network(path: &Path, architecture: &Architecture) -> Result<NetworkConfig> {
    let class = &architecture.network_class_name;
    let residual = match class.rsplit('.').next().unwrap_or_default() {
        "PlainConvUNet" => false,
        "ResidualEncoderUNet" => true,
        _ => return Err(unknown_network(path, class)),
    };
    let kwargs = Value::Object(architecture.arch_kwargs.clone());
    let arguments: Arguments = typed(path, kwargs, &format!("a description of a {class}"))?;
    let axes = match arguments.conv_op.rsplit('.').next() {
        Some("Conv2d") => 2,
        Some("Conv3d") => 3,
        _ => return Err(unsupported(path, "conv_op", &arguments.conv_op)),
    };
    check(path, &arguments)?;
    let stages = arguments.n_stages;
    let sides = |given: &OneOrEach<OneOrEach<usize>>| -> Vec<Vec<usize>> {
        let each = given.each(stages);
        each.iter().map(|sides| sides.each(axes)).collect()
    };
    let mut decoder = arguments.n_conv_per_stage_decoder.each(stages - 1);
    // nnU-Net counts from the bottom.
    decoder.reverse();
    let per_stage = |given: &Option<OneOrEach<usize>>, key: &str| match given {
        Some(given) => Ok(Some(given.each(stages))),
        None => Err(Error::file(path, format!("arch_kwargs has no {key}"))),
    };
    let (blocks, convolutions) = match residual {
        true => (
            per_stage(&arguments.n_blocks_per_stage, "n_blocks_per_stage")?,
            None,
        ),
        false => (
            None,
            per_stage(&arguments.n_conv_per_stage, "n_conv_per_stage")?,
        ),
    };
    let config = UnetConfig {
        widths: arguments.features_per_stage.each(stages),
        norm: Some(NormKind::Instance),
        activation: Some(activation(path, &arguments)?),
        downsampling: Some(Downsampling::Stride),
        kernels: Some(sides(&arguments.kernel_sizes)),
        strides: Some(sides(&arguments.strides)),
        blocks,
        convolutions,
        decoder_convolutions: Some(decoder),
        ..UnetConfig::default()
    };
    Ok(match (axes, residual) {
        (2, false) => NetworkConfig::Unet2d(config),
        (2, true) => NetworkConfig::ResEnc2d(config),
        (_, false) => NetworkConfig::Unet3d(config),
        (_, true) => NetworkConfig::ResEnc3d(config),
    })
}

/// The settings of a recipe's U-Net with all defaults filled in.
///
/// # Errors
/// Another network, which nnU-Net does not have.
pub(super) fn unet_of(recipe: &Recipe) -> Result<UnetConfig> {
    let network = recipe.network.written_out()?;
    network
        .unet()
        .cloned()
        .ok_or_else(|| Error::invalid(format!("nnU-Net has no network of kind {}", network.name())))
}

/// Refuses settings that ctseg's networks do not support.
fn check(path: &Path, arguments: &Arguments) -> Result<()> {
    if !(2..=MAX_STAGES).contains(&arguments.n_stages) {
        return Err(unsupported(path, "n_stages", &arguments.n_stages));
    }
    let norm = arguments.norm_op.as_deref().unwrap_or("None");
    let settings = arguments.norm_op_kwargs.as_ref();
    let is_default =
        |settings: &NormArguments| settings.affine && (settings.eps - DEFAULT_EPS).abs() < 1e-12;
    if !matches!(
        norm.rsplit('.').next(),
        Some("InstanceNorm2d" | "InstanceNorm3d")
    ) {
        return Err(unsupported(path, "norm_op", norm));
    }
    if !settings.is_some_and(is_default) {
        return Err(unsupported(
            path,
            "norm_op_kwargs",
            &format!("{settings:?}"),
        ));
    }
    let is_none = |value: &Value| value.is_null();
    let further = [
        (!arguments.nonlin_first, "nonlin_first"),
        (
            is_none(&arguments.bottleneck_channels),
            "bottleneck_channels",
        ),
        (arguments.stem_channels.is_none(), "stem_channels"),
        (!arguments.squeeze_excitation, "squeeze_excitation"),
        (
            is_none(&arguments.block)
                || arguments
                    .block
                    .as_str()
                    .is_some_and(|name| name.ends_with("BasicBlockD")),
            "block",
        ),
    ];
    match further.iter().find(|(usable, _)| !usable) {
        Some((_, key)) => Err(unsupported(path, key, "set")),
        None => Ok(()),
    }
}

fn activation(path: &Path, arguments: &Arguments) -> Result<Activation> {
    let name = arguments.nonlin.as_deref().unwrap_or("None");
    let settings = arguments.nonlin_kwargs.clone().unwrap_or_default();
    match name.rsplit('.').next() {
        Some("ReLU") => Ok(Activation::Relu),
        Some("LeakyReLU") => match settings.negative_slope.unwrap_or(DEFAULT_SLOPE) {
            slope if (slope - DEFAULT_SLOPE).abs() < 1e-12 => Ok(Activation::LeakyRelu),
            slope => Err(unsupported(path, "negative_slope", &slope)),
        },
        _ => Err(unsupported(path, "nonlin", name)),
    }
}

fn unsupported(path: &Path, key: &str, value: &(impl std::fmt::Display + ?Sized)) -> Error {
    Error::file(
        path,
        format!(
            "its network has unsupported {key} = {value}; expected the values that nnU-Net's planners write: Conv2d or Conv3d, affine InstanceNorm with eps 1e-5, ReLU or LeakyReLU with slope 0.01, basic residual blocks"
        ),
    )
}
