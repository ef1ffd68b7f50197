//! Which voxels count as neighbours.

use serde::{Deserialize, Serialize};

/// Which voxels are neighbours; serialised as the number of neighbours: 6, 18 or 26.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Connectivity {
    /// Voxels that share a face.
    Six,
    /// Voxels that share a face or an edge.
    Eighteen,
    /// Voxels that share a face, an edge or a corner.
    #[default]
    TwentySix,
}

impl TryFrom<u8> for Connectivity {
    type Error = String;

    fn try_from(neighbours: u8) -> Result<Self, String> {
        match neighbours {
            6 => Ok(Self::Six),
            18 => Ok(Self::Eighteen),
            26 => Ok(Self::TwentySix),
            other => Err(format!("connectivity {other}; expected 6, 18 or 26")),
        }
    }
}

impl From<Connectivity> for u8 {
    fn from(connectivity: Connectivity) -> Self {
        match connectivity {
            Connectivity::Six => 6,
            Connectivity::Eighteen => 18,
            Connectivity::TwentySix => 26,
        }
    }
}
