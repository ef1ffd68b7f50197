//! `ctseg inspect` of a dataset: cases, structures, missing files, and with `--check` every problem.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::commands::convert;
use crate::cli::outcome::Outcome;
use crate::cli::print::{Description, print_out};
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::table;
use ctseg_base::text::words::counted;
use ctseg_core::dataset::{Case, Dataset, LabelSource, Layout, Reading};
use ctseg_interop::convert::{Conversion, Format, Overlaps, check};

/// Number of missing files listed; the rest are counted.
const MAX_LISTED: usize = 20;

pub fn described(dataset: &Dataset) -> Description {
    let mut text = format!(
        "{} ({}) in {}\n  {}, {} for training, {} for testing{}\n",
        dataset.name.shown(),
        dataset.layout,
        dataset.root.shown(),
        counted(dataset.cases.len(), "case"),
        dataset.training_cases().len(),
        dataset.test.len(),
        dataset
            .licence
            .as_deref()
            .map(|licence| format!("; licence {}", licence.shown()))
            .unwrap_or_default(),
    );
    let named = dataset
        .structures
        .iter()
        .map(|s| (s.name.as_str(), s.value));
    let ignored = dataset.ignore.map(|value| ("(ignored)", value));
    let labels: Vec<Vec<String>> = named
        .chain(ignored)
        .map(|(name, value)| vec![name.to_owned(), value.to_string()])
        .collect();
    text += &table(&["structure", "label"], &labels);
    let rows: Vec<Vec<String>> = dataset
        .cases
        .iter()
        .map(|case| case_row(case, dataset.is_test(&case.id)))
        .collect();
    text += &table(&["case", "patient", "labels", "part"], &rows);
    let missing = missing(dataset);
    for problem in missing.iter().take(MAX_LISTED) {
        text += &format!("missing  {}\n", problem.shown());
    }
    if missing.len() > MAX_LISTED {
        text += &format!("missing  {} more\n", missing.len() - MAX_LISTED);
    }
    let cases: Vec<Value> = dataset
        .cases
        .iter()
        .map(|case| {
            json!({
                "id": case.id, "patient": case.patient, "image": case.image.display().to_string(),
                "test": dataset.is_test(&case.id),
            })
        })
        .collect();
    let names: Vec<Value> = dataset
        .structures
        .iter()
        .map(|s| json!({"name": s.name, "label": s.value}))
        .collect();
    let json = json!({
        "kind": "dataset", "name": dataset.name, "layout": dataset.layout.to_string(), "structures": names,
        "ignore": dataset.ignore, "cases": cases, "missing": missing,
    });
    Description { text, json }
}

/// The outcome of an inspection with the JSON `value`: missing files of a dataset count as failed cases.
pub fn outcome(value: &Value) -> Outcome {
    match value["missing"].as_array() {
        Some(missing) if !missing.is_empty() => Outcome::SomeFailed,
        _ => Outcome::AllDone,
    }
}

fn case_row(case: &Case, is_test: bool) -> Vec<String> {
    let labels = match &case.labels {
        LabelSource::None => "none".to_owned(),
        LabelSource::Map(_) => "one map".to_owned(),
        LabelSource::PerStructure(files) => counted(files.len(), "mask"),
    };
    let part = if is_test { "test" } else { "train" };
    vec![
        case.id.clone(),
        case.patient.clone(),
        labels,
        part.to_owned(),
    ]
}

/// Missing files of the dataset, one line each. Files are not read.
fn missing(dataset: &Dataset) -> Vec<String> {
    let mut missing = Vec::new();
    // A descriptor may list images alone.
    let is_labelled = dataset.layout != Layout::Descriptor
        || dataset
            .cases
            .iter()
            .any(|case| case.labels != LabelSource::None);
    for case in &dataset.cases {
        let masks: Vec<&PathBuf> = match &case.labels {
            LabelSource::None => Vec::new(),
            LabelSource::Map(path) => vec![path],
            LabelSource::PerStructure(files) => files.iter().map(|(_, path)| path).collect(),
        };
        let files = [&case.image].into_iter().chain(masks);
        let gone = files.filter(|path| !path.exists());
        missing.extend(gone.map(|path| path.display().to_string()));
        if is_labelled && case.labels == LabelSource::None && !dataset.is_test(&case.id) {
            missing.push(format!("labels of {}", case.image.display()));
        }
    }
    let unpaired = dataset.unpaired_labels.iter();
    missing.extend(unpaired.map(|path| format!("image of {}", path.display())));
    missing
}

/// Reads every case and lists every problem, as `ctseg convert --check` does.
pub fn checked(
    what: &Path,
    data_root: Option<&Path>,
    reading: Reading,
    settings: &Settings,
) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let stop = stop_on_signals()?;
    let (dataset, channels) = Dataset::open_channels(what, data_root, &[])?;
    let dataset = dataset.read_as(reading)?;
    let conversion = Conversion {
        source: what.to_path_buf(),
        // As training does.
        overlaps: Overlaps::Last,
        splits: Vec::new(),
        overwrite: false,
    };
    let observer = observer.as_ref();
    let found = check(
        &dataset,
        &channels,
        Format::NnUnet,
        &conversion,
        observer,
        &stop,
    )?;
    convert::warn_of_notes(&found, observer);
    match settings.json {
        true => {
            let value = json!({
                "kind": "check", "name": dataset.name, "training": found.training, "test": found.test,
                "channels": channels.names, "notes": found.notes, "failed": found.failures,
            });
            print_out(&format!("{value:#}\n"));
        }
        false => print_out(&format!(
            "{}: {}\n",
            dataset.name.shown(),
            convert::check_counts(&found)
        )),
    }
    Ok(convert::outcome(&found))
}
