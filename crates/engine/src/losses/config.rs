//! Loss settings of a recipe: a name (`loss = "bce_dice"`), or a section with settings (`[training.loss]` with `kind
//! = "…"`).

use std::fmt;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::outputs::Outputs;
use ctseg_base::Error;

/// A loss and its settings; [`name_or_section`] defines its form in recipes. The formulas are in the files of the
/// same names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LossConfig {
    /// Binary cross-entropy, for independent structures.
    Bce(NoSettings),
    /// Cross-entropy, for exclusive classes.
    Ce(NoSettings),
    Dice(DiceSettings),
    /// The sum of both, for independent structures.
    BceDice(SumSettings),
    /// The sum of both, for exclusive classes.
    CeDice(SumSettings),
    Focal(FocalSettings),
    Tversky(TverskySettings),
    FocalTversky(FocalTverskySettings),
    GeneralisedDice(GeneralisedDiceSettings),
    Boundary(BoundarySettings),
    Topk(TopkSettings),
}

/// For a loss without settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NoSettings {}

/// Settings of the Dice loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiceSettings {
    /// Added to numerator and denominator, so that a structure that is neither present nor predicted costs 0 instead
    /// of 0/0.
    pub smooth: f64,
    /// Dice per sample instead of over the whole batch.
    pub per_sample: bool,
}

impl Default for DiceSettings {
    fn default() -> Self {
        Self {
            smooth: 1.0,
            per_sample: false,
        }
    }
}

/// Settings of cross-entropy plus Dice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SumSettings {
    pub smooth: f64,
    pub per_sample: bool,
    /// Weight of the cross-entropy.
    pub cross_entropy_weight: f64,
    /// Weight of the Dice loss.
    pub dice_weight: f64,
}

impl Default for SumSettings {
    fn default() -> Self {
        Self {
            smooth: 1.0,
            per_sample: false,
            cross_entropy_weight: 1.0,
            dice_weight: 1.0,
        }
    }
}

impl SumSettings {
    /// The Dice part of the settings.
    pub(crate) fn dice(&self) -> DiceSettings {
        DiceSettings {
            smooth: self.smooth,
            per_sample: self.per_sample,
        }
    }
}

/// Settings of the focal loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FocalSettings {
    /// Focusing parameter: higher values reduce the weight of well-classified voxels; 0 is cross-entropy.
    pub gamma: f64,
    /// Weight of structure voxels; others have 1 − alpha. Equal weights by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

impl Default for FocalSettings {
    fn default() -> Self {
        Self {
            gamma: 2.0,
            alpha: None,
        }
    }
}

/// Settings of the Tversky loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TverskySettings {
    /// Weight of false positives.
    pub alpha: f64,
    /// Weight of false negatives.
    pub beta: f64,
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for TverskySettings {
    fn default() -> Self {
        Self {
            alpha: 0.3,
            beta: 0.7,
            smooth: 1.0,
            per_sample: false,
        }
    }
}

/// Settings of the focal Tversky loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FocalTverskySettings {
    pub alpha: f64,
    pub beta: f64,
    /// Focusing parameter: higher values increase the weight of structures with poor overlap.
    pub gamma: f64,
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for FocalTverskySettings {
    fn default() -> Self {
        Self {
            alpha: 0.3,
            beta: 0.7,
            gamma: 4.0 / 3.0,
            smooth: 1.0,
            per_sample: false,
        }
    }
}

impl FocalTverskySettings {
    pub(super) fn tversky(&self) -> TverskySettings {
        TverskySettings {
            alpha: self.alpha,
            beta: self.beta,
            smooth: self.smooth,
            per_sample: self.per_sample,
        }
    }
}

/// Settings of the generalised Dice loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneralisedDiceSettings {
    pub smooth: f64,
    pub per_sample: bool,
}

impl Default for GeneralisedDiceSettings {
    fn default() -> Self {
        Self {
            smooth: 1e-5,
            per_sample: false,
        }
    }
}

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
    pub(super) fn config(self) -> LossConfig {
        match self {
            Self::Dice => LossConfig::Dice(DiceSettings::default()),
            Self::GeneralisedDice => {
                LossConfig::GeneralisedDice(GeneralisedDiceSettings::default())
            }
            Self::BceDice => LossConfig::BceDice(SumSettings::default()),
            Self::CeDice => LossConfig::CeDice(SumSettings::default()),
        }
    }
}

/// Settings of the top-k loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopkSettings {
    /// Fraction of the voxels.
    pub share: f64,
    /// Weight of an added Dice loss; 0 disables it.
    pub dice_weight: f64,
}

impl Default for TopkSettings {
    fn default() -> Self {
        Self {
            share: 0.1,
            dice_weight: 0.0,
        }
    }
}

impl Default for LossConfig {
    fn default() -> Self {
        Self::BceDice(SumSettings::default())
    }
}

impl LossConfig {
    /// The name used in run names (`unet2d_bce-dice_adam_256`).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bce(_) => "bce",
            Self::Ce(_) => "ce",
            Self::Dice(_) => "dice",
            Self::BceDice(_) => "bce-dice",
            Self::CeDice(_) => "ce-dice",
            Self::Focal(_) => "focal",
            Self::Tversky(_) => "tversky",
            Self::FocalTversky(_) => "focal-tversky",
            Self::GeneralisedDice(_) => "generalised-dice",
            Self::Boundary(_) => "boundary",
            Self::Topk(_) => "topk",
        }
    }

    /// The first invalid setting, if any.
    pub fn problem(&self, outputs: Outputs) -> Option<&'static str> {
        self.wrong_outputs(outputs).or_else(|| self.wrong_value())
    }

    fn wrong_outputs(&self, outputs: Outputs) -> Option<&'static str> {
        match (self, outputs) {
            (Self::Bce(_) | Self::BceDice(_), Outputs::Exclusive) => Some(
                "training.loss: bce and bce_dice are for outputs = \"independent\"; use ce or ce_dice for exclusive classes",
            ),
            (Self::Ce(_) | Self::CeDice(_), Outputs::Independent) => Some(
                "training.loss: ce and ce_dice are for outputs = \"exclusive\"; use bce or bce_dice for independent structures",
            ),
            (Self::Boundary(settings), _) => settings.region.config().wrong_outputs(outputs),
            _ => None,
        }
    }

    fn wrong_value(&self) -> Option<&'static str> {
        let weight = |v: f64| v.is_finite() && v >= 0.0;
        let smooth = |v: f64| {
            (!(v.is_finite() && v > 0.0)).then_some("training.loss.smooth must be above 0")
        };
        let shares = |alpha: f64, beta: f64| {
            (!(weight(alpha) && weight(beta) && alpha + beta > 0.0))
                .then_some("training.loss.alpha and beta must be 0 or more, and not both 0")
        };
        match self {
            Self::Bce(_) | Self::Ce(_) => None,
            Self::Dice(s) => smooth(s.smooth),
            Self::GeneralisedDice(s) => smooth(s.smooth),
            Self::BceDice(s) | Self::CeDice(s) => smooth(s.smooth).or((!(weight(s.dice_weight)
                && weight(s.cross_entropy_weight)
                && s.dice_weight + s.cross_entropy_weight > 0.0))
                .then_some("training.loss.cross_entropy_weight and dice_weight must be 0 or more, and not both 0")),
            Self::Focal(s) if !weight(s.gamma) => Some("training.loss.gamma must be 0 or more"),
            Self::Focal(s) => s
                .alpha
                .is_some_and(|alpha| !(0.0..=1.0).contains(&alpha))
                .then_some("training.loss.alpha must lie in [0, 1]"),
            Self::Tversky(s) => smooth(s.smooth).or(shares(s.alpha, s.beta)),
            Self::FocalTversky(s) => smooth(s.smooth)
                .or(shares(s.alpha, s.beta))
                .or((!(1.0..=3.0).contains(&s.gamma)).then_some("training.loss.gamma must lie in [1, 3]")),
            Self::Boundary(s) => (!(s.weight.is_finite() && s.weight > 0.0))
                .then_some("training.loss.weight must be above 0"),
            Self::Topk(s) => (!(s.share > 0.0 && s.share <= 1.0 && weight(s.dice_weight))).then_some(
                "training.loss.share must lie in (0, 1], and dice_weight must be 0 or more",
            ),
        }
    }

    /// The loss with this name in recipes, with default settings.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn from_name(name: &str) -> ctseg_base::Result<Self> {
        Self::named(name).map_err(|error: de::value::Error| Error::invalid(error.to_string()))
    }

    /// The outputs that the loss is for; independent if it supports both.
    pub fn outputs(&self) -> Outputs {
        match self.wrong_outputs(Outputs::Independent) {
            None => Outputs::Independent,
            Some(_) => Outputs::Exclusive,
        }
    }

    fn named<E: de::Error>(name: &str) -> Result<Self, E> {
        Self::deserialize(MapDeserializer::new([("kind", name)].into_iter()))
    }
}

/// Serde format: only the name if all settings have their defaults, otherwise a section.
pub mod name_or_section {
    use super::*;

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(config: &LossConfig, to: S) -> Result<S::Ok, S::Error> {
        let name = config.name().replace('-', "_");
        match LossConfig::named::<de::value::Error>(&name) {
            Ok(plain) if plain == *config => to.serialize_str(&name),
            _ => config.serialize(to),
        }
    }

    /// # Errors
    /// Unknown names and keys, a section without `kind`.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<LossConfig, D::Error> {
        from.deserialize_any(NameOrSection)
    }

    struct NameOrSection;

    impl<'de> Visitor<'de> for NameOrSection {
        type Value = LossConfig;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("the name of a loss, or a section with kind = \"…\" and settings")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<LossConfig, E> {
            LossConfig::named(name)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LossConfig, A::Error> {
            LossConfig::deserialize(MapAccessDeserializer::new(map))
        }
    }
}
