//! `ctseg convert`: a dataset in the layout of another program.

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
    Asked, Conversion, Converted, Format, Labels, Overlaps, Target, check, convert,
    has_patients_of_several_cases,
};

#[derive(Args)]
pub struct ConvertArgs {
    /// A dataset folder or descriptor
    data: PathBuf,
    /// Layout to write: nnunet (nnU-Net v2 raw) or msd (Medical Segmentation Decathlon)
    #[arg(long, value_name = "LAYOUT")]
    to: Format,
    /// Folder of datasets (such as nnUNet_raw), or the new dataset's own (such as nnUNet_raw/Dataset123_Foo)
    #[arg(short, long, required_unless_present = "check")]
    output: Option<PathBuf>,
    /// Name of the new dataset: Foo, or with its number Dataset123_Foo or Task07_Foo [default: the source's]
    #[arg(long)]
    name: Option<String>,
    /// Number of the new dataset [default: the source's, else the first that is free from 500 (msd: 11) on]
    #[arg(long)]
    id: Option<u16>,
    /// Write splits_final.json with so many folds, those that 'ctseg fit' has with as many: no patient is parted.
    /// Without it, it has the folds that files of the dataset name, if they do
    #[arg(long, value_name = "K")]
    folds: Option<usize>,
    /// Decides the folds, as for 'ctseg fit'
    #[arg(long, default_value_t = 1, requires = "folds")]
    seed: u64,
    /// Where masks of one case overlap: refuse the case, or let the last structure in the order of the label values win
    #[arg(long, value_enum, default_value_t = OverlapsArg::Refuse)]
    overlaps: OverlapsArg,
    /// Names of the images' channels, such as CT,PET [default: those of dataset.json, else CT]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    channels: Vec<String>,
    /// Only check every case, and write nothing; 'ctseg inspect DATASET --check' does the same
    #[arg(long)]
    check: bool,
    /// Replace an earlier conversion that had other settings or another source
    #[arg(long)]
    overwrite: bool,
    /// Folder that a descriptor's paths are relative to
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
            let asked = Asked {
                name: args.name.as_deref(),
                number: args.id,
            };
            Some(Target::resolve(args.to, output, asked, &dataset)?)
        }
        None => None,
    };
    let observer = observer.as_ref();
    let converted = match target.as_ref().filter(|_| !args.check) {
        Some(target) => convert(&dataset, &channels, target, &conversion, observer, &stop)?,
        None => check(&dataset, &channels, args.to, &conversion, observer, &stop)?,
    };
    let labels = Labels::of(&dataset, args.to)?;
    let told = Told {
        converted: &converted,
        labels: &labels,
        channels: &channels,
        target: target.as_ref(),
        checked_only: args.check,
    };
    warn_of_notes(&converted, observer);
    if args.to == Format::NnUnet && converted.folds == 0 && has_patients_of_several_cases(&dataset)
    {
        observer.warn("patients have several cases, and nnU-Net's own folds would part them; --folds 5 writes folds that do not");
    }
    match settings.json {
        true => print_out(&format!("{:#}\n", told.json())),
        false => print_out(&told.text()),
    }
    Ok(outcome(&converted))
}

/// Each remark once, with the cases that it is of.
pub(super) fn warn_of_notes(converted: &Converted, observer: &dyn Observer) {
    for (note, cases) in &converted.notes {
        match cases.is_empty() {
            true => observer.warn(note),
            false => observer.warn(&format!("{}: {note}", listed(cases))),
        }
    }
}

/// How many cases a check found sound, and how many problems.
pub(super) fn sound(converted: &Converted) -> String {
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
                "--folds is for --to nnunet; the Medical Segmentation Decathlon's layout has no place for folds",
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

/// The folds that the source's own files give, as far as the layout has a place for them.
fn source_splits(
    dataset: &Dataset,
    format: Format,
    observer: &dyn Observer,
) -> Result<Vec<NamedSplit>> {
    let given = dataset.given_splits(nnunet_preprocessed().as_deref())?;
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
            observer.say(&format!("folds: the {} of {file}", given.folds.len()));
            Ok(given.folds)
        }
        Format::Msd => {
            observer.warn(&format!(
                "{file}: not converted; the layout of the Medical Segmentation Decathlon has no place for folds"
            ));
            Ok(Vec::new())
        }
    }
}

/// What is said at the end.
struct Told<'a> {
    converted: &'a Converted,
    labels: &'a Labels,
    channels: &'a Channels,
    target: Option<&'a Target>,
    checked_only: bool,
}

impl Told<'_> {
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
            None => format!("{}; nothing was written\n", sound(self.converted)),
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
                        "{}, see above; these cases are left out\n",
                        counted(problems, "problem")
                    ),
                }
            ),
        };
        if !self.labels.are_kept() {
            text += &format!("labels renumbered: {}\n", self.labels.in_words());
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
