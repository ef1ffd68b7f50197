//! How the values that a network sees come from Hounsfield units: clamped to a window, shifted and divided.

use ndarray::Axis;
use ndarray::parallel::prelude::*;
use serde::{Deserialize, Serialize};

use crate::space::Volume;
use crate::window::Window;

/// What becomes of the Hounsfield units in a window. A recipe has one scheme for all of its windows; in `model.toml`
/// it is a section with `kind = "…"`.
// Variants without settings have braces all the same: serde then refuses settings that they do not have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalisation {
    /// The window's ends become 0 and 1.
    Window {},
    /// Minus a mean and divided by a standard deviation that are the same for all volumes (nnU-Net's
    /// `CTNormalization`, whose window goes from the 0.5th to the 99.5th percentile of the training cases' foreground).
    Ct { mean_hu: f32, sd_hu: f32 },
    /// The same with each volume's own mean and standard deviation, of its values in the window (nnU-Net's
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
/// Three numbers stand for a voxel: its Hounsfield units, its *share* of the window (from 0 to 1, what augmentation
/// changes), and its *value*, which the network sees. Beyond the volume the value is 0: for windows their low end, for
/// the others the mean, as nnU-Net pads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    pub window: Window,
    pub mean_hu: f32,
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

    /// What about it cannot work with these windows, if anything, in one line.
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

    /// What it does, for people.
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

    /// The value of Hounsfield units.
    pub fn of_hu(&self, hu: f32) -> f32 {
        (hu.clamp(self.window.low_hu, self.window.high_hu) - self.mean_hu) / self.sd_hu
    }

    /// The value of a share of the window.
    pub fn of_share(&self, share: f32) -> f32 {
        (self.window.low_hu + share * self.width() - self.mean_hu) / self.sd_hu
    }

    /// The share of the window that a value stands for.
    pub fn share(&self, value: f32) -> f32 {
        (value * self.sd_hu + self.mean_hu - self.window.low_hu) / self.width()
    }

    /// Whether values are shares.
    pub fn is_plain(&self) -> bool {
        self.mean_hu == self.window.low_hu && self.sd_hu == self.width()
    }

    fn width(&self) -> f32 {
        self.window.high_hu - self.window.low_hu
    }
}

/// Of a volume's values clamped to a window, those that are not finite to its low end; the standard deviation is
/// divided by n.
fn mean_and_sd(volume: &Volume, window: &Window) -> (f32, f32) {
    let count = volume.data.len().max(1) as f64;
    // Plane by plane, added up in their order: the same on any number of threads.
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
    fn values_are_those_of_nnunet() {
        let ct = Normalisation::Ct {
            mean_hu: 99.48,
            sd_hu: 37.13,
        };
        assert_eq!(values(ct, HU), CT);
        for (found, expected) in values(Normalisation::ZScore {}, HU).iter().zip(Z_SCORE) {
            assert!((found - expected).abs() < 3e-7, "{found} {expected}");
        }
        // nnU-Net divides by 1e-8 at least.
        let flat = Normalisation::Ct {
            mean_hu: 50.0,
            sd_hu: 0.0,
        };
        assert_eq!(values(flat, [50.0; 8]), [0.0; 8]);
        assert_eq!(values(flat, [51.0; 8])[0], 1e8);
        assert_eq!(values(Normalisation::ZScore {}, [7.0; 8]), [0.0; 8]);
    }

    #[test]
    fn windows_reach_from_0_to_1() {
        let found = values(Normalisation::Window {}, HU);
        let window = Window::from(WINDOW);
        assert_eq!(found, HU.map(|hu| window.scaled(hu)));
        assert_eq!((found[0], found[7]), (0.0, 1.0));
    }

    #[test]
    fn shares_of_the_window_lead_back_to_values() {
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
