//! Maps names of nnU-Net's weights (`dynamic_network_architectures`) to those of ctseg's networks, and converts the
//! tensors where needed.

use std::collections::BTreeMap;

use ctseg_engine::weights::{HostTensor, NamedTensors, elements_of};

/// Destination of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Unchanged, under this name.
    Same(String),
    /// A convolution of concatenated features: the halves of its input are swapped, because nnU-Net puts the upsampled
    /// features first and ctseg the skip connection.
    Concatenated(String),
    /// Weights or biases of the finest logits.
    Head(&'static str),
    /// Not needed: an alias of a tensor, a bias that the following normalisation cancels, or a deep-supervision head.
    Unused,
    /// Not a name of these networks.
    Unknown,
}

/// Destination of the tensor `key` in a network with `decoder_levels` decoder levels.
pub(super) fn place(key: &str, decoder_levels: usize) -> Place {
    let key = without_wrappers(key);
    if key.starts_with("decoder.encoder.") || key.contains(".all_modules.") {
        return Place::Unused;
    }
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["encoder", "stages", stage, "0", "convs", layer, rest @ ..] => {
            layer_place(&format!("encoder.{stage}.{layer}"), rest)
        }
        ["encoder", "stem", "convs", layer, rest @ ..] => {
            layer_place(&format!("stem.{layer}"), rest)
        }
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "conv1",
            rest @ ..,
        ] => layer_place(&format!("encoder.{stage}.{block}.layers.0"), rest),
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "conv2",
            rest @ ..,
        ] => layer_place(&format!("encoder.{stage}.{block}.layers.1"), rest),
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "skip",
            _,
            rest @ ..,
        ] => layer_place(&format!("encoder.{stage}.{block}.skip"), rest),
        ["decoder", "stages", level, "convs", "0", "conv", "weight"] => {
            Place::Concatenated(format!("decoder.{level}.0.conv.weight"))
        }
        ["decoder", "stages", level, "convs", layer, rest @ ..] => {
            layer_place(&format!("decoder.{level}.{layer}"), rest)
        }
        ["decoder", "transpconvs", level, part @ ("weight" | "bias")] => {
            Place::Same(format!("up.{level}.{part}"))
        }
        ["decoder", "seg_layers", level, part @ ("weight" | "bias")] => {
            head_place(level, part, decoder_levels)
        }
        _ => Place::Unknown,
    }
}

/// Destination of a level's logits; the last level is the finest.
fn head_place(level: &str, part: &str, decoder_levels: usize) -> Place {
    let last = decoder_levels.saturating_sub(1);
    match (level.parse::<usize>(), part) {
        (Ok(level), _) if level < last => Place::Unused,
        (Ok(level), "weight") if level == last => Place::Head("head.weight"),
        (Ok(level), _) if level == last => Place::Head("head.bias"),
        _ => Place::Unknown,
    }
}

fn without_wrappers(mut key: &str) -> &str {
    while let Some(inner) = key
        .strip_prefix("module.")
        .or_else(|| key.strip_prefix("_orig_mod."))
    {
        key = inner;
    }
    key
}

/// Destination of a parameter of a convolution with its normalisation.
fn layer_place(layer: &str, rest: &[&str]) -> Place {
    match rest {
        ["conv", "weight"] => Place::Same(format!("{layer}.conv.weight")),
        ["conv", "bias"] => Place::Unused,
        ["norm", "weight"] => Place::Same(format!("{layer}.norm.gamma")),
        ["norm", "bias"] => Place::Same(format!("{layer}.norm.beta")),
        _ => Place::Unknown,
    }
}

/// A convolution's weights (out, in, …) with the halves of their inputs swapped.
pub(super) fn swap_input_halves(tensor: &HostTensor) -> Option<HostTensor> {
    let (outputs, inputs) = (*tensor.shape.first()?, *tensor.shape.get(1)?);
    let numbers = elements_of(&tensor.shape)?;
    if numbers == 0 || inputs % 2 != 0 || tensor.values.len() != numbers {
        return None;
    }
    let mut values = tensor.values.clone();
    let width = numbers / outputs;
    for output in values.chunks_exact_mut(width) {
        output.rotate_left(width / 2);
    }
    Some(HostTensor {
        shape: tensor.shape.clone(),
        values,
    })
}

/// Reorders a head's rows. A `background` row is subtracted from all others: in ctseg the background of exclusive
/// classes has logit 0.
pub(super) fn head_rows(
    tensor: &HostTensor,
    rows: &[usize],
    background: Option<usize>,
) -> Option<HostTensor> {
    let outputs = *tensor.shape.first()?;
    if outputs != rows.len() + usize::from(background.is_some()) || tensor.values.is_empty() {
        return None;
    }
    let width = tensor.values.len() / outputs;
    let row = |at: usize| tensor.values.get(at * width..(at + 1) * width);
    let mut values = Vec::with_capacity(rows.len() * width);
    for at in rows {
        let own = row(*at)?;
        match background {
            Some(zero) => values.extend(own.iter().zip(row(zero)?).map(|(a, b)| a - b)),
            None => values.extend_from_slice(own),
        }
    }
    let mut shape = tensor.shape.clone();
    shape[0] = rows.len();
    Some(HostTensor { shape, values })
}

/// Converts a network's weights to ctseg's names; the error names the tensor that does not fit.
pub(super) fn convert_weights(
    weights: BTreeMap<String, HostTensor>,
    decoder_levels: usize,
    rows: &[usize],
    background: Option<usize>,
) -> std::result::Result<NamedTensors, String> {
    let mut found = NamedTensors::new();
    for (key, tensor) in weights {
        let (name, tensor) = match place(&key, decoder_levels) {
            Place::Unused => continue,
            Place::Unknown => {
                return Err(format!(
                    "{key} is not a parameter of a PlainConvUNet or ResidualEncoderUNet with instance normalisation"
                ));
            }
            Place::Same(name) => (name, Some(tensor)),
            Place::Concatenated(name) => (name, swap_input_halves(&tensor)),
            Place::Head(name) => (name.to_owned(), head_rows(&tensor, rows, background)),
        };
        let tensor = tensor.ok_or_else(|| format!("{key} has an unexpected shape"))?;
        found.insert(name, tensor);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_to_places() {
        let same = |name: &str| Place::Same(name.to_owned());
        for (key, expected) in [
            (
                "encoder.stages.0.0.convs.1.conv.weight",
                same("encoder.0.1.conv.weight"),
            ),
            ("encoder.stages.0.0.convs.1.conv.bias", Place::Unused),
            (
                "encoder.stages.0.0.convs.1.norm.weight",
                same("encoder.0.1.norm.gamma"),
            ),
            (
                "encoder.stages.0.0.convs.1.all_modules.0.weight",
                Place::Unused,
            ),
            (
                "decoder.encoder.stages.0.0.convs.1.norm.bias",
                Place::Unused,
            ),
            (
                "module._orig_mod.encoder.stem.convs.0.norm.bias",
                same("stem.0.norm.beta"),
            ),
            (
                "encoder.stages.2.blocks.1.conv2.norm.weight",
                same("encoder.2.1.layers.1.norm.gamma"),
            ),
            (
                "encoder.stages.2.blocks.0.skip.1.conv.weight",
                same("encoder.2.0.skip.conv.weight"),
            ),
            (
                "decoder.stages.1.convs.0.conv.weight",
                Place::Concatenated("decoder.1.0.conv.weight".to_owned()),
            ),
            (
                "decoder.stages.1.convs.1.conv.weight",
                same("decoder.1.1.conv.weight"),
            ),
            ("decoder.transpconvs.0.bias", same("up.0.bias")),
            ("decoder.seg_layers.0.weight", Place::Unused),
            ("decoder.seg_layers.1.weight", Place::Head("head.weight")),
            ("decoder.seg_layers.1.bias", Place::Head("head.bias")),
            ("decoder.seg_layers.2.weight", Place::Unknown),
            (
                "decoder.seg_layers.18446744073709551615.weight",
                Place::Unknown,
            ),
            (
                "encoder.stages.0.0.convs.1.norm.running_mean",
                Place::Unknown,
            ),
            ("classifier.weight", Place::Unknown),
        ] {
            assert_eq!(place(key, 2), expected, "{key}");
        }
    }

    #[test]
    fn halves_and_rows_are_reordered() {
        let tensor = HostTensor {
            shape: vec![2, 4, 1],
            values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        };
        let swapped = swap_input_halves(&tensor).unwrap();
        assert_eq!(swapped.values, [3.0, 4.0, 1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
        let head = head_rows(&tensor, &[1], Some(0)).unwrap();
        assert_eq!((head.shape, head.values), (vec![1, 4, 1], vec![4.0; 4]));
        let reordered = head_rows(&tensor, &[1, 0], None).unwrap();
        assert_eq!(reordered.values[..4], tensor.values[4..]);
        assert!(head_rows(&tensor, &[2, 0], None).is_none());
        // More rows than there are classes.
        assert!(head_rows(&tensor, &[1], None).is_none());
        let empty = HostTensor {
            shape: vec![2, 0, 3],
            values: Vec::new(),
        };
        assert!(swap_input_halves(&empty).is_none());
        let endless = HostTensor {
            shape: vec![0, 1 << 40, 1 << 40],
            values: Vec::new(),
        };
        assert!(swap_input_halves(&endless).is_none());
    }
}
