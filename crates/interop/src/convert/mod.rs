//! Converts a dataset to the layout of nnU-Net v2 or the Medical Segmentation Decathlon. Each case is checked in full
//! before it is written; a failed case does not stop the others.

mod case;
mod description;
mod files;
mod folder;
mod job;
mod journal;
mod labels;
mod names;
mod run;
mod target;

pub use job::{Conversion, Converted, Overlaps};
pub use labels::{LabelEntry, Labels};
pub use target::{Format, Requested, Target};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::failures::write_failures;
use ctseg_base::memory_semaphore::MemorySemaphore;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Channels, Dataset, LabelSource, SPLITS};

use case::Checks;
use description::Description;
use files::Planned;
use folder::Settings;
use journal::{Journal, Record};
use run::{Work, WorkResult};

const DESCRIPTION: &str = "dataset.json";
const FAILURES: &str = "failures.jsonl";

/// Approximate memory budget for all label maps being processed, in bytes.
const MEMORY: u64 = 3 << 30;

/// Checks every case as [`convert`] does, without writing anything.
///
/// # Errors
/// Structure names that are reserved in the layout.
pub fn check(
    dataset: &Dataset,
    channels: &Channels,
    format: Format,
    conversion: &Conversion,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<Converted> {
    let labels = Labels::of(dataset, format)?;
    let names = names::safe_names(dataset.cases.iter().map(|case| case.id.as_str()));
    let planned = planned(dataset, channels, format, &names);
    let memory = MemorySemaphore::new(MEMORY);
    let checks = Checks {
        dataset,
        channels: &channels.names,
        labels: &labels,
        conversion,
        memory: &memory,
    };
    let work = Work {
        checks,
        channels,
        planned: &planned,
        target: None,
        old: BTreeMap::new(),
        journal: None,
    };
    let result = work.run("checking", observer, stop)?;
    if result.interrupted {
        return Err(Error::Interrupted("not all cases were checked".to_owned()));
    }
    Ok(summary(dataset, &labels, &planned, result))
}

/// Writes the dataset into the target's folder. Cases of an earlier run are kept if their source and output files are
/// unchanged; files of other cases are removed. `dataset.json` is written last and lists the cases that exist.
///
/// # Errors
/// Structure names that are reserved in the layout, a folder with foreign content, a write failure, or an interruption
/// (after the cases in progress).
pub fn convert(
    dataset: &Dataset,
    channels: &Channels,
    target: &Target,
    conversion: &Conversion,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<Converted> {
    let labels = Labels::of(dataset, target.format)?;
    let names = names::safe_names(dataset.cases.iter().map(|case| case.id.as_str()));
    let planned = planned(dataset, channels, target.format, &names);
    let settings = settings(dataset, channels, &labels, target.format, conversion);
    let folder = &target.folder;
    let (old, known) = prepare(folder, &settings, &planned, conversion.overwrite)?;
    let journal = Journal::create(folder, old.values())?;
    let memory = MemorySemaphore::new(MEMORY);
    let work = Work {
        checks: Checks {
            dataset,
            channels: &channels.names,
            labels: &labels,
            conversion,
            memory: &memory,
        },
        channels,
        planned: &planned,
        target: Some(target),
        old,
        journal: Some(&journal),
    };
    let result = work.run("converting", observer, stop)?;
    if result.interrupted {
        return Err(Error::Interrupted(format!(
            "{} of {} written to {}; run the same command again to resume",
            result.records.len(),
            counted(planned.len(), "case"),
            folder.display()
        )));
    }
    let description = Description {
        dataset,
        channels,
        labels: &labels,
        target,
        records: &result.records,
    };
    let had_folds = folder.join(SPLITS).exists();
    let folds = finish(folder, &known, &description, conversion, &result)?;
    warn_of_missing_folds(folder, had_folds, folds, conversion, observer);
    Ok(Converted {
        folds,
        ..summary(dataset, &labels, &planned, result)
    })
}

/// Warns about folds that were not written.
fn warn_of_missing_folds(
    folder: &Path,
    had_folds: bool,
    folds: usize,
    conversion: &Conversion,
    observer: &dyn Observer,
) {
    let wanted = conversion.splits.len();
    if folds < wanted {
        observer.warn(&format!(
            "{} of {wanted} folds omitted: all their training or all their validation cases failed",
            wanted - folds
        ));
    }
    if had_folds && wanted == 0 {
        observer.warn(&format!(
            "{}: removed, because this run requests no folds",
            folder.join(SPLITS).display()
        ));
    }
}

fn settings(
    dataset: &Dataset,
    channels: &Channels,
    labels: &Labels,
    format: Format,
    conversion: &Conversion,
) -> Settings {
    Settings {
        ctseg_version: env!("CARGO_PKG_VERSION").to_owned(),
        source: absolute(&conversion.source),
        source_layout: dataset.layout.to_string(),
        format,
        channels: channels.names.clone(),
        overlaps: conversion.overlaps,
        labels: labels.clone(),
    }
}

/// Prepares the folder for a run. Returns the records of an earlier run that can be kept, by case name, and all case
/// files that may exist or will be written.
fn prepare(
    folder: &Path,
    settings: &Settings,
    planned: &[Planned],
    overwrite: bool,
) -> Result<(BTreeMap<String, Record>, Vec<PathBuf>)> {
    let resumes = settings.can_resume(folder, overwrite)?;
    let before = Journal::read(folder);
    let recorded = before.values().flat_map(|record| record.written.keys());
    let known: BTreeSet<&PathBuf> = recorded
        .chain(planned.iter().flat_map(Planned::files))
        .collect();
    folder::check_content(folder, &known)?;
    let known: Vec<PathBuf> = known.into_iter().cloned().collect();
    let old = if resumes {
        before
    } else {
        // Nothing of a replaced conversion remains, even if this run is interrupted.
        let described = [DESCRIPTION, SPLITS].map(PathBuf::from);
        folder::remove(folder, described.iter().chain(&known))?;
        BTreeMap::new()
    };
    settings.write(folder)?;
    Ok((old, known))
}

/// Removes files of cases that no longer exist and writes the dataset's description. Returns the number of folds.
fn finish(
    folder: &Path,
    known: &[PathBuf],
    description: &Description,
    conversion: &Conversion,
    result: &WorkResult,
) -> Result<usize> {
    let records = &result.records;
    let written: BTreeSet<&PathBuf> = records
        .values()
        .flat_map(|record| record.written.keys())
        .collect();
    folder::remove(folder, known.iter().filter(|path| !written.contains(path)))?;
    Journal::create(folder, records.values())?;
    write_failures(&folder.join(FAILURES), &result.failures)?;
    let splits = description.splits(&conversion.splits);
    if records.values().all(|record| record.test) {
        // A description without cases would look like a dataset.
        let gone = [DESCRIPTION, SPLITS].map(PathBuf::from);
        folder::remove(folder, gone.iter())?;
        return Ok(0);
    }
    if splits.is_empty() {
        folder::remove(folder, [PathBuf::from(SPLITS)].iter())?;
    } else {
        write_json(&folder.join(SPLITS), &splits)?;
    }
    if description.target.format == Format::Msd {
        // Even without test cases: nnU-Net's converter refuses a dataset without this folder.
        let test = folder.join("imagesTs");
        std::fs::create_dir_all(&test).map_err(Error::io(&test, "create"))?;
    }
    write_json(&folder.join(DESCRIPTION), &description.json())?;
    Ok(splits.len())
}

fn write_json(path: &Path, content: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(content)
        .map_err(|error| Error::file(path, format!("cannot be written as JSON: {error}")))?;
    write_bytes_atomically(path, (text + "\n").as_bytes())
}

fn planned<'a>(
    dataset: &Dataset,
    channels: &Channels,
    format: Format,
    names: &'a [String],
) -> Vec<Planned<'a>> {
    let cases = dataset.cases.iter().zip(names).enumerate();
    cases
        .map(|(index, (case, name))| {
            let test = dataset.is_test(&case.id);
            Planned::new(
                index,
                name,
                test,
                &case.labels,
                channels.names.len(),
                format,
            )
        })
        .collect()
}

fn summary(
    dataset: &Dataset,
    labels: &Labels,
    planned: &[Planned],
    result: WorkResult,
) -> Converted {
    let mut notes = result.notes;
    notes.extend(dataset_notes(dataset, labels, &result.records));
    let renamed = planned
        .iter()
        .map(|case| (&dataset.cases[case.index].id, case.name));
    let renamed = renamed.filter(|(id, name)| id != name);
    let test = result.records.values().filter(|record| record.test).count();
    Converted {
        training: result.records.len() - test,
        test,
        kept: result.kept,
        failures: result.failures,
        notes,
        renamed: renamed
            .map(|(id, name)| (id.clone(), name.to_owned()))
            .collect(),
        folds: 0,
    }
}

/// Notes about the dataset as a whole.
fn dataset_notes(
    dataset: &Dataset,
    labels: &Labels,
    records: &BTreeMap<String, Record>,
) -> BTreeMap<String, Vec<String>> {
    let mut notes = BTreeMap::new();
    let training = || records.values().filter(|record| !record.test);
    let present: BTreeSet<u16> = training()
        .flat_map(|record| &record.present)
        .copied()
        .collect();
    let absent = labels
        .0
        .iter()
        .filter(|label| !present.contains(&label.value));
    let absent: Vec<String> = absent.map(|label| label.name.clone()).collect();
    if !absent.is_empty() && training().next().is_some() {
        notes.insert("in no training case".to_owned(), absent);
    }
    let test_patients: BTreeSet<&str> = dataset
        .cases
        .iter()
        .filter(|case| dataset.is_test(&case.id))
        .map(|case| case.patient.as_str())
        .collect();
    let in_both = dataset.cases.iter();
    let in_both: Vec<String> = in_both
        .filter(|case| !dataset.is_test(&case.id) && test_patients.contains(case.patient.as_str()))
        .map(|case| case.id.clone())
        .collect();
    if !in_both.is_empty() {
        let words = "a training case of a patient who is also in the test set";
        notes.insert(words.to_owned(), in_both);
    }
    notes
}

/// Whether a patient has several training cases, which nnU-Net's own folds could separate.
pub fn has_multi_case_patients(dataset: &Dataset) -> bool {
    let mut patients = BTreeSet::new();
    let mut training = dataset
        .cases
        .iter()
        .filter(|case| case.labels != LabelSource::None && !dataset.is_test(&case.id));
    training.any(|case| !patients.insert(case.patient.as_str()))
}

/// The absolute path, if the file exists.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}
