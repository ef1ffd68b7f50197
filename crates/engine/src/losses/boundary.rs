//! Boundary loss.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::batch_view::BatchView;
use super::cross_entropy_and_dice::{BceDice, CeDice};
use super::dice::Dice;
use super::generalised_dice::GeneralisedDice;
use super::kind::LossKind;
use super::outputs::Outputs;

/// Settings of the boundary loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoundarySettings {
    /// The region loss to which it is added: on its own, the boundary loss is minimal if nothing is predicted.
    pub region: RegionLoss,
    /// Weight of the boundary term, which is in mm.
    pub weight: f64,
}

impl Default for BoundarySettings {
    fn default() -> Self {
        Self {
            region: RegionLoss::GeneralisedDice,
            weight: 0.01,
        }
    }
}

/// A region loss with default settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionLoss {
    Dice,
    GeneralisedDice,
    BceDice,
    CeDice,
}

impl RegionLoss {
    fn compute(self, view: &BatchView) -> Tensor<1> {
        match self {
            Self::Dice => by_default::<Dice>(view),
            Self::GeneralisedDice => by_default::<GeneralisedDice>(view),
            Self::BceDice => by_default::<BceDice>(view),
            Self::CeDice => by_default::<CeDice>(view),
        }
    }
}

fn by_default<K: LossKind>(view: &BatchView) -> Tensor<1> {
    K::compute(&K::Settings::default(), view, None)
}

/// The mean over voxels and structures of `p · φ`, φ the signed distance to the structure's surface in mm, negative
/// inside: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019. It is minimal if nothing
/// far outside and everything deep inside is predicted.
///
/// # Shapes
/// - `distances`: (batch, structure, z, y, x)
fn boundary(view: &BatchView, distances: Tensor<5>) -> Tensor<1> {
    view.masked_mean(view.probabilities() * distances)
}

pub struct Boundary;

impl LossKind for Boundary {
    type Settings = BoundarySettings;

    const NEEDS_DISTANCES: bool = true;

    fn compute(
        settings: &BoundarySettings,
        view: &BatchView,
        distances: Option<Tensor<5>>,
    ) -> Tensor<1> {
        let region = settings.region.compute(view);
        match distances {
            Some(distances) => region + boundary(view, distances) * settings.weight,
            None => region,
        }
    }

    fn wrong_outputs(settings: &BoundarySettings, outputs: Outputs) -> Option<&'static str> {
        match settings.region {
            RegionLoss::Dice | RegionLoss::GeneralisedDice => None,
            RegionLoss::BceDice => BceDice::wrong_outputs(&Default::default(), outputs),
            RegionLoss::CeDice => CeDice::wrong_outputs(&Default::default(), outputs),
        }
    }

    fn wrong_value(settings: &BoundarySettings) -> Option<&'static str> {
        (!(settings.weight.is_finite() && settings.weight > 0.0))
            .then_some("training.loss.weight must be above 0")
    }
}
