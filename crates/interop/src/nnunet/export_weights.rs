//! A network's weights under nnU-Net's names. The set is complete because `load_state_dict` is strict.

use super::keys::swap_input_halves;
use super::network::unet_of;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_engine::weights::{HostTensor, NamedTensors};

/// Tensors and their names; several names may refer to one tensor.
#[derive(Debug, Default)]
pub(super) struct StateDict {
    pub tensors: Vec<HostTensor>,
    /// Name and index into `tensors`.
    pub entries: Vec<(String, usize)>,
}

/// The source of each row of nnU-Net's head: the index of a structure, or `None` for the background, whose logit is 0
/// everywhere.
pub(super) type Rows = Vec<Option<usize>>;

/// The weights as a state dict of `PlainConvUNet` or `ResidualEncoderUNet`.
///
/// # Errors
/// A tensor without a place in these networks.
pub(super) fn state_dict(
    recipe: &Recipe,
    weights: &NamedTensors,
    rows: &Rows,
) -> Result<StateDict> {
    let config = unet_of(recipe)?;
    let residual = config.blocks.is_some();
    let strides = config.strides.unwrap_or_default();
    let levels = config.widths.len() - 1;
    let mut found = StateDict::default();
    for (name, tensor) in weights {
        // Deep-supervision heads are only for training; they are filled with zeros below.
        if name.starts_with("heads.") {
            continue;
        }
        let unknown = || {
            Error::invalid(format!(
                "weights '{name}' have no place in nnU-Net's networks"
            ))
        };
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            ["head", part] => {
                let head = with_rows(tensor, rows).ok_or_else(unknown)?;
                found.add(format!("decoder.seg_layers.{}.{part}", levels - 1), head);
            }
            ["up", level, part] => {
                found.add(
                    format!("decoder.transpconvs.{level}.{part}"),
                    tensor.clone(),
                );
            }
            [layer @ .., "conv", "weight"] => {
                let layer = layer_name(layer, residual, &strides).ok_or_else(unknown)?;
                let joined = layer.starts_with("decoder.") && layer.ends_with(".convs.0");
                let weight = match joined {
                    true => swap_input_halves(tensor).ok_or_else(unknown)?,
                    false => tensor.clone(),
                };
                let outputs = weight.shape.first().copied().unwrap_or(0);
                found.add_layer(&layer, "conv", 0, "weight", weight);
                // The normalisation cancels any bias; residual skip convolutions have none.
                if !layer.contains(".skip.") {
                    found.add_layer(&layer, "conv", 0, "bias", zeros(vec![outputs]));
                }
            }
            [layer @ .., "norm", part @ ("gamma" | "beta")] => {
                let layer = layer_name(layer, residual, &strides).ok_or_else(unknown)?;
                let part = if *part == "gamma" { "weight" } else { "bias" };
                found.add_layer(&layer, "norm", 1, part, tensor.clone());
            }
            _ => return Err(unknown()),
        }
    }
    found.add_coarser_heads(&config.widths, rows.len(), recipe.network.dimensions());
    found.add_encoder_of_decoder();
    Ok(found)
}

impl StateDict {
    fn add(&mut self, name: String, tensor: HostTensor) {
        self.entries.push((name, self.tensors.len()));
        self.tensors.push(tensor);
    }

    /// A parameter of a `ConvDropoutNormReLU`, which registers each of its modules twice.
    fn add_layer(
        &mut self,
        layer: &str,
        module: &str,
        place: usize,
        part: &str,
        tensor: HostTensor,
    ) {
        let at = self.tensors.len();
        self.add(format!("{layer}.{module}.{part}"), tensor);
        self.entries
            .push((format!("{layer}.all_modules.{place}.{part}"), at));
    }

    /// Adds deep-supervision heads, which only training uses, as zeros.
    fn add_coarser_heads(&mut self, widths: &[usize], rows: usize, axes: usize) {
        let levels = widths.len() - 1;
        for level in 0..levels.saturating_sub(1) {
            let mut shape = vec![rows, widths[levels - 1 - level]];
            shape.extend(vec![1; axes]);
            self.add(format!("decoder.seg_layers.{level}.weight"), zeros(shape));
            self.add(
                format!("decoder.seg_layers.{level}.bias"),
                zeros(vec![rows]),
            );
        }
    }

    /// Repeats the encoder's names below the decoder, which registers the encoder too.
    fn add_encoder_of_decoder(&mut self) {
        let aliases: Vec<(String, usize)> = self
            .entries
            .iter()
            .filter(|(name, _)| name.starts_with("encoder."))
            .map(|(name, place)| (format!("decoder.{name}"), *place))
            .collect();
        self.entries.extend(aliases);
    }
}

/// nnU-Net's name for a convolution with its normalisation.
fn layer_name(parts: &[&str], residual: bool, strides: &[Vec<usize>]) -> Option<String> {
    Some(match parts {
        ["stem", layer] => format!("encoder.stem.convs.{layer}"),
        ["encoder", stage, layer] if !residual => format!("encoder.stages.{stage}.0.convs.{layer}"),
        ["encoder", stage, block, "layers", layer] => {
            let conv = layer.parse::<usize>().ok()? + 1;
            format!("encoder.stages.{stage}.blocks.{block}.conv{conv}")
        }
        ["encoder", stage, block, "skip"] => {
            // Comes after a pooling layer if the block is strided.
            let stride = strides.get(stage.parse::<usize>().ok()?)?;
            let place = usize::from(*block == "0" && stride.iter().any(|stride| *stride > 1));
            format!("encoder.stages.{stage}.blocks.{block}.skip.{place}")
        }
        ["decoder", level, layer] => format!("decoder.stages.{level}.convs.{layer}"),
        _ => return None,
    })
}

fn zeros(shape: Vec<usize>) -> HostTensor {
    HostTensor {
        values: vec![0.0; shape.iter().product()],
        shape,
    }
}

fn with_rows(tensor: &HostTensor, rows: &Rows) -> Option<HostTensor> {
    let outputs = *tensor.shape.first()?;
    let width = tensor.values.len() / outputs.max(1);
    let mut values = Vec::with_capacity(rows.len() * width);
    for row in rows {
        match row {
            None => values.extend(vec![0.0; width]),
            Some(at) => values.extend_from_slice(tensor.values.get(at * width..(at + 1) * width)?),
        }
    }
    let mut shape = tensor.shape.clone();
    shape[0] = rows.len();
    Some(HostTensor { shape, values })
}
