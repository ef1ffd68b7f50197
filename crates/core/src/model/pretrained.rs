//! Initialisation from another model's weights.

use std::path::Path;

use super::bundle::Bundle;
use crate::dataset::Structure;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_engine::freezing::is_frozen;
use ctseg_engine::weights::NamedTensors;

/// Prefixes of tensors that depend on the structures.
const HEADS: [&str; 2] = ["head.", "heads."];

#[derive(Debug, Clone)]
pub struct PretrainedWeights {
    /// One set per network of the model's stage.
    networks: Vec<NamedTensors>,
}

/// A network's weights, initialised in part from another model.
#[derive(Debug, Clone, PartialEq)]
pub struct Initialised {
    pub weights: NamedTensors,
    /// Number of tensors that were loaded from the other model.
    pub loaded: usize,
    /// Tensors that are re-initialised, and why.
    pub reinitialised: Vec<String>,
}

impl PretrainedWeights {
    /// The weights of stage `stage` of the model at `path`, for a dataset with `structures`. If the model has other
    /// structures, its head is omitted.
    ///
    /// # Errors
    /// No model, a damaged one, or one without that stage.
    pub fn load(path: &Path, stage: u8, structures: &[Structure]) -> Result<Self> {
        let bundle = Bundle::open(path)?;
        let mut networks = bundle.stage_weights(stage)?;
        if bundle.structures()? != structures {
            for network in &mut networks {
                network.retain(|name, _| !HEADS.iter().any(|head| name.starts_with(head)));
            }
        }
        Ok(Self { networks })
    }

    /// Replaces the `fresh` weights that have the same name and shape in the network at position `index` (modulo the
    /// number of networks).
    ///
    /// # Errors
    /// Fewer than half of them match: another kind of network.
    pub fn initialise(&self, index: usize, fresh: NamedTensors) -> Result<Initialised> {
        let given = self.networks.get(index % self.networks.len().max(1));
        let mut result = Initialised {
            weights: NamedTensors::new(),
            loaded: 0,
            reinitialised: Vec::new(),
        };
        for (name, tensor) in fresh {
            let other = given.and_then(|given| given.get(&name));
            let tensor = match other {
                Some(other) if other.shape == tensor.shape => {
                    result.loaded += 1;
                    other.clone()
                }
                Some(other) => {
                    let (there, here) = (&other.shape, &tensor.shape);
                    result
                        .reinitialised
                        .push(format!("{name} (shape {here:?}, --from has {there:?})"));
                    tensor
                }
                None => {
                    result.reinitialised.push(name.clone());
                    tensor
                }
            };
            result.weights.insert(name, tensor);
        }
        let all = result.weights.len();
        if 2 * result.loaded < all {
            return Err(Error::invalid(format!(
                "only {} of {all} tensors of --from match this recipe's network, which has another architecture or other widths; use the recipe that the model was trained with ('ctseg inspect MODEL' shows it)",
                result.loaded
            )));
        }
        Ok(result)
    }
}

impl Initialised {
    /// An error if one of the first `levels` encoder levels is re-initialised: frozen, it would stay random.
    pub fn refuse_frozen_random(&self, levels: usize) -> Result<()> {
        let Some(name) = self
            .reinitialised
            .iter()
            .find(|name| is_frozen(name, levels))
        else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "training.freeze_encoder_levels = {levels} would freeze weights that are not in --from: {name}; freeze fewer levels, or use the channels that the model was trained with"
        )))
    }

    /// A summary for the log.
    pub fn described(&self) -> String {
        let all = self.weights.len();
        match self.reinitialised.as_slice() {
            [] => format!("initialised all {all} tensors from --from"),
            others => format!(
                "initialised {} of {all} tensors from --from; re-initialised: {}",
                self.loaded,
                listed(others)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_engine::weights::HostTensor;

    fn tensor(shape: &[usize], value: f32) -> HostTensor {
        HostTensor {
            shape: shape.to_vec(),
            values: vec![value; shape.iter().product()],
        }
    }

    #[test]
    fn matching_tensors_are_loaded_and_the_rest_is_reinitialised() {
        let network = |value: f32, channels: usize, structures: usize| {
            NamedTensors::from([
                (
                    "encoder.0.0.conv.weight".to_owned(),
                    tensor(&[4, channels, 3, 3], value),
                ),
                ("up.0.weight".to_owned(), tensor(&[8, 4, 2, 2], value)),
                ("up.0.bias".to_owned(), tensor(&[4], value)),
                (
                    "decoder.0.0.conv.weight".to_owned(),
                    tensor(&[4, 8, 3, 3], value),
                ),
                (
                    "head.weight".to_owned(),
                    tensor(&[structures, 4, 1, 1], value),
                ),
            ])
        };
        let pretrained = PretrainedWeights {
            networks: vec![network(1.0, 2, 3), network(2.0, 2, 3)],
        };
        let initialised = pretrained.initialise(1, network(0.0, 3, 5)).unwrap();
        assert_eq!(initialised.loaded, 3);
        assert_eq!(
            initialised.weights["decoder.0.0.conv.weight"].values[0],
            2.0
        );
        assert_eq!(
            initialised.weights["head.weight"],
            tensor(&[5, 4, 1, 1], 0.0)
        );
        assert!(
            initialised
                .described()
                .contains("encoder.0.0.conv.weight (shape [4, 3, 3, 3], --from has [4, 2, 3, 3])")
        );
        // There are two networks: the third is initialised from the first.
        let initialised = pretrained.initialise(2, network(0.0, 2, 3)).unwrap();
        assert_eq!(
            (initialised.loaded, initialised.reinitialised.len()),
            (5, 0)
        );
        assert_eq!(initialised.weights["head.weight"].values[0], 1.0);
        let other = NamedTensors::from([("stem.weight".to_owned(), tensor(&[1], 0.0))]);
        assert!(pretrained.initialise(0, other).is_err());
    }
}
