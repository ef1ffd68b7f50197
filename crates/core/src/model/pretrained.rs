//! Beginning with another model's weights, as far as they fit.

use std::path::Path;

use super::bundle::Bundle;
use crate::dataset::Structure;
use ctseg_base::text::words::listed;
use ctseg_base::{Error, Result};
use ctseg_engine::freezing::is_frozen;
use ctseg_engine::weights::NamedTensors;

/// Names of tensors that say which structure is which.
const HEADS: [&str; 2] = ["head.", "heads."];

/// Weights to begin with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// One set per network of the model's stage.
    networks: Vec<NamedTensors>,
}

/// A network's weights, in part another's.
#[derive(Debug, Clone, PartialEq)]
pub struct TakenOver {
    pub weights: NamedTensors,
    /// How many tensors are the other's.
    pub taken: usize,
    /// Those that begin anew, and why.
    pub anew: Vec<String>,
}

impl Beginning {
    /// The weights of stage `stage` in the model at `path`, for a dataset with `structures`. Where the model's
    /// structures are others, its head is left out.
    ///
    /// # Errors
    /// No model, a damaged one, or none of that stage.
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

    /// `fresh` weights with those replaced that the network at position `index` (of as many as there are, in
    /// turn) has in the same name and shape.
    ///
    /// # Errors
    /// Fewer than half of them fit: another kind of network.
    pub fn taken_over(&self, index: usize, fresh: NamedTensors) -> Result<TakenOver> {
        let given = self.networks.get(index % self.networks.len().max(1));
        let mut result = TakenOver {
            weights: NamedTensors::new(),
            taken: 0,
            anew: Vec::new(),
        };
        for (name, tensor) in fresh {
            let other = given.and_then(|given| given.get(&name));
            let tensor = match other {
                Some(other) if other.shape == tensor.shape => {
                    result.taken += 1;
                    other.clone()
                }
                Some(other) => {
                    let (there, here) = (&other.shape, &tensor.shape);
                    result
                        .anew
                        .push(format!("{name} ({there:?} there, {here:?} here)"));
                    tensor
                }
                None => {
                    result.anew.push(name.clone());
                    tensor
                }
            };
            result.weights.insert(name, tensor);
        }
        let all = result.weights.len();
        if 2 * result.taken < all {
            return Err(Error::invalid(format!(
                "only {} of {all} tensors of --from fit this recipe's network; its kind or widths are others: take the recipe that the model was trained with ('ctseg inspect MODEL' shows it)",
                result.taken
            )));
        }
        Ok(result)
    }
}

impl TakenOver {
    /// An error if one of the first `levels` levels of the encoder begins anew: frozen, it would stay random.
    pub fn refuse_frozen_anew(&self, levels: usize) -> Result<()> {
        let Some(anew) = self.anew.iter().find(|name| is_frozen(name, levels)) else {
            return Ok(());
        };
        Err(Error::invalid(format!(
            "training.freeze_encoder_levels = {levels} would freeze weights that --from does not give: {anew}; freeze fewer levels, or take the channels that the model was trained with"
        )))
    }

    /// In words, for the log.
    pub fn described(&self) -> String {
        let all = self.weights.len();
        match self.anew.as_slice() {
            [] => format!("begins with all {all} tensors of --from"),
            anew => format!(
                "begins with {} of {all} tensors of --from; anew: {}",
                self.taken,
                listed(anew)
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
    fn what_fits_is_taken_and_the_rest_begins_anew() {
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
        let beginning = Beginning {
            networks: vec![network(1.0, 2, 3), network(2.0, 2, 3)],
        };
        let taken = beginning.taken_over(1, network(0.0, 3, 5)).unwrap();
        assert_eq!(taken.taken, 3);
        assert_eq!(taken.weights["decoder.0.0.conv.weight"].values[0], 2.0);
        assert_eq!(taken.weights["head.weight"], tensor(&[5, 4, 1, 1], 0.0));
        assert!(
            taken
                .described()
                .contains("encoder.0.0.conv.weight ([4, 2, 3, 3] there, [4, 3, 3, 3] here)")
        );
        // There are two networks: the third begins with the first's.
        let taken = beginning.taken_over(2, network(0.0, 2, 3)).unwrap();
        assert_eq!((taken.taken, taken.anew.len()), (5, 0));
        assert_eq!(taken.weights["head.weight"].values[0], 1.0);
        let other = NamedTensors::from([("stem.weight".to_owned(), tensor(&[1], 0.0))]);
        assert!(beginning.taken_over(0, other).is_err());
    }
}
