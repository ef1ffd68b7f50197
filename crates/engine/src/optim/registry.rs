//! The kinds of optimisers, by their names in recipes.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, RuleSettings, Step, Updated};

/// Defines the enum of all kinds, and passes calls on to the kind.
macro_rules! optimisers {
    ($($(#[$attribute:meta])* $name:literal => super::$file:ident::$kind:ident,)+) => {
        /// Which optimiser.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum OptimiserKind {
            $($(#[$attribute])* #[serde(rename = $name)] $kind,)+
        }

        impl OptimiserKind {
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The recipe's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// State per weight, by the names that checkpoints use.
            pub fn slots(self) -> &'static [&'static str] {
                match self { $(Self::$kind => super::$file::$kind::SLOTS,)+ }
            }

            pub fn uses_momentum(self) -> bool {
                match self { $(Self::$kind => super::$file::$kind::USES_MOMENTUM,)+ }
            }

            pub fn uses_betas(self) -> bool {
                match self { $(Self::$kind => super::$file::$kind::USES_BETAS,)+ }
            }

            pub fn uses_eps(self) -> bool {
                match self { $(Self::$kind => super::$file::$kind::USES_EPS,)+ }
            }

            /// A learning rate that works for most trainings.
            pub fn usual_rate(self) -> f64 {
                match self { $(Self::$kind => super::$file::$kind::USUAL_RATE,)+ }
            }

            /// See [`Rule::updated`].
            pub(super) fn updated(
                self,
                settings: &RuleSettings,
                weight: Tensor<1>,
                gradient: Tensor<1>,
                state: Option<Vec<Tensor<1>>>,
                step: Step,
            ) -> Updated {
                match self {
                    $(Self::$kind => super::$file::$kind::updated(settings, weight, gradient, state, step),)+
                }
            }
        }
    };
}

optimisers! {
    #[default]
    "adam" => super::adam::Adam,
    "adamw" => super::adam::AdamW,
    "sgd" => super::sgd::Sgd,
    "rmsprop" => super::rmsprop::RmsProp,
}
