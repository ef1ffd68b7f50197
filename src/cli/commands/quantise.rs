//! `ctseg quantize`: prepare a model for `--precision int8`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::args::reading::ReadingArgs;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::Error;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::{score, table};
use ctseg_base::text::words::counted;
use ctseg_core::dataset::Dataset;
use ctseg_engine::device::Compute;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_predict::quantise::{PrecisionResult, QuantiseJob, QuantiseSummary, quantise};

#[derive(Args)]
pub struct QuantiseArgs {
    /// Dataset that the model was trained on [default: from ctseg.toml]
    #[arg(long, env = "CTSEG_DATA")]
    data: Option<PathBuf>,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Model folder to update in place [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    model: Option<PathBuf>,
    /// Number of training cases to record activation ranges on, and of other cases to compare on
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    cases: u16,
}

pub fn run(args: QuantiseArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let config = &settings.config;
    let data = args.data.or_else(|| config.data.clone()).ok_or_else(|| {
        Error::usage("no dataset; pass the one that the model was trained on with --data")
    })?;
    let data_root = args.data_root.or_else(|| config.data_root.clone());
    let precision = match settings.precision {
        PrecisionChoice::Fixed(Precision::Int8) => PrecisionChoice::Auto,
        other => other,
    };
    let job = QuantiseJob {
        model: config.model_or(args.model),
        dataset: Dataset::open_in(&data, data_root.as_deref())?.read_as(args.reading.reading())?,
        cases: usize::from(args.cases),
        compute: Compute::open(settings.device, precision, settings.threads)?,
    };
    let summary = quantise(&job, observer.as_ref())?;
    if settings.json {
        print_out(&format!("{:#}\n", as_json(&summary)));
    } else {
        print_out(&as_text(&summary, &job));
    }
    Ok(Outcome::AllDone)
}

fn as_json(summary: &QuantiseSummary) -> serde_json::Value {
    let way = |way: &PrecisionResult| {
        json!({
            "precision": way.precision.to_string(),
            "dice": summary.structures.iter().zip(&way.dice).collect::<std::collections::BTreeMap<_, _>>(),
            "mean_dice": way.mean_dice(),
            "seconds": way.seconds,
        })
    };
    json!({
        "recorded": summary.recorded,
        "compared": summary.compared,
        "ways": [way(&summary.plain), way(&summary.int8)],
    })
}

fn as_text(summary: &QuantiseSummary, job: &QuantiseJob) -> String {
    let header: Vec<&str> = ["precision"]
        .into_iter()
        .chain(summary.structures.iter().map(String::as_str))
        .chain(["mean Dice", "network s"])
        .collect();
    let row = |way: &PrecisionResult| {
        let scores = way.dice.iter().copied().chain([way.mean_dice()]);
        [way.precision.to_string()]
            .into_iter()
            .chain(scores.map(score))
            .chain([format!("{:.2}", way.seconds)])
            .collect::<Vec<_>>()
    };
    let mut text = format!(
        "{} is ready for --precision int8: activation ranges recorded on {}\n",
        job.model.shown(),
        counted(summary.recorded.len(), "case")
    );
    if summary.compared.is_empty() {
        text += "not compared: all cases of the dataset were used for training\n";
    } else {
        text += &format!(
            "compared on {} not used for training\n",
            counted(summary.compared.len(), "case")
        );
        text += &table(&header, &[row(&summary.plain), row(&summary.int8)]);
    }
    text
}
