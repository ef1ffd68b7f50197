//! The orientation of a grid's voxel axes: the closest of the 48 axis-aligned orientations.

use std::fmt;
use std::str::FromStr;

use ctseg_base::Error;

/// The nearest anatomical direction of each voxel axis: `axes[i]` is the world axis (0 = right–left,
/// 1 = anterior–posterior, 2 = superior–inferior) that voxel axis `i` runs along, `flipped[i]` whether
/// it runs towards the negative end (L, P or I).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orientation {
    /// The world axis of each voxel axis.
    pub axes: [usize; 3],
    /// Whether each voxel axis runs towards L, P or I.
    pub flipped: [bool; 3],
}

impl Orientation {
    /// x to the right, y to anterior, z to superior.
    pub const RAS: Self = Self {
        axes: [0, 1, 2],
        flipped: [false; 3],
    };

    /// All 48 axis-aligned orientations.
    pub fn all() -> impl Iterator<Item = Self> {
        const PERMUTATIONS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        PERMUTATIONS.into_iter().flat_map(|axes| {
            (0..8).map(move |bits| Self {
                axes,
                flipped: [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0],
            })
        })
    }
}

impl fmt::Display for Orientation {
    /// As nibabel's `aff2axcodes`: the direction each axis points to, e.g. `RAS` or `LPS`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CODES: [[char; 2]; 3] = [['R', 'L'], ['A', 'P'], ['S', 'I']];
        for (axis, flipped) in self.axes.iter().zip(self.flipped) {
            write!(f, "{}", CODES[*axis][usize::from(flipped)])?;
        }
        Ok(())
    }
}

impl FromStr for Orientation {
    type Err = Error;

    fn from_str(code: &str) -> Result<Self, Error> {
        Self::all()
            .find(|orientation| orientation.to_string() == code)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "'{code}' is not an orientation; expected three letters such as RAS or LPS"
                ))
            })
    }
}
