//! `ctseg convert`: datasets in the layout of other programs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::args::reading::GridArgs;
use crate::cli::env::nnunet_preprocessed;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use ctseg_base::progress::Observer;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::{counted, listed};
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Channels, Dataset, NamedSplit, SPLITS};
use ctseg_interop::convert::{
    Conversion, Converted, Format, Labels, Overlaps, Requested, Target, check, convert,
    has_multi_case_patients,
};

#[derive(Args)]
pub struct ConvertArgs {
    /// Dataset folder or descriptor
    data: PathBuf,
    /// Layout to write: nnunet (nnU-Net v2 raw) or msd (Medical Segmentation Decathlon)
    #[arg(long, value_name = "LAYOUT")]
    to: Format,
    /// Parent folder (such as nnUNet_raw), or the new dataset's own folder (such as nnUNet_raw/Dataset123_Foo)
    #[arg(short, long, required_unless_present = "check")]
    output: Option<PathBuf>,
    /// Name of the new dataset: Foo, or with its ID Dataset123_Foo or Task07_Foo [default: the source's]
    #[arg(long)]
    name: Option<String>,
    /// ID of the new dataset [default: the source's, or the first free one from 500 (msd: 11)]
    #[arg(long)]
    id: Option<u16>,
    /// Write splits_final.json with the same K folds as 'ctseg fit', which never split a patient [default: the folds
    /// given by the dataset's files, if any]
    #[arg(long, value_name = "K")]
    folds: Option<usize>,
    /// Random seed of the folds, as in 'ctseg fit'
    #[arg(long, default_value_t = 1, requires = "folds")]
    seed: u64,
    /// Overlapping masks in a case: refuse the case, or let the structure with the highest label value win (last)
    #[arg(long, value_enum, default_value_t = OverlapsArg::Refuse)]
    overlaps: OverlapsArg,
    /// Channel names of the images, such as CT,PET [default: those of dataset.json, or CT]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    channels: Vec<String>,
    /// Check every case and write nothing, as 'ctseg inspect DATASET --check'
    #[arg(long)]
    check: bool,
    /// Replace an earlier conversion with other settings or another source
    #[arg(long)]
    overwrite: bool,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    grid: GridArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum OverlapsArg {
    Refuse,
    Last,
}

pub fn run(args: ConvertArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let stop = stop_on_signals()?;
    let data_root = args.data_root.as_ref();
    let data_root = data_root.or(settings.config.data_root.as_ref());
    let data_root = data_root.map(PathBuf::as_path);
    let (mut dataset, channels) = Dataset::open_channels(&args.data, data_root, &args.channels)?;
    dataset.reading.grid_tolerance = args.grid.tolerance();
    let conversion = conversion(&args, &dataset, observer.as_ref())?;
    let target = match &args.output {
        Some(output) => {
            let requested = Requested {
                name: args.name.as_deref(),
                number: args.id,
            };
            Some(Target::resolve(args.to, output, requested, &dataset)?)
        }
        None => None,
    };
    let observer = observer.as_ref();
    let converted = match target.as_ref().filter(|_| !args.check) {
        Some(target) => convert(&dataset, &channels, target, &conversion, observer, &stop)?,
        None => check(&dataset, &channels, args.to, &conversion, observer, &stop)?,
    };
    let labels = Labels::of(&dataset, args.to)?;
    let summary = ConvertSummary {
        converted: &converted,
        labels: &labels,
        channels: &channels,
        target: target.as_ref(),
        checked_only: args.check,
    };
    warn_of_notes(&converted, observer);
    if args.to == Format::NnUnet && converted.folds == 0 && has_multi_case_patients(&dataset) {
        observer.warn("some patients have several cases, which nnU-Net's own folds would split; --folds 5 writes folds that keep patients together");
    }
    match settings.json {
        true => print_out(&format!("{:#}\n", summary.json())),
        false => print_out(&summary.text()),
    }
    Ok(outcome(&converted))
}

/// Warns of each note once, with its cases.
pub(super) fn warn_of_notes(converted: &Converted, observer: &dyn Observer) {
    for (note, cases) in &converted.notes {
        match cases.is_empty() {
            true => observer.warn(note),
            false => observer.warn(&format!("{}: {note}", listed(cases))),
        }
    }
}

/// Numbers of cases without problems, and of problems.
pub(super) fn check_counts(converted: &Converted) -> String {
    let text = format!(
        "{} and {} without problems",
        counted(converted.training, "training case"),
        counted(converted.test, "test case")
    );
    match converted.failures.len() {
        0 => text,
        problems => format!("{text}; {}, see above", counted(problems, "problem")),
    }
}

pub(super) fn outcome(converted: &Converted) -> Outcome {
    match (converted.training, converted.failures.is_empty()) {
        (0, _) => Outcome::NothingDone,
        (_, true) => Outcome::AllDone,
        (_, false) => Outcome::SomeFailed,
    }
}

fn conversion(
    args: &ConvertArgs,
    dataset: &Dataset,
    observer: &dyn Observer,
) -> Result<Conversion> {
    let splits = match (args.folds, args.to) {
        (Some(_), Format::Msd) => {
            return Err(Error::usage(
                "--folds is only for --to nnunet; the layout of the Medical Segmentation Decathlon has no folds",
            ));
        }
        (Some(k), Format::NnUnet) => dataset.named_splits(k, args.seed)?,
        (None, format) => source_splits(dataset, format, observer)?,
    };
    Ok(Conversion {
        source: args.data.clone(),
        overlaps: match args.overlaps {
            OverlapsArg::Refuse => Overlaps::Refuse,
            OverlapsArg::Last => Overlaps::Last,
        },
        splits,
        overwrite: args.overwrite,
    })
}

/// The folds given by the source's own files, if the layout supports folds.
fn source_splits(
    dataset: &Dataset,
    format: Format,
    observer: &dyn Observer,
) -> Result<Vec<NamedSplit>> {
    let given = dataset.predefined_splits(nnunet_preprocessed().as_deref())?;
    let Some((given, notes)) = given else {
        let published = match format {
            Format::NnUnet => dataset.published_split()?,
            Format::Msd => None,
        };
        return Ok(published.into_iter().collect());
    };
    let file = given.file.shown();
    for note in notes {
        observer.warn(&note);
    }
    match format {
        Format::NnUnet => {
            observer.info(&format!("using the {} folds of {file}", given.folds.len()));
            Ok(given.folds)
        }
        Format::Msd => {
            observer.warn(&format!(
                "{file}: not converted; the layout of the Medical Segmentation Decathlon has no folds"
            ));
            Ok(Vec::new())
        }
    }
}

/// The summary of a conversion.
struct ConvertSummary<'a> {
    converted: &'a Converted,
    labels: &'a Labels,
    channels: &'a Channels,
    target: Option<&'a Target>,
    checked_only: bool,
}

impl ConvertSummary<'_> {
    fn text(&self) -> String {
        let Converted {
            training,
            test,
            kept,
            failures,
            renamed,
            folds,
            ..
        } = self.converted;
        let mut text = match self.target.filter(|_| !self.checked_only) {
            None => format!("{}; nothing was written\n", check_counts(self.converted)),
            Some(target) => format!(
                "{} and {} in {}{}\n{}",
                counted(*training, "training case"),
                counted(*test, "test case"),
                target.folder.shown(),
                match kept {
                    0 => String::new(),
                    kept => format!(", {kept} of them from an earlier run"),
                },
                match failures.len() {
                    0 => String::new(),
                    problems => format!(
                        "{}, see above; these cases are skipped\n",
                        counted(problems, "problem")
                    ),
                }
            ),
        };
        if !self.labels.are_kept() {
            text += &format!("labels renumbered: {}\n", self.labels.describe());
        }
        if !renamed.is_empty() {
            let pairs: Vec<String> = renamed
                .iter()
                .map(|(id, name)| format!("{id} → {name}"))
                .collect();
            text += &format!("cases renamed: {}\n", listed(&pairs));
        }
        let Some(target) = self.target.filter(|target| {
            target.format == Format::NnUnet && !self.checked_only && *training > 0
        }) else {
            return text;
        };
        let folder = target.folder_name();
        if *folds > 0 {
            text += &format!(
                "{} in {}; nnU-Net reads them from nnUNet_preprocessed/{folder}: copy the file there before training\n",
                counted(*folds, "fold"),
                Path::new(&folder).join(SPLITS).shown()
            );
        }
        text += &format!(
            "next: nnUNetv2_plan_and_preprocess -d {} --verify_dataset_integrity\n",
            target.number
        );
        text
    }

    fn json(&self) -> Value {
        let converted = self.converted;
        json!({
            "folder": self.target.map(|target| target.folder.display().to_string()),
            "name": self.target.map(Target::folder_name),
            "checked_only": self.checked_only,
            "training": converted.training,
            "test": converted.test,
            "kept": converted.kept,
            "channels": self.channels.names,
            "labels": self.labels,
            "renamed": converted.renamed.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "folds": converted.folds,
            "notes": converted.notes,
            "failed": converted.failures,
        })
    }
}
