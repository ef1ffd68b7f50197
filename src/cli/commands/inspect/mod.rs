//! `ctseg inspect`: the contents of a volume, dataset, recipe, model, run or weights file.

mod channels;
mod dataset;
mod label_map;
mod layer_table;
mod multi_part;
mod run;
mod torch_checkpoint;
mod volume_text;

pub(crate) use layer_table::layer_table;
use volume_text::{header_text, histogram};

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::args::reading::ReadingArgs;
use crate::cli::fingerprint;
use crate::cli::outcome::Outcome;
use crate::cli::print::Description;
use crate::cli::settings::Settings;
use ctseg_base::text::file::read_text;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::{or_undefined, table};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::fingerprint::Fingerprint;
use ctseg_core::dataset::{Dataset, Reading};
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::multi_part::MultiPartModel;
use ctseg_core::recipe::Recipe;
use ctseg_core::recipe::layer_table as cost;
use ctseg_core::recipe::output_maps::output_maps;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;
use ctseg_engine::weights::read_shapes;
use ctseg_image::formats::{
    VolumeImage, is_volume_name, is_volume_or_foreign, read_label_names, read_volume,
};
use ctseg_image::labels::postprocess::Step;
use ctseg_image::nifti::{NiftiHeader, read_channels};
use ctseg_image::statistics::hounsfield::Suspicion;

#[derive(Args)]
pub struct InspectArgs {
    /// A volume (.nii, .nii.gz, also with several channels or probabilities), a dataset folder or descriptor, a recipe
    /// (.toml or its name), a model folder, a run folder, or weights (.safetensors, PyTorch's .pth)
    what: PathBuf,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    /// For a dataset: read all cases and show spacings, extents, intensities and structure volumes
    #[arg(long)]
    fingerprint: bool,
    /// For a dataset: read all cases and list every problem (exit code 3 if some cases have one)
    #[arg(long, conflicts_with_all = ["fingerprint", "rescale_hu"])]
    check: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub fn run(args: InspectArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let data_root = args.data_root.or_else(|| settings.config.data_root.clone());
    if args.check {
        return dataset::checked(
            &args.what,
            data_root.as_deref(),
            args.reading.reading(),
            settings,
        );
    }
    let found = if args.fingerprint {
        let dataset = Dataset::open_in(&args.what, data_root.as_deref())?;
        let dataset = dataset.read_as(args.reading.reading())?;
        let observer = settings.observer();
        fingerprint::described(&Fingerprint::of(&dataset, observer.as_ref())?)?
    } else {
        inspected(&args.what, data_root.as_deref(), args.reading.reading())?
    };
    found.print(settings.json);
    Ok(dataset::outcome(&found.json))
}

fn inspected(what: &Path, data_root: Option<&Path>, reading: Reading) -> Result<Description> {
    let extension = |wanted: &str| {
        what.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
    };
    if is_volume_name(what) && !what.is_dir() {
        volume_or_channels(what, reading)
    } else if extension("npy") {
        channels::array(what)
    } else if MultiPartModel::is_at(what) {
        multi_part::described(what)
    } else if what.join("model.toml").exists() {
        model(what)
    } else if what.join("run.toml").exists() {
        run::described(what)
    } else if extension("safetensors") {
        let shapes = read_shapes(what)?;
        let layers = shapes.iter();
        let layers = layers.map(|(name, shape)| (name.as_str(), shape.as_slice()));
        Ok(layer_table(&layers.collect::<Vec<_>>()))
    } else if extension("pth") || extension("pt") {
        torch_checkpoint::described(what)
    } else if extension("toml") || !what.exists() {
        let name = what.to_string_lossy();
        // A TOML file is a recipe or a dataset descriptor; show the error of the one that it looks like.
        match Recipe::named(&name, &[]) {
            Ok(found) => recipe(&found),
            Err(_) if !what.exists() => Err(Error::file(
                what,
                "does not exist and is not a built-in recipe; expected a volume, dataset, recipe, model, run or weights",
            )),
            Err(error) => {
                let looks_like_recipe =
                    read_text(what).is_ok_and(|text| text.contains("[network]"));
                if looks_like_recipe {
                    Err(error)
                } else {
                    Ok(dataset::described(&Dataset::open_in(what, data_root)?))
                }
            }
        }
    } else if extension("hdr") || extension("img") || is_volume_or_foreign(what) {
        volume_or_channels(what, reading)
    } else {
        Ok(dataset::described(&Dataset::open(what)?))
    }
}

fn volume_or_channels(path: &Path, reading: Reading) -> Result<Description> {
    // A broken file gives the error of the single-volume reader.
    match read_channels(path) {
        Ok((_, count)) if count > 1 || channels::are_probabilities(path) => {
            channels::described(path, count)
        }
        _ => volume(path, reading),
    }
}

fn volume(path: &Path, reading: Reading) -> Result<Description> {
    let mut image = read_volume(path)?;
    let names = read_label_names(path)?;
    reading.rescale(&mut image);
    let labels = label_map::labels_of(&image, &names);
    warn_of_values(&mut image, labels.is_some());
    let nifti = image.header.native::<NiftiHeader>();
    let [qform, sform] =
        [NiftiHeader::qform_code, NiftiHeader::sform_code].map(|code| nifti.map(code));
    let grid = image.volume.grid;
    let (edges, counts) = histogram(image.volume.data.iter().copied());
    let spacing = grid.spacing_mm();
    let mut text = header_text(path, &image.header, "");
    let (shown, labels) = match &labels {
        Some(labels) => {
            let (shown, values) = label_map::described(labels, &names, grid.voxel_volume_ml());
            (shown, Some(values))
        }
        None => (histogram_text(&edges, &counts), None),
    };
    text += &shown;
    let json = json!({
        "kind": "volume", "path": path, "shape": grid.shape, "spacing_mm": spacing, "affine": grid.affine,
        "orientation": grid.orientation().to_string(), "datatype": image.header.voxel_type.name(),
        "qform_code": qform, "sform_code": sform,
        "warnings": image.header.warnings, "non_finite_voxels": image.non_finite,
        "histogram": labels.is_none().then(|| json!({"edges_hu": edges, "counts": counts})),
        "label_names": names, "labels": labels,
    });
    Ok(Description { text, json })
}

fn histogram_text(edges: &[f32], counts: &[u64]) -> String {
    let mut text = "  HU histogram (share of voxels)\n".to_owned();
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let largest = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    for (bin, count) in counts.iter().enumerate() {
        let bar = "#".repeat((*count as f64 / largest * 40.0).round() as usize);
        let range = match bin {
            0 => format!("     below {:>6}", edges[0]),
            bin if bin == edges.len() => format!("{:>6} and above ", edges[bin - 1]),
            bin => format!("{:>6} to {:>6} ", edges[bin - 1], edges[bin]),
        };
        text += &format!(
            "  {range:>18} {:>6.2} % {bar}\n",
            100.0 * *count as f64 / total
        );
    }
    text
}

/// Adds a warning if the values are neither Hounsfield units nor labels.
fn warn_of_values(image: &mut VolumeImage, is_label_map: bool) {
    let suspicion = Suspicion::of(image.volume.data.view(), None).filter(|_| !is_label_map);
    let warning = suspicion.map(|suspicion| suspicion.warning());
    image.header.warnings.extend(warning);
}

fn model(path: &Path) -> Result<Description> {
    let bundle = Bundle::open(path)?;
    let compute = cpu_engine()?;
    let mut text = format!(
        "model {} (ctseg {}), SHA-256 {}\n",
        path.shown(),
        bundle.manifest.ctseg_version.shown(),
        bundle.sha256()
    );
    let structures: Vec<Vec<String>> = bundle
        .structures()?
        .into_iter()
        .map(|s| vec![s.name, s.value.to_string()])
        .collect();
    text += &table(&["structure", "label"], &structures);
    let mut stages = Vec::new();
    for number in [1, 2] {
        let Some(stage) = bundle.stage(number) else {
            continue;
        };
        let loaded = bundle.load_stage(number, &compute)?;
        text += &format!(
            "\nstage {number}: {}, trained on '{}' with {}\n",
            counted(loaded.folds(), "network"),
            stage.dataset.shown(),
            stage.engine.shown()
        );
        for fold in &stage.folds {
            text += &format!(
                "  fold {}: validation Dice {} at epoch {}, {} held out\n",
                fold.fold,
                or_undefined(fold.validation_dice, 4),
                fold.epoch,
                counted(fold.held_out.len(), "case")
            );
        }
        let values: Vec<u16> = bundle.structures()?.iter().map(|s| s.value).collect();
        let network = recipe_with(&stage.recipe, output_maps(&stage.recipe, &values).len())?;
        text += &network.text;
        stages.push(json!({"stage": number, "folds": stage.folds, "recipe": stage.recipe, "network": network.json}));
    }
    let chosen = &bundle.manifest.postprocessing;
    for (name, cleaning) in chosen.iter().flat_map(|chosen| &chosen.structures) {
        let steps: Vec<String> = cleaning.steps.iter().map(Step::to_string).collect();
        text += &format!("postprocessing of {}: {}\n", name.shown(), steps.join(", "));
    }
    Ok(Description {
        text,
        json: json!({"kind": "model", "path": path.display().to_string(), "sha256": bundle.sha256(), "structures": bundle.manifest.structures, "stages": stages, "postprocessing": chosen}),
    })
}

fn recipe(recipe: &Recipe) -> Result<Description> {
    recipe_with(recipe, 1)
}

fn recipe_with(recipe: &Recipe, outputs: usize) -> Result<Description> {
    let input = cost::input_of(recipe);
    let found = recipe.network.cost(recipe.channels(), outputs, input)?;
    let mut text = format!(
        "recipe {} (stage {}): {} on {:?} mm, {}, {}, patch size (z, y, x) in multiples of {:?}, loss {}\nintensities: {}\n{}\n{}",
        recipe.name.shown(),
        recipe.stage,
        recipe.network.name(),
        recipe.spacing_mm,
        counted(recipe.channels(), "input channel"),
        counted(outputs, &format!("{} output map", recipe.outputs.name())),
        recipe.network.multiple(),
        recipe.training.loss.name(),
        recipe.described_intensities(),
        recipe.training.described_patches(),
        cost::as_text(&found, recipe.training.batch_size),
    );
    let warnings = recipe.without_effect();
    for warning in &warnings {
        text += &format!("warning: {}\n", warning.shown());
    }
    Ok(Description {
        text,
        json: json!({
            "kind": "recipe", "recipe": recipe, "input": input, "cost": found,
            "training_bytes": cost::training_bytes(&found, recipe.training.batch_size),
            "warnings": warnings,
        }),
    })
}

/// A CPU engine to inspect weights with.
fn cpu_engine() -> Result<Compute> {
    Compute::open(DeviceChoice::cpu(), PrecisionChoice::Auto, 1)
}
