//! Writing a dataset in the layout of nnU-Net v2 or the Medical Segmentation Decathlon: each case is checked whole
//! before anything of it is written, and a bad one costs no other.

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
pub use target::{Asked, Format, Target};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::failures::write_failures;
use ctseg_base::memory_semaphore::Gate;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::{Channels, Dataset, LabelSource, SPLITS};

use case::Checks;
use description::Description;
use files::Planned;
use folder::Settings;
use journal::{Journal, Record};
use run::{Ended, Work};

const DESCRIPTION: &str = "dataset.json";
const FAILURES: &str = "failures.jsonl";

/// What all label maps under way may take together, about.
const MEMORY: u64 = 3 << 30;

/// Checks every case as [`convert`] does, and writes nothing.
///
/// # Errors
/// Structures that cannot be named in the layout.
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
    let memory = Gate::new(MEMORY);
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
    let ended = work.run("checking", observer, stop)?;
    if ended.interrupted {
        return Err(Error::Interrupted("not all cases were checked".to_owned()));
    }
    Ok(summary(dataset, &labels, &planned, ended))
}

/// Writes the dataset into the target's folder. Cases of an earlier run are kept where source and files are as they
/// were; what is there of others is removed. `dataset.json` comes last, with the cases that are there.
///
/// # Errors
/// Structures that cannot be named in the layout, a folder that holds anything else, one that cannot be written, and
/// being stopped, after the cases in hand.
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
    let (old, known) = prepared(folder, &settings, &planned, conversion.overwrite)?;
    let journal = Journal::begin(folder, old.values())?;
    let memory = Gate::new(MEMORY);
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
    let ended = work.run("converting", observer, stop)?;
    if ended.interrupted {
        return Err(Error::Interrupted(format!(
            "{} of {} written into {}; the same command goes on",
            ended.records.len(),
            counted(planned.len(), "case"),
            folder.display()
        )));
    }
    let description = Description {
        dataset,
        channels,
        labels: &labels,
        target,
        records: &ended.records,
    };
    let had_folds = folder.join(SPLITS).exists();
    let folds = finished(folder, &known, &description, conversion, &ended)?;
    warn_of_folds(folder, (had_folds, folds), conversion, observer);
    Ok(Converted {
        folds,
        ..summary(dataset, &labels, &planned, ended)
    })
}

/// Says which folds are not there.
fn warn_of_folds(
    folder: &Path,
    (had_folds, folds): (bool, usize),
    conversion: &Conversion,
    observer: &dyn Observer,
) {
    let wanted = conversion.splits.len();
    if folds < wanted {
        observer.warn(&format!(
            "{} of {wanted} folds are left out: all cases of a side failed",
            wanted - folds
        ));
    }
    if had_folds && wanted == 0 {
        observer.warn(&format!(
            "{}: removed; this run was asked for no folds",
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
        source: full(&conversion.source),
        source_layout: dataset.layout.to_string(),
        format,
        channels: channels.names.clone(),
        overlaps: conversion.overlaps,
        labels: labels.clone(),
    }
}

/// Makes the folder ready for a run: what an earlier one has done that can be kept, by the cases' names, and all files
/// of cases that may be there or will be.
fn prepared(
    folder: &Path,
    settings: &Settings,
    planned: &[Planned],
    overwrite: bool,
) -> Result<(BTreeMap<String, Record>, Vec<PathBuf>)> {
    let goes_on = settings.goes_on(folder, overwrite)?;
    let before = Journal::read(folder);
    let recorded = before.values().flat_map(|record| record.written.keys());
    let known: BTreeSet<&PathBuf> = recorded
        .chain(planned.iter().flat_map(Planned::files))
        .collect();
    folder::check_content(folder, &known)?;
    let known: Vec<PathBuf> = known.into_iter().cloned().collect();
    let old = if goes_on {
        before
    } else {
        // Of what is replaced nothing stays, also if this run is cut short.
        let described = [DESCRIPTION, SPLITS].map(PathBuf::from);
        folder::remove(folder, described.iter().chain(&known))?;
        BTreeMap::new()
    };
    settings.write(folder)?;
    Ok((old, known))
}

/// Removes what is of no case any more and writes what describes the others; how many folds there are.
fn finished(
    folder: &Path,
    known: &[PathBuf],
    description: &Description,
    conversion: &Conversion,
    ended: &Ended,
) -> Result<usize> {
    let records = &ended.records;
    let there: BTreeSet<&PathBuf> = records
        .values()
        .flat_map(|record| record.written.keys())
        .collect();
    folder::remove(folder, known.iter().filter(|path| !there.contains(path)))?;
    Journal::begin(folder, records.values())?;
    write_failures(&folder.join(FAILURES), &ended.failures)?;
    let splits = description.splits(&conversion.splits);
    if records.values().all(|record| record.test) {
        // A description of no cases would be taken for a dataset.
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
        // Also where there are no test cases: nnU-Net's converter refuses a dataset without the folder.
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

fn summary(dataset: &Dataset, labels: &Labels, planned: &[Planned], ended: Ended) -> Converted {
    let mut notes = ended.notes;
    notes.extend(remarks(dataset, labels, &ended.records));
    let renamed = planned
        .iter()
        .map(|case| (&dataset.cases[case.index].id, case.name));
    let renamed = renamed.filter(|(id, name)| id != name);
    let test = ended.records.values().filter(|record| record.test).count();
    Converted {
        training: ended.records.len() - test,
        test,
        kept: ended.kept,
        failures: ended.failures,
        notes,
        renamed: renamed
            .map(|(id, name)| (id.clone(), name.to_owned()))
            .collect(),
        folds: 0,
    }
}

/// What is worth knowing of the dataset as a whole.
fn remarks(
    dataset: &Dataset,
    labels: &Labels,
    records: &BTreeMap<String, Record>,
) -> BTreeMap<String, Vec<String>> {
    let mut remarks = BTreeMap::new();
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
        remarks.insert("in no training case".to_owned(), absent);
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
        let words = "a training case of a patient who is in the test set too";
        remarks.insert(words.to_owned(), in_both);
    }
    remarks
}

/// Whether patients have several training cases, which nnU-Net's own folds would part.
pub fn has_patients_of_several_cases(dataset: &Dataset) -> bool {
    let mut patients = BTreeSet::new();
    let mut training = dataset
        .cases
        .iter()
        .filter(|case| case.labels != LabelSource::None && !dataset.is_test(&case.id));
    training.any(|case| !patients.insert(case.patient.as_str()))
}

/// A path that stands for the same file wherever a command is run.
fn full(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}
