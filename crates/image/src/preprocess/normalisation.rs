//! Intensity normalisation: Hounsfield units are clamped to a window, shifted and divided.

use ndarray::Axis;
use ndarray::parallel::prelude::*;
use serde::{Deserialize, Serialize};

use crate::space::Volume;
use crate::window::Window;

/// The normalisation of Hounsfield units in a window. A recipe has one scheme for all its windows; in `model.toml` it
/// is a section with `kind = "…"`.
// Variants without settings are struct variants, so that serde refuses unknown settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalisation {
    /// Scale the window to 0 to 1.
    Window {},
    /// Subtract a mean and divide by a standard deviation that are fixed for all volumes (nnU-Net's `CTNormalization`,
    /// whose window spans the 0.5th to 99.5th percentile of the training cases' foreground).
    Ct {
        /// Subtracted, in HU.
        mean_hu: f32,
        /// Divided by, in HU; 0 or more, at least 1e-8 in use.
        sd_hu: f32,
    },
    /// Subtract each volume's own mean and divide by its standard deviation, of values clamped to the window (nnU-Net's
    /// `ZScoreNormalization` without a mask).
    ZScore {},
}

impl Default for Normalisation {
    fn default() -> Self {
        Self::Window {}
    }
}

/// One input channel of one volume: Hounsfield units clamped to `window`, minus `mean_hu`, divided by `sd_hu`.
///
/// A voxel has three representations: its Hounsfield units; its *share* of the window (0 to 1), which augmentation
/// changes; and its *value*, the network input. Beyond the volume the value is 0: the low end for windows, the mean for
/// the others, as nnU-Net pads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// Values are clamped to it first.
    pub window: Window,
    /// Subtracted, in HU.
    pub mean_hu: f32,
    /// Divided by, in HU; at least 1e-8.
    pub sd_hu: f32,
}

impl Normalisation {
    /// The scaling of each window's channel in `volume`.
    pub fn scalings(&self, windows: &[Window], volume: &Volume) -> Vec<Scaling> {
        let of = |window: &Window| {
            let (mean_hu, sd_hu) = match *self {
                Self::Window {} => (window.low_hu, window.high_hu - window.low_hu),
                Self::Ct { mean_hu, sd_hu } => (mean_hu, sd_hu),
                Self::ZScore {} => mean_and_sd(volume, window),
            };
            Scaling::new(*window, mean_hu, sd_hu)
        };
        windows.iter().map(of).collect()
    }

    /// What is invalid about it with these windows, if anything, in one line.
    pub fn problem(&self, windows: &[Window]) -> Option<&'static str> {
        let Self::Ct { mean_hu, sd_hu } = *self else {
            return None;
        };
        let shown = |window: &Window| (window.low_hu..=window.high_hu).contains(&mean_hu);
        if !windows.iter().all(shown) {
            return Some("normalisation.mean_hu must lie in every window of windows_hu");
        }
        let usable = sd_hu.is_finite() && sd_hu >= 0.0;
        (!usable).then_some("normalisation.sd_hu must be 0 or more")
    }

    /// Human-readable description.
    pub fn described(&self) -> String {
        match self {
            Self::Window {} => "each scaled to 0 to 1".to_owned(),
            Self::Ct { mean_hu, sd_hu } => {
                format!("minus {mean_hu} HU, divided by {sd_hu} HU")
            }
            Self::ZScore {} => {
                "minus the volume's mean, divided by its standard deviation".to_owned()
            }
        }
    }
}

impl Scaling {
    /// Divided by at least 1e-8, as in nnU-Net.
    fn new(window: Window, mean_hu: f32, sd_hu: f32) -> Self {
        Self {
            window,
            mean_hu,
            sd_hu: sd_hu.max(1e-8),
        }
    }

    /// The value for Hounsfield units.
    pub fn of_hu(&self, hu: f32) -> f32 {
        (hu.clamp(self.window.low_hu, self.window.high_hu) - self.mean_hu) / self.sd_hu
    }

    /// The value for a share of the window.
    pub fn of_share(&self, share: f32) -> f32 {
        (self.window.low_hu + share * self.width() - self.mean_hu) / self.sd_hu
    }

    /// The share of the window for a value.
    pub fn share(&self, value: f32) -> f32 {
        (value * self.sd_hu + self.mean_hu - self.window.low_hu) / self.width()
    }

    /// Whether values equal shares.
    pub fn is_plain(&self) -> bool {
        self.mean_hu == self.window.low_hu && self.sd_hu == self.width()
    }

    fn width(&self) -> f32 {
        self.window.high_hu - self.window.low_hu
    }
}

/// Mean and standard deviation (ddof = 0) of a volume's values clamped to a window; non-finite values become its low
/// end.
fn mean_and_sd(volume: &Volume, window: &Window) -> (f32, f32) {
    let count = volume.data.len().max(1) as f64;
    // Summed plane by plane in order, so that the result does not depend on the number of threads.
    let mean_of = |of: &(dyn Fn(f64) -> f64 + Sync)| {
        let planes = volume.data.axis_iter(Axis(0)).into_par_iter();
        let shown = |hu: &f32| of(f64::from(window.clamped(*hu)));
        let sums: Vec<f64> = planes
            .map(|plane| plane.iter().map(shown).sum::<f64>())
            .collect();
        sums.iter().sum::<f64>() / count
    };
    let mean = mean_of(&|hu| hu);
    let variance = mean_of(&|hu| (hu - mean) * (hu - mean));
    (mean as f32, variance.sqrt() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Grid;
    use ndarray::Array3;

    const WINDOW: [f32; 2] = [-61.0, 276.0];

    fn volume(hu: [f32; 8]) -> Volume {
        Volume {
            grid: Grid::with_spacing([2, 2, 2], [1.0; 3]),
            data: Array3::from_shape_vec((2, 2, 2), hu.to_vec()).unwrap(),
        }
    }

    fn values(normalisation: Normalisation, hu: [f32; 8]) -> [f32; 8] {
        let volume = volume(hu);
        let [scaling] = normalisation.scalings(&[WINDOW.into()], &volume)[..] else {
            panic!("one window");
        };
        hu.map(|hu| scaling.of_hu(hu))
    }

    /// From nnunetv2 2.8.1: `CTNormalization(use_mask_for_norm=False, intensityproperties={"mean": 99.48,
    /// "std": 37.13, "percentile_00_5": -61, "percentile_99_5": 276}).run(image)` and `ZScoreNormalization(…)
    /// .run(np.clip(image, -61, 276))`, `image` being these Hounsfield units in float32.
    const HU: [f32; 8] = [-1024.0, -61.5, -61.0, 0.0, 99.48, 123.456, 276.0, 3071.0];
    const CT: [f32; 8] = [
        -4.3221116, -4.3221116, -4.3221116, -2.6792352, 0.0, 0.64573115, 4.7541065, 4.7541065,
    ];
    const Z_SCORE: [f32; 8] = [
        -1.0032002,
        -1.0032002,
        -1.0032002,
        -0.54987544,
        0.1894154,
        0.3675943,
        1.501233,
        1.501233,
    ];

    #[test]
    fn values_match_nnunet() {
        let ct = Normalisation::Ct {
            mean_hu: 99.48,
            sd_hu: 37.13,
        };
        assert_eq!(values(ct, HU), CT);
        for (found, expected) in values(Normalisation::ZScore {}, HU).iter().zip(Z_SCORE) {
            assert!((found - expected).abs() < 3e-7, "{found} {expected}");
        }
        // nnU-Net divides by at least 1e-8.
        let flat = Normalisation::Ct {
            mean_hu: 50.0,
            sd_hu: 0.0,
        };
        assert_eq!(values(flat, [50.0; 8]), [0.0; 8]);
        assert_eq!(values(flat, [51.0; 8])[0], 1e8);
        assert_eq!(values(Normalisation::ZScore {}, [7.0; 8]), [0.0; 8]);
    }

    #[test]
    fn windows_scale_to_0_to_1() {
        let found = values(Normalisation::Window {}, HU);
        let window = Window::from(WINDOW);
        assert_eq!(found, HU.map(|hu| window.scaled(hu)));
        assert_eq!((found[0], found[7]), (0.0, 1.0));
    }

    #[test]
    fn shares_and_values_convert_both_ways() {
        let window = Window::from(WINDOW);
        for normalisation in [
            Normalisation::Window {},
            Normalisation::ZScore {},
            Normalisation::Ct {
                mean_hu: 99.48,
                sd_hu: 37.13,
            },
        ] {
            let scaling = normalisation.scalings(&[window], &volume(HU))[0];
            assert_eq!(
                scaling.is_plain(),
                normalisation == Normalisation::default()
            );
            for hu in HU {
                let (value, share) = (scaling.of_hu(hu), window.scaled(hu));
                assert!((scaling.share(value) - share).abs() < 1e-6);
                assert!((scaling.of_share(share) - value).abs() < 2e-6);
            }
        }
    }
}
