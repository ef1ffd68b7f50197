//! Conversion of voxel values on another scale to Hounsfield units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::space::Volume;
use crate::statistics::hounsfield::{SCANNER_OFFSET_HU, Suspicion, WRAP};
use ctseg_base::Error;

/// How values are converted to Hounsfield units; written `auto` or `OFFSET,SLOPE`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RescaleHu {
    /// Only in clear cases: subtract the 1024 that scanners add, and undo 16-bit wraparound of negative values. All
    /// other volumes stay unchanged.
    Auto,
    /// HU = value · `slope` + `offset_hu`, for all volumes.
    Linear {
        /// Added last, in HU.
        offset_hu: f32,
        /// HU per unit of the stored values.
        slope: f32,
    },
}

impl RescaleHu {
    /// Converts the volume's values; returns a description of what was done, if anything.
    pub fn apply(&self, volume: &mut Volume) -> Option<String> {
        let data = &mut volume.data;
        match *self {
            Self::Linear { offset_hu, slope } => {
                data.par_mapv_inplace(|value| value * slope + offset_hu);
                Some(format!("converted to HU: value × {slope} + {offset_hu}"))
            }
            Self::Auto => match Suspicion::of(data.view(), None)? {
                Suspicion::Offset => {
                    data.par_mapv_inplace(|value| value - SCANNER_OFFSET_HU);
                    Some("converted to HU: 1024 subtracted".to_owned())
                }
                Suspicion::Wrapped { .. } => {
                    let unwrapped = |value| {
                        if value >= WRAP / 2.0 {
                            value - WRAP
                        } else {
                            value
                        }
                    };
                    data.par_mapv_inplace(unwrapped);
                    Some("converted to HU: 65536 subtracted from values above 32767".to_owned())
                }
                _ => None,
            },
        }
    }
}

impl fmt::Display for RescaleHu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Linear { offset_hu, slope } => write!(f, "{offset_hu},{slope}"),
        }
    }
}

impl FromStr for RescaleHu {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.trim().eq_ignore_ascii_case("auto") {
            return Ok(Self::Auto);
        }
        let number = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|value: &f32| value.is_finite())
        };
        let numbers = text.split_once(',');
        let numbers = numbers.and_then(|(offset, slope)| Some((number(offset)?, number(slope)?)));
        match numbers {
            Some((offset_hu, slope)) if slope != 0.0 => Ok(Self::Linear { offset_hu, slope }),
            _ => Err(Error::invalid(format!(
                "'{text}' is not a valid scale; expected auto, or OFFSET,SLOPE (HU = value × SLOPE + OFFSET) such as -1024,1"
            ))),
        }
    }
}

impl TryFrom<String> for RescaleHu {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RescaleHu> for String {
    fn from(rescale: RescaleHu) -> Self {
        rescale.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Grid;
    use ndarray::Array3;

    /// Layers of air, fat, soft tissue and bone, with noise.
    fn volume(changed: impl Fn(f32) -> f32) -> Volume {
        let grid = Grid::with_spacing([24, 8, 8], [1.0; 3]);
        let tissue = [-1000.0, -100.0, 40.0, 45.0, 60.0, 500.0];
        let data = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
            changed(tissue[x / 4] + ((x * 7 + y * 5 + z * 3) % 11) as f32)
        });
        Volume { grid, data }
    }

    #[test]
    fn auto_converts_only_clear_cases() {
        let hu = volume(|hu| hu);
        let wrapped = |hu: f32| if hu < 0.0 { hu + WRAP } else { hu };
        for (mut other, expected) in [
            (volume(|hu| hu + 1024.0), "1024 subtracted"),
            (volume(wrapped), "65536 subtracted"),
        ] {
            assert!(
                RescaleHu::Auto
                    .apply(&mut other)
                    .unwrap()
                    .contains(expected)
            );
            assert_eq!(other.data, hu.data);
        }
        for changed in [
            |hu: f32| hu,
            |hu: f32| (hu / 2000.0).clamp(0.0, 1.0),
            |_: f32| 0.0,
        ] {
            let mut other = volume(changed);
            let before = other.data.clone();
            assert_eq!(RescaleHu::Auto.apply(&mut other), None);
            assert_eq!(other.data, before);
        }
    }

    #[test]
    fn offset_and_slope_are_those_of_dicom() {
        let given: RescaleHu = "-1024,0.5".parse().unwrap();
        let mut volume = volume(|_| 3000.0);
        assert_eq!(
            given.apply(&mut volume).unwrap(),
            "converted to HU: value × 0.5 + -1024"
        );
        assert!(volume.data.iter().all(|hu| *hu == 476.0));
        for same in ["auto", "-1024,0.5"] {
            assert_eq!(same.parse::<RescaleHu>().unwrap().to_string(), same);
        }
        for wrong in ["", "1", "1,0", "nan,1", "1,inf", "1,2,3", "automatic"] {
            assert!(wrong.parse::<RescaleHu>().is_err(), "{wrong}");
        }
    }
}
