//! Builds the recipe of a stage that computes the same as nnU-Net.

use std::path::Path;

use super::dataset_json::Labels;
use super::network::network;
use super::plans::{Configuration, Plans, RESAMPLING, Resampling};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Structure;
use ctseg_core::recipe::{Axes, NnunetConfig, NnunetNormalisation, PatchSize, Recipe, SeparateZ};
use ctseg_engine::losses::{LossConfig, Outputs};
use ctseg_engine::networks::NetworkConfig;
use ctseg_image::preprocess::normalisation::Normalisation;
use ctseg_image::resample::Interpolation;

/// Settings that are not in the plans.
pub(super) struct Wanted<'a> {
    pub stage: u8,
    pub configuration: &'a str,
    pub labels: &'a Labels,
    pub axes: Option<Axes>,
    pub mirror_axes: Vec<usize>,
    pub folds: usize,
}

/// A template for the required keys; training settings are not used.
const EMPTY: &str = r#"
name = "nnunet"
stage = 2
region = "whole"
spacing_mm = [1.0, 1.0, 1.0]
folds = 5
[network]
kind = "unet3d"
[training]
loss = "bce_dice"
batch_size = 1
patch_size = [16, 16, 16]
"#;

/// Batch size of a 2D network.
const BATCH_SIZE_2D: usize = 4;

impl Labels {
    /// The structures in ascending order of value, as in a bundle.
    pub(super) fn ascending(&self) -> Vec<Structure> {
        let mut structures = self.structures.clone();
        structures.sort_by_key(|structure| structure.value);
        structures
    }

    /// The row of nnU-Net's head for each structure, in ascending order of value.
    pub(super) fn rows(&self) -> Vec<usize> {
        let place = |value: u16| self.structures.iter().position(|s| s.value == value);
        // Row 0 is the background, unless the labels are regions.
        let first = usize::from(!self.regions);
        let structures = self.ascending();
        let places = structures.iter().filter_map(|s| place(s.value));
        places.map(|place| place + first).collect()
    }
}

/// The recipe; `path` names the plans in errors.
///
/// # Errors
/// An unsupported feature, by name.
pub(super) fn recipe(plans: &Plans, path: &Path, wanted: &Wanted) -> Result<Recipe> {
    let configuration = plans.configuration(path, wanted.configuration)?;
    check_label_manager(plans, path)?;
    check(&configuration, path)?;
    let network = network(path, &configuration.architecture(path)?)?;
    let dimensions = network.dimensions();
    let mut recipe = Recipe::parsed(EMPTY, "nnunet", &[])?;
    recipe.training.patch_size = patch_size(&configuration, path, dimensions)?;
    check_patch(path, &recipe.training.patch_size, &network)?;
    recipe.spacing_mm = spacing_mm(&configuration, path, dimensions)?;
    recipe.name = wanted.configuration.to_owned();
    recipe.stage = wanted.stage;
    recipe.folds = wanted.folds.max(2);
    recipe.network = network;
    recipe.outputs = match wanted.labels.regions {
        true => Outputs::Independent,
        false => Outputs::Exclusive,
    };
    if !wanted.labels.regions {
        recipe.training.loss = exclusive_loss()?;
    }
    recipe.training.batch_size = match dimensions {
        2 => BATCH_SIZE_2D,
        _ => 1,
    };
    recipe.interpolation = interpolation(path, &configuration.resampling_fn_data_kwargs)?;
    let nnunet = nnunet(plans, &configuration, path, wanted, dimensions)?;
    show_windows(&mut recipe, &nnunet.normalisation);
    recipe.nnunet = Some(nnunet);
    // Validates the result like any recipe.
    Recipe::parsed(&recipe.to_toml()?, &path.display().to_string(), &[])
}

fn check_label_manager(plans: &Plans, path: &Path) -> Result<()> {
    match plans.label_manager.as_deref() {
        None | Some("LabelManager") => Ok(()),
        Some(other) => Err(Error::file(
            path,
            format!("unsupported label_manager '{other}'; expected LabelManager"),
        )),
    }
}

fn patch_size(configuration: &Configuration, path: &Path, dimensions: usize) -> Result<PatchSize> {
    match configuration.patch_size.as_slice() {
        [y, x] if dimensions == 2 => Ok(PatchSize::Slice([*y, *x])),
        [z, y, x] if dimensions == 3 => Ok(PatchSize::Volume([*z, *y, *x])),
        other => Err(Error::file(
            path,
            format!("patch_size {other:?} does not fit a {dimensions}D network"),
        )),
    }
}

fn spacing_mm(configuration: &Configuration, path: &Path, dimensions: usize) -> Result<[f64; 3]> {
    match configuration.spacing.as_slice() {
        // Slices keep their spacing along z; the value is not used.
        [y, x] if dimensions == 2 => Ok([*x, *y, 1.0]),
        [z, y, x] => Ok([*x, *y, *z]),
        other => Err(Error::file(
            path,
            format!("spacing {other:?} does not fit a {dimensions}D network"),
        )),
    }
}

/// The loss for mutually exclusive classes.
fn exclusive_loss() -> Result<LossConfig> {
    let text = EMPTY
        .replace("bce_dice", "ce_dice")
        .replace("region =", "outputs = \"exclusive\"\nregion =");
    Ok(Recipe::parsed(&text, "nnunet", &[])?.training.loss)
}

/// Records the window that nnU-Net clips to, for display.
fn show_windows(recipe: &mut Recipe, normalisation: &NnunetNormalisation) {
    let NnunetNormalisation::Ct {
        low_hu,
        high_hu,
        mean_hu,
        sd_hu,
    } = *normalisation
    else {
        return;
    };
    recipe.windows_hu = vec![[low_hu, high_hu].into()];
    let shown = Normalisation::Ct { mean_hu, sd_hu };
    if shown.problem(&recipe.windows_hu).is_none() {
        recipe.normalisation = shown;
    }
}

/// Plausibility limits of a patch.
const MAX_SIDE: usize = 4096;
const MAX_VOXELS: usize = 1 << 28;

/// # Errors
/// A patch that is too large, or not divisible by the network's strides.
fn check_patch(path: &Path, patch: &PatchSize, network: &NetworkConfig) -> Result<()> {
    // Strides are checked before they are multiplied.
    let multiple = network.written_out()?.multiple();
    let sides = patch.zyx();
    let usable =
        |(side, multiple): (&usize, &usize)| (1..=MAX_SIDE).contains(side) && side % multiple == 0;
    let fits = sides.iter().zip(&multiple).all(usable);
    match fits && sides.iter().product::<usize>() <= MAX_VOXELS {
        true => Ok(()),
        false => Err(Error::file(
            path,
            format!(
                "patch_size {sides:?} (z, y, x) does not fit the network; expected multiples of {multiple:?}, up to {MAX_SIDE}"
            ),
        )),
    }
}

fn nnunet(
    plans: &Plans,
    configuration: &Configuration,
    path: &Path,
    wanted: &Wanted,
    dimensions: usize,
) -> Result<NnunetConfig> {
    let labels = wanted.labels;
    Ok(NnunetConfig {
        axes: match wanted.axes {
            Some(axes) => axes,
            None => axes_of(&plans.image_reader_writer, path)?,
        },
        transpose: plans.transpose_forward,
        normalisation: normalisation(plans, configuration, path)?,
        image_slices: separate(&configuration.resampling_fn_data_kwargs),
        logit_slices: separate(&configuration.resampling_fn_probabilities_kwargs),
        label_slices: separate(&configuration.resampling_fn_seg_kwargs),
        // A 2D network's axes are numbered without z.
        mirror_axes: wanted
            .mirror_axes
            .iter()
            .map(|axis| axis + 3 - dimensions)
            .collect(),
        previous_labels: match configuration.previous_stage {
            Some(_) => labels.foreground.clone(),
            None => Vec::new(),
        },
        regions: match labels.regions {
            true => labels.structures.iter().map(|s| s.value).collect(),
            false => Vec::new(),
        },
    })
}

/// Refuses unsupported preprocessing.
fn check(configuration: &Configuration, path: &Path) -> Result<()> {
    let refused = |what: &str, found: &str, expected: &str| {
        Err(Error::file(
            path,
            format!("unsupported {what} '{found}'; expected {expected}"),
        ))
    };
    if configuration.preprocessor_name != "DefaultPreprocessor" {
        return refused(
            "preprocessor",
            &configuration.preprocessor_name,
            "DefaultPreprocessor",
        );
    }
    if configuration
        .anisotropy_thresholds()
        .any(|threshold| threshold != ANISOTROPIC)
    {
        return refused("separate_z_anisotropy_threshold", "not 3", "3");
    }
    for function in [
        &configuration.resampling_fn_data,
        &configuration.resampling_fn_seg,
        &configuration.resampling_fn_probabilities,
    ] {
        if function != RESAMPLING {
            return refused("resampling function", function, RESAMPLING);
        }
    }
    let logits = configuration.resampling_fn_probabilities_kwargs;
    let labels = configuration.resampling_fn_seg_kwargs;
    for (what, kwargs, is_seg) in [("logits", logits, false), ("labels", labels, true)] {
        if kwargs.order != 1 || kwargs.order_z != 0 || kwargs.is_seg != is_seg {
            let found = format!("{kwargs:?}");
            return refused(
                &format!("resampling of {what}"),
                &found,
                "order 1, order_z 0",
            );
        }
    }
    Ok(())
}

/// nnU-Net's `ANISO_THRESHOLD`.
const ANISOTROPIC: f64 = 3.0;

fn interpolation(path: &Path, kwargs: &Resampling) -> Result<Interpolation> {
    match (kwargs.order, kwargs.order_z, kwargs.is_seg) {
        (0, 0, false) => Ok(Interpolation::Nearest),
        (1, 0, false) => Ok(Interpolation::Linear),
        (3, 0, false) => Ok(Interpolation::Cubic),
        _ => Err(Error::file(
            path,
            format!(
                "unsupported resampling of images {kwargs:?}; expected order 0, 1 or 3 and order_z 0"
            ),
        )),
    }
}

fn separate(kwargs: &Resampling) -> SeparateZ {
    match kwargs.force_separate_z {
        None => SeparateZ::Auto,
        Some(true) => SeparateZ::Always,
        Some(false) => SeparateZ::Never,
    }
}

fn axes_of(reader: &str, path: &Path) -> Result<Axes> {
    match reader {
        "SimpleITKIO" | "NibabelIO" => Ok(Axes::Stored),
        "NibabelIOWithReorient" | "SimpleITKIOWithReorient" => Ok(Axes::Ras),
        other => Err(Error::file(
            path,
            format!(
                "unsupported image_reader_writer '{other}'; expected SimpleITKIO, NibabelIO, SimpleITKIOWithReorient or NibabelIOWithReorient"
            ),
        )),
    }
}

fn normalisation(
    plans: &Plans,
    configuration: &Configuration,
    path: &Path,
) -> Result<NnunetNormalisation> {
    let [scheme] = configuration.normalization_schemes.as_slice() else {
        return Err(Error::file(
            path,
            format!(
                "has {} normalization_schemes; expected one for the one channel",
                configuration.normalization_schemes.len()
            ),
        ));
    };
    let masked = configuration
        .use_mask_for_norm
        .first()
        .copied()
        .unwrap_or(false);
    Ok(match scheme.as_str() {
        "CTNormalization" => {
            let found = plans.intensities(path)?;
            NnunetNormalisation::Ct {
                low_hu: found.percentile_00_5 as f32,
                high_hu: found.percentile_99_5 as f32,
                mean_hu: found.mean as f32,
                sd_hu: found.std as f32,
            }
        }
        "ZScoreNormalization" => NnunetNormalisation::ZScore { masked },
        "NoNormalization" => NnunetNormalisation::None {},
        "RescaleTo01Normalization" => NnunetNormalisation::RescaleTo01 {},
        "RGBTo01Normalization" => NnunetNormalisation::RgbTo01 {},
        other => {
            return Err(Error::file(
                path,
                format!(
                    "unsupported normalization scheme '{other}'; expected CTNormalization, ZScoreNormalization, NoNormalization, RescaleTo01Normalization or RGBTo01Normalization"
                ),
            ));
        }
    })
}
