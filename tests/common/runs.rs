//! Runs and models on disk, and the processes that write them.

#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ctseg_core::dataset::Dataset;
use ctseg_train::fit::FitJob;

use super::{SMALL, compute, run_json, small_recipe};

/// The only entry of `folder`; `None` if it is missing or empty.
pub fn find_only(folder: &Path) -> Option<PathBuf> {
    let mut entries = folder.read_dir().ok()?;
    let found = entries.next()?.unwrap().path();
    assert!(entries.next().is_none(), "more than one: {folder:?}");
    Some(found)
}

/// The paths in `folder`, sorted.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The only run in `folder/runs`.
pub fn only_run(folder: &Path) -> PathBuf {
    find_only(&folder.join("runs")).unwrap()
}

/// The weights of stage 1 of the model in `folder`, as bytes.
pub fn stage1_bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model/stage1.safetensors")).unwrap()
}

/// A fit of a small stage 1 in `folder`; it resumes the run there, if any.
pub fn fit_job<'a>(
    descriptor: &Path,
    folder: &Path,
    set: &[&str],
    stop: &'a AtomicBool,
) -> FitJob<'a> {
    FitJob {
        recipe: small_recipe("1", set),
        dataset: Dataset::open(descriptor).unwrap(),
        dataset_path: descriptor.to_path_buf(),
        data_root: None,
        model: folder.join("model"),
        runs: folder.join("runs"),
        from: None,
        resume: find_only(&folder.join("runs")),
        compute: compute(),
        loader_threads: None,
        seed: 1,
        max_time: None,
        stop,
        trackers: &[],
        tags: Vec::new(),
        draw_comparison: None,
        trial: None,
        preprocessed_cache: None,
        group: Arc::default(),
    }
}

/// Arguments that train one fold of a small stage 1 on one thread.
pub fn fit_one_fold<'a>(data: &'a Path, engine: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let data = data.to_str().unwrap();
    let mut arguments = vec!["fit", "--stage", "1", "--data", data, "--fold", "0"];
    arguments.extend(["--device", engine, "--precision", "f32", "--threads", "1"]);
    arguments.extend(SMALL);
    arguments.extend(set.iter().flat_map(|text| ["--set", text]));
    arguments
}

/// Arguments that resume a run of [`fit_one_fold`].
pub fn resume_one_fold<'a>(run: &'a Path, engine: &'a str) -> Vec<&'a str> {
    let run = run.to_str().unwrap();
    let arguments = ["fit", "--resume", run, "--device", engine];
    [&arguments[..], &["--precision", "f32", "--threads", "1"]].concat()
}

/// Runs `predict` with these arguments; the numbers of cases written and kept.
pub fn written_and_kept(folder: &Path, arguments: &[&str]) -> (usize, usize) {
    let arguments = [&["predict", "--json"], arguments].concat();
    let summary = run_json(folder, &arguments, 0);
    let count = |what: &str| summary[what].as_array().unwrap().len();
    (count("written"), count("kept"))
}

/// Sends a signal, such as `-TERM`.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success(), "{name}");
}

/// Waits until `condition()`; panics with `what` after a timeout.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
