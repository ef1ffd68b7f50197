//! The kinds of losses, by their names in recipes.

use burn::tensor::Tensor;
use serde::de::value::MapDeserializer;
use serde::{Deserialize, Serialize, de};

use super::batch_view::BatchView;
use super::cross_entropy_and_dice::SumSettings;
use super::kind::{LossKind, WeightedSum};
use super::outputs::Outputs;
use ctseg_base::Error;

/// Defines the enum of all kinds' settings, as `serde` needs concrete types, and passes calls on to the kind.
macro_rules! losses {
    ($($name:literal => super::$file:ident::$kind:ident,)+) => {
        /// A loss and its settings; [`name_or_section`](super::name_or_section) defines its form in recipes.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        pub enum LossConfig {
            $(#[serde(rename = $name)] $kind(<super::$file::$kind as LossKind>::Settings),)+
        }

        impl LossConfig {
            /// Name of this kind of loss in recipes.
            pub(super) fn recipe_name(&self) -> &'static str {
                match self { $(Self::$kind(_) => $name,)+ }
            }

            pub(super) fn compute(&self, view: &BatchView, distances: Option<Tensor<5>>) -> Tensor<1> {
                match self { $(Self::$kind(settings) => super::$file::$kind::compute(settings, view, distances),)+ }
            }

            pub(super) fn needs_distances(&self) -> bool {
                match self { $(Self::$kind(_) => super::$file::$kind::NEEDS_DISTANCES,)+ }
            }

            pub(super) fn as_sum(&self) -> Option<WeightedSum> {
                match self { $(Self::$kind(settings) => super::$file::$kind::as_sum(settings),)+ }
            }

            fn wrong_outputs(&self, outputs: Outputs) -> Option<&'static str> {
                match self { $(Self::$kind(settings) => super::$file::$kind::wrong_outputs(settings, outputs),)+ }
            }

            fn wrong_value(&self) -> Option<&'static str> {
                match self { $(Self::$kind(settings) => super::$file::$kind::wrong_value(settings),)+ }
            }
        }
    };
}

losses! {
    "bce" => super::cross_entropy::Bce,
    "ce" => super::cross_entropy::Ce,
    "dice" => super::dice::Dice,
    "bce_dice" => super::cross_entropy_and_dice::BceDice,
    "ce_dice" => super::cross_entropy_and_dice::CeDice,
    "focal" => super::focal::Focal,
    "tversky" => super::tversky::Tversky,
    "focal_tversky" => super::tversky::FocalTversky,
    "generalised_dice" => super::generalised_dice::GeneralisedDice,
    "boundary" => super::boundary::Boundary,
    "topk" => super::topk::Topk,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self::BceDice(SumSettings::default())
    }
}

impl LossConfig {
    /// The name used in run names (`unet2d_bce-dice_adam_256`).
    pub fn name(&self) -> String {
        self.recipe_name().replace('_', "-")
    }

    /// The first invalid setting, if any.
    pub fn problem(&self, outputs: Outputs) -> Option<&'static str> {
        self.wrong_outputs(outputs).or_else(|| self.wrong_value())
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

    pub(super) fn named<E: de::Error>(name: &str) -> Result<Self, E> {
        Self::deserialize(MapDeserializer::new([("kind", name)].into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> serde_json::Result<LossConfig> {
        serde_json::from_str(text)
    }

    #[test]
    fn losses_are_written_as_they_are_read() {
        for (text, name) in [
            (r#"{"kind":"bce"}"#, "bce"),
            (r#"{"kind":"ce"}"#, "ce"),
            (r#"{"kind":"dice","smooth":1.0,"per_sample":true}"#, "dice"),
            (
                r#"{"kind":"bce_dice","smooth":1.0,"per_sample":false,"cross_entropy_weight":1.0,"dice_weight":2.0}"#,
                "bce-dice",
            ),
            (
                r#"{"kind":"ce_dice","smooth":1.0,"per_sample":false,"cross_entropy_weight":0.0,"dice_weight":1.0}"#,
                "ce-dice",
            ),
            (r#"{"kind":"focal","gamma":2.0}"#, "focal"),
            (r#"{"kind":"focal","gamma":2.0,"alpha":0.5}"#, "focal"),
            (
                r#"{"kind":"tversky","alpha":0.3,"beta":0.7,"smooth":1.0,"per_sample":false}"#,
                "tversky",
            ),
            (
                r#"{"kind":"focal_tversky","alpha":0.3,"beta":0.7,"gamma":1.5,"smooth":1.0,"per_sample":false}"#,
                "focal-tversky",
            ),
            (
                r#"{"kind":"generalised_dice","smooth":0.5,"per_sample":false}"#,
                "generalised-dice",
            ),
            (
                r#"{"kind":"boundary","region":"ce_dice","weight":0.02}"#,
                "boundary",
            ),
            (r#"{"kind":"topk","share":0.2,"dice_weight":0.0}"#, "topk"),
        ] {
            let loss = read(text).unwrap();
            assert_eq!(serde_json::to_string(&loss).unwrap(), text);
            assert_eq!(loss.name(), name);
        }
    }

    #[test]
    fn unknown_kinds_and_settings_are_refused() {
        let kinds = "`bce`, `ce`, `dice`, `bce_dice`, `ce_dice`, `focal`, `tversky`, `focal_tversky`, `generalised_dice`, `boundary`, `topk`";
        let error = LossConfig::from_name("vocal").unwrap_err();
        let message = format!("unknown variant `vocal`, expected one of {kinds}");
        assert!(error.to_string().starts_with(&message), "{error}");
        for (text, message) in [
            (r#"{"smooth":1}"#, "missing field `kind`"),
            (
                r#"{"kind":"dice","smoth":1}"#,
                "unknown field `smoth`, expected `smooth` or `per_sample`",
            ),
            (
                r#"{"kind":"bce","smooth":1}"#,
                "unknown field `smooth`, there are no fields",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn losses_for_other_outputs_are_refused() {
        use Outputs::{Exclusive, Independent};
        let bce = "training.loss: bce and bce_dice are for outputs = \"independent\"; use ce or ce_dice for exclusive classes";
        let ce = "training.loss: ce and ce_dice are for outputs = \"exclusive\"; use bce or bce_dice for independent structures";
        for (outputs, text, message) in [
            (Exclusive, r#"{"kind":"bce"}"#, bce),
            (Exclusive, r#"{"kind":"bce_dice"}"#, bce),
            (Independent, r#"{"kind":"ce"}"#, ce),
            (Independent, r#"{"kind":"ce_dice","smooth":0}"#, ce),
            (Independent, r#"{"kind":"boundary","region":"ce_dice"}"#, ce),
            (Exclusive, r#"{"kind":"boundary","region":"bce_dice"}"#, bce),
        ] {
            assert_eq!(read(text).unwrap().problem(outputs), Some(message));
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let smooth = "training.loss.smooth must be above 0";
        let shares = "training.loss.alpha and beta must be 0 or more, and not both 0";
        for (settings, message) in [
            (r#""dice","smooth":0"#, smooth),
            (r#""generalised_dice","smooth":-1"#, smooth),
            (r#""bce_dice","smooth":0"#, smooth),
            (
                r#""bce_dice","cross_entropy_weight":0,"dice_weight":0"#,
                "training.loss.cross_entropy_weight and dice_weight must be 0 or more, and not both 0",
            ),
            (r#""tversky","alpha":0,"beta":0"#, shares),
            (r#""focal_tversky","alpha":-1"#, shares),
            (
                r#""focal_tversky","gamma":4"#,
                "training.loss.gamma must lie in [1, 3]",
            ),
            (
                r#""focal","gamma":-1"#,
                "training.loss.gamma must be 0 or more",
            ),
            (
                r#""focal","alpha":2"#,
                "training.loss.alpha must lie in [0, 1]",
            ),
            (
                r#""boundary","weight":0"#,
                "training.loss.weight must be above 0",
            ),
            (
                r#""topk","share":0"#,
                "training.loss.share must lie in (0, 1], and dice_weight must be 0 or more",
            ),
        ] {
            let loss = read(&format!(r#"{{"kind":{settings}}}"#)).unwrap();
            assert_eq!(loss.problem(Outputs::Independent), Some(message));
        }
    }
}
