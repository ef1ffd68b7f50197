//! `ctseg plan`: dataset statistics, and stage recipes that fit the dataset and the memory.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::args::bytes::parse_bytes;
use crate::cli::args::reading::ReadingArgs;
use crate::cli::fingerprint::described;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::bytes::binary;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::table;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::fingerprint::Fingerprint;
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_train::plan::{Budget, NAMES, PlannedRecipe, plan};

#[derive(Args)]
pub struct PlanArgs {
    /// Dataset folder or descriptor
    data: PathBuf,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Folder for coarse.toml, refine.toml, refine2_5d.toml, single.toml, nnunet-3d_fullres.toml and fingerprint.json
    #[arg(short, long, default_value = "plan")]
    output: PathBuf,
    /// Memory for training: of the machine or, with --device libtorch:cuda:N, of the GPU
    #[arg(long, default_value = "8G", value_parser = parse_bytes)]
    memory: u64,
    /// Overwrite existing recipes
    #[arg(long)]
    overwrite: bool,
}

const GIB: f64 = 1_073_741_824.0;

pub fn run(args: PlanArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let data_root = args.data_root.or_else(|| settings.config.data_root.clone());
    let dataset = Dataset::open_in(&args.data, data_root.as_deref())?;
    let dataset = dataset.read_as(args.reading.reading())?;
    // Check before all cases are read, not after.
    if !args.overwrite {
        refuse_replacing(&args.output)?;
    }
    let fingerprint = Fingerprint::of(&dataset, observer.as_ref())?;
    let budget = Budget {
        bytes: args.memory,
        on_gpu: matches!(settings.device, DeviceChoice::LibTorchCuda(_)),
        precision: match settings.precision {
            PrecisionChoice::Fixed(precision) => precision,
            // Depends on where training runs; f32 needs the most.
            PrecisionChoice::Auto => Precision::F32,
        },
    };
    let recipes = plan(&fingerprint, &dataset.structures, budget)?;
    for planned in &recipes {
        let path = args.output.join(format!("{}.toml", planned.recipe.name));
        write_bytes_atomically(&path, planned.text.as_bytes())?;
        if !planned.fits {
            observer.warn(&format!(
                "{}: even the smallest patch needs {}; raise --memory to at least that",
                path.shown(),
                binary(budget.bytes_needed(&planned.estimate))
            ));
        }
    }
    let described = described(&fingerprint)?;
    let fingerprint_path = args.output.join("fingerprint.json");
    write_bytes_atomically(
        &fingerprint_path,
        format!("{:#}\n", described.json["fingerprint"]).as_bytes(),
    )?;
    if settings.json {
        let plans: Vec<Value> = recipes
            .iter()
            .map(|planned| as_json(planned, budget))
            .collect();
        let value = json!({"folder": args.output, "fingerprint": described.json["fingerprint"], "memory_bytes": budget.bytes, "recipes": plans});
        print_out(&format!("{value:#}\n"));
    } else {
        print_out(&described.text);
        print_out(&overview(&recipes, budget));
        print_out(&format!(
            "recipes in {0}; train with 'ctseg fit --stage {0}/coarse.toml --data {1}'\n",
            args.output.shown(),
            args.data.shown()
        ));
    }
    Ok(if fingerprint.unreadable.is_empty() {
        Outcome::AllDone
    } else {
        Outcome::SomeFailed
    })
}

fn refuse_replacing(folder: &Path) -> Result<()> {
    let mut paths = NAMES.iter().map(|name| folder.join(format!("{name}.toml")));
    match paths.find(|path| path.exists()) {
        Some(path) => Err(Error::file(
            path,
            "already exists; choose another -o, or pass --overwrite",
        )),
        None => Ok(()),
    }
}

fn as_json(planned: &PlannedRecipe, budget: Budget) -> Value {
    json!({
        "recipe": planned.recipe,
        "estimated_bytes": budget.bytes_needed(&planned.estimate),
        "network_bytes": planned.estimate.network,
        "data_bytes": planned.estimate.data,
        "fits": planned.fits,
    })
}

fn overview(recipes: &[PlannedRecipe], budget: Budget) -> String {
    let rows: Vec<Vec<String>> = recipes
        .iter()
        .map(|planned| {
            let recipe = &planned.recipe;
            let join = |values: &[String]| values.join(" × ");
            vec![
                recipe.name.clone(),
                recipe.network.name().to_owned(),
                join(&recipe.spacing_mm.map(|mm| format!("{mm}"))),
                join(
                    &recipe
                        .training
                        .patch_size
                        .sides()
                        .iter()
                        .map(usize::to_string)
                        .collect::<Vec<_>>(),
                ),
                recipe.training.batch_size.to_string(),
                format!("{:.1}", budget.bytes_needed(&planned.estimate) as f64 / GIB),
            ]
        })
        .collect();
    table(
        &["recipe", "network", "mm (x y z)", "patch", "batch", "GiB"],
        &rows,
    )
}
