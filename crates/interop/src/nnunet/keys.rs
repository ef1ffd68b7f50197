//! From the names of nnU-Net's weights (`dynamic_network_architectures`) to those of ctseg's networks, and what has to
//! be changed about them.

use std::collections::BTreeMap;

use ctseg_engine::weights::{HostTensor, NamedTensors, elements_of};

/// Where a tensor goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// As it is, under this name.
    Same(String),
    /// A convolution of what the decoder has joined: the halves of its input change places, because nnU-Net has the
    /// upsampled features first and ctseg the skipped ones.
    Joined(String),
    /// Weights or biases of the finest logits.
    Head(&'static str),
    /// Nowhere: a second name of a tensor, a bias that the normalisation after it takes away, the logits of coarser
    /// levels, which only training needs.
    Unused,
    /// Not one of these networks' names.
    Unknown,
}

/// Where the tensor `key` goes in a network whose decoder has so many levels.
pub(super) fn place(key: &str, decoder_levels: usize) -> Place {
    let key = without_wrappers(key);
    if key.starts_with("decoder.encoder.") || key.contains(".all_modules.") {
        return Place::Unused;
    }
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["encoder", "stages", stage, "0", "convs", layer, rest @ ..] => {
            of_layer(&format!("encoder.{stage}.{layer}"), rest)
        }
        ["encoder", "stem", "convs", layer, rest @ ..] => of_layer(&format!("stem.{layer}"), rest),
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "conv1",
            rest @ ..,
        ] => of_layer(&format!("encoder.{stage}.{block}.layers.0"), rest),
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "conv2",
            rest @ ..,
        ] => of_layer(&format!("encoder.{stage}.{block}.layers.1"), rest),
        [
            "encoder",
            "stages",
            stage,
            "blocks",
            block,
            "skip",
            _,
            rest @ ..,
        ] => of_layer(&format!("encoder.{stage}.{block}.skip"), rest),
        ["decoder", "stages", level, "convs", "0", "conv", "weight"] => {
            Place::Joined(format!("decoder.{level}.0.conv.weight"))
        }
        ["decoder", "stages", level, "convs", layer, rest @ ..] => {
            of_layer(&format!("decoder.{level}.{layer}"), rest)
        }
        ["decoder", "transpconvs", level, part @ ("weight" | "bias")] => {
            Place::Same(format!("up.{level}.{part}"))
        }
        ["decoder", "seg_layers", level, part @ ("weight" | "bias")] => {
            of_logits(level, part, decoder_levels)
        }
        _ => Place::Unknown,
    }
}

/// Of the logits of a level, the last of which are the finest.
fn of_logits(level: &str, part: &str, decoder_levels: usize) -> Place {
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

/// Of a convolution with its normalisation.
fn of_layer(layer: &str, rest: &[&str]) -> Place {
    match rest {
        ["conv", "weight"] => Place::Same(format!("{layer}.conv.weight")),
        ["conv", "bias"] => Place::Unused,
        ["norm", "weight"] => Place::Same(format!("{layer}.norm.gamma")),
        ["norm", "bias"] => Place::Same(format!("{layer}.norm.beta")),
        _ => Place::Unknown,
    }
}

/// A convolution's weights (out, in, …) with the halves of their inputs in the other order.
pub(super) fn halves_exchanged(tensor: &HostTensor) -> Option<HostTensor> {
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

/// A head's rows in another order; with a `background` row, that one is taken from all others: ctseg measures
/// exclusive classes against a background of logit 0.
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

/// A network's weights under ctseg's names; the error names the tensor that does not fit.
pub(super) fn converted(
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
                    "{key} belongs to no layer of a PlainConvUNet or ResidualEncoderUNet with instance normalisation"
                ));
            }
            Place::Same(name) => (name, Some(tensor)),
            Place::Joined(name) => (name, halves_exchanged(&tensor)),
            Place::Head(name) => (name.to_owned(), head_rows(&tensor, rows, background)),
        };
        let tensor = tensor.ok_or_else(|| format!("{key} has a shape that cannot be right"))?;
        found.insert(name, tensor);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_places() {
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
                Place::Joined("decoder.1.0.conv.weight".to_owned()),
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
    fn halves_and_rows_are_moved() {
        let tensor = HostTensor {
            shape: vec![2, 4, 1],
            values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        };
        let exchanged = halves_exchanged(&tensor).unwrap();
        assert_eq!(exchanged.values, [3.0, 4.0, 1.0, 2.0, 7.0, 8.0, 5.0, 6.0]);
        let head = head_rows(&tensor, &[1], Some(0)).unwrap();
        assert_eq!((head.shape, head.values), (vec![1, 4, 1], vec![4.0; 4]));
        let turned = head_rows(&tensor, &[1, 0], None).unwrap();
        assert_eq!(turned.values[..4], tensor.values[4..]);
        assert!(head_rows(&tensor, &[2, 0], None).is_none());
        // More rows than there are classes.
        assert!(head_rows(&tensor, &[1], None).is_none());
        let empty = HostTensor {
            shape: vec![2, 0, 3],
            values: Vec::new(),
        };
        assert!(halves_exchanged(&empty).is_none());
        let endless = HostTensor {
            shape: vec![0, 1 << 40, 1 << 40],
            values: Vec::new(),
        };
        assert!(halves_exchanged(&endless).is_none());
    }
}
