//! The kinds of schedules, by their names in recipes.

use serde::{Deserialize, Serialize};

use super::kind::{ScheduleKind, ScheduleSettings};

/// Defines the enum of all kinds, and passes calls on to the kind.
macro_rules! schedules {
    ($($(#[$attribute:meta])* $name:literal => super::$file:ident::$kind:ident,)+) => {
        /// Learning-rate schedule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum Schedule {
            $($(#[$attribute])* #[serde(rename = $name)] $kind,)+
        }

        impl Schedule {
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The recipe's name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// Whether `warmup_epochs` apply.
            pub fn has_warmup(self) -> bool {
                match self { $(Self::$kind => super::$file::$kind::HAS_WARMUP,)+ }
            }

            /// The learning rate of the epoch after `epoch` epochs; `None` if it follows the validation instead.
            pub fn learning_rate(self, settings: &ScheduleSettings, epoch: usize) -> Option<f64> {
                match self { $(Self::$kind => super::$file::$kind::learning_rate(settings, epoch),)+ }
            }
        }
    };
}

schedules! {
    /// Reduce on plateau, see [`PlateauConfig`](crate::recipe::PlateauConfig).
    #[default]
    "plateau" => super::plateau::Plateau,
    /// Cosine annealing over `epochs`.
    "cosine" => super::cosine::Cosine,
    /// nnU-Net's polynomial decay over `epochs`, power 0.9.
    "poly" => super::poly::Poly,
    /// One-cycle: up over the first 30 % of `epochs`, then down to almost 0.
    "one_cycle" => super::one_cycle::OneCycle,
}
