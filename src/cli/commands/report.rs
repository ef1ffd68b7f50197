//! `ctseg report`: trainings and an evaluation as one HTML page.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::args::reading::ReadingArgs;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::text::bytes::decimal;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::Reference;
use ctseg_report::data::Report;
use ctseg_report::data::case_selection::CaseSelection;
use ctseg_report::data::evaluation::EvaluationSources;
use ctseg_report::html::{Destination, Written, write};

/// Default size limit of a report, in MB.
pub const DEFAULT_MB: usize = 25;

#[derive(Args)]
pub struct ReportArgs {
    /// Run folders (from `ctseg fit`) and one evaluation folder (from `ctseg evaluate`); without the latter, the runs'
    /// held-out evaluation is shown
    #[arg(required = true, value_name = "RUN|EVALUATION")]
    sources: Vec<PathBuf>,
    /// HTML file to write
    #[arg(short, long, default_value = "report.html")]
    output: PathBuf,
    /// Page title [default: the last folder's name]
    #[arg(long)]
    title: Option<String>,
    /// Cases to show in pictures: a number (worst, median, best, then the next worst), `all`, or names (case_1,case_7)
    /// in addition to those three
    #[arg(long, default_value = "3")]
    cases: CaseSelection,
    /// References, as for `ctseg evaluate`, if the evaluation does not record them
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Folder of the label maps, if they are not found
    #[arg(long)]
    predictions: Option<PathBuf>,
    /// Folder of the images, if they are not found
    #[arg(long)]
    images: Option<PathBuf>,
    /// Folder for PNG pictures [default: the HTML file's name with _files instead of .html]
    #[arg(long)]
    pictures: Option<PathBuf>,
    /// Maximum size of the HTML file in MB; with many cases, voxels are shown coarser
    #[arg(long, default_value_t = DEFAULT_MB, value_name = "MB")]
    max_size: usize,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
}

pub fn run(args: ReportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let mut report = Report::read(
        &args.sources,
        evaluation_sources(&args, settings)?,
        &args.cases,
    )?;
    if let Some(title) = &args.title {
        report.title.clone_from(title);
    }
    let pictures = match &args.pictures {
        Some(folder) => folder.clone(),
        None => beside(&args.output)?,
    };
    let to = Destination {
        file: &args.output,
        pictures: &pictures,
        max_bytes: args.max_size.saturating_mul(1_000_000),
    };
    let written = write(&report, &to, observer.as_ref())?;
    print_written(&written, &to, settings.json);
    Ok(match written.problems.is_empty() {
        true => Outcome::AllDone,
        false => Outcome::SomeFailed,
    })
}

fn evaluation_sources(args: &ReportArgs, settings: &Settings) -> Result<EvaluationSources> {
    let data_root = args.data_root.as_ref();
    let data_root = data_root.or(settings.config.data_root.as_ref());
    let open = |path: &PathBuf| Reference::open(path, data_root.map(PathBuf::as_path));
    for folder in [&args.predictions, &args.images].into_iter().flatten() {
        if !folder.exists() {
            return Err(Error::file(
                folder,
                "does not exist; expected a folder of NIfTI files",
            ));
        }
    }
    Ok(EvaluationSources {
        reference: args.reference.as_ref().map(open).transpose()?,
        predictions: args.predictions.clone(),
        images: args.images.clone(),
        reading: args.reading.reading(),
    })
}

/// `report_files` beside `report.html`.
pub fn beside(file: &std::path::Path) -> Result<PathBuf> {
    let stem = file.file_stem().filter(|_| !file.is_dir()).ok_or_else(|| {
        Error::usage(format!(
            "--output {}: {}; expected a file name such as report.html",
            file.shown(),
            if file.is_dir() {
                "is a folder"
            } else {
                "not a file name"
            }
        ))
    })?;
    let mut name = stem.to_os_string();
    name.push("_files");
    Ok(file.with_file_name(name))
}

pub fn print_written(written: &Written, to: &Destination, as_json: bool) {
    if as_json {
        let value = json!({
            "report": to.file, "bytes": written.bytes, "cases_in_pictures": written.cases,
            "pictures": written.pictures, "problems": written.problems,
        });
        print_out(&format!("{value:#}\n"));
        return;
    }
    print_out(&format!(
        "{} ({}, {} in pictures); {} in {}\n",
        to.file.shown(),
        decimal(written.bytes as u64),
        counted(written.cases, "case"),
        counted(written.pictures.len(), "picture"),
        to.pictures.shown()
    ));
}
