//! Trainings with a cache of prepared cases: the same weights, also of several processes at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{SMALL, ctseg, phantoms, run, stderr};

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut entries: Vec<PathBuf> = entries.collect();
    entries.sort();
    entries
}

/// Bytes of all entries.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// A small stage 1, of one fold.
fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "fit", "--stage", "1", "--data", data, "--epochs", "2", "--fold", "0",
    ];
    arguments.extend(SMALL);
    for set in [
        "training.augmentation={ hu_shift_probability = 0.5, flip_axes = ['x'] }",
        // Nothing stays in memory: every epoch asks the store.
        "training.cache_mb=0",
    ] {
        arguments.extend(["--set", set]);
    }
    arguments.extend(["--device", "flex", "--threads", "1", "--no-out-of-fold"]);
    arguments.extend(more);
    arguments
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model/stage1.safetensors")).unwrap()
}

/// The numbers in the cache report: cases read and preprocessed.
fn reported(said: &str) -> (u64, u64) {
    let line = said.lines().find(|line| line.starts_with("case cache "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    let rest = line.split_once(": ").unwrap().1;
    let mut numbers = rest.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn weights_are_the_same_without_a_cache_with_a_cold_and_with_a_warm_one() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let plain = arguments(descriptor.to_str().unwrap(), &[]);
    let without = tempfile::tempdir().unwrap();
    let said = stderr(&run(without.path(), &plain, 0));
    assert!(!said.contains("case cache"), "{said}");

    let cache = data.path().join("cache");
    let with = arguments(
        descriptor.to_str().unwrap(),
        &[
            "--case-cache",
            cache.to_str().unwrap(),
            "--case-cache-size",
            "100M",
        ],
    );
    let mut counts = Vec::new();
    for _ in ["cold", "warm"] {
        let folder = tempfile::tempdir().unwrap();
        let said = stderr(&run(folder.path(), &with, 0));
        assert!(weights(folder.path()) == weights(without.path()), "{said}");
        assert!(said.contains("of 104.9 MB"), "{said}");
        counts.push(reported(&said));
    }
    // Each of the four was made once, and found whenever it was asked for again.
    let [(cold_found, cold_made), (warm_found, warm_made)] = counts[..] else {
        panic!("{counts:?}")
    };
    assert_eq!((cold_made, warm_made), (4, 0));
    assert_eq!(warm_found, cold_found + 4);
    assert!(cold_found >= 4, "{counts:?}");
    assert_sweep_uses_it(data.path(), plain);
}

/// The settings file says as much as the flags of `fit`, relative to its own folder; a trial of a sweep uses what a
/// training has made.
fn assert_sweep_uses_it(data: &Path, fit: Vec<&str>) {
    let folder = data.join("work");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("ctseg.toml"),
        "case_cache = \"../cache\"\ncase_cache_size = \"100M\"\n",
    )
    .unwrap();
    let mut sweep = fit;
    sweep[0] = "sweep";
    sweep.retain(|argument| *argument != "--no-out-of-fold");
    sweep.extend([
        "--vary",
        "training.optimiser.learning_rate=1e-3,2e-3",
        "--rungs",
        "1",
    ]);
    let said = stderr(&run(&folder, &sweep, 0));
    assert_eq!(said.matches(" read, 0 preprocessed").count(), 2, "{said}");
    fs::write(
        folder.join("ctseg.toml"),
        "case_cache = \"c\"\ncase_cache_size = \"much\"\n",
    )
    .unwrap();
    let said = stderr(&run(&folder, &sweep, 2));
    assert!(said.contains("'much' is not a size"), "{said}");
}

#[test]
fn processes_share_a_folder_at_once_within_its_bound() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let plain = arguments(descriptor.to_str().unwrap(), &[]);
    let without = tempfile::tempdir().unwrap();
    run(without.path(), &plain, 0);
    let mut most = 100 << 20;
    for name in ["wide", "narrow"] {
        let cache = data.path().join(name);
        let size = format!("{:.9}M", most as f64 / f64::from(1 << 20));
        let with = arguments(
            descriptor.to_str().unwrap(),
            &[
                "--case-cache",
                cache.to_str().unwrap(),
                "--case-cache-size",
                &size,
            ],
        );
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let begun = folders.each_ref().map(|folder| {
            let mut command = ctseg(folder.path(), &with);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        for (child, folder) in begun.into_iter().zip(&folders) {
            let output = child.wait_with_output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert!(!said.contains("warning: case cache"), "{said}");
            assert!(
                weights(folder.path()) == weights(without.path()),
                "{name}: {said}"
            );
            assert!(reported(&said).1 > 0 || reported(&said).0 > 0);
        }
        let left = entries(&cache);
        assert!(
            left.iter()
                .all(|path| path.extension().is_some_and(|e| e == "case")),
            "{left:?}"
        );
        assert!(bytes_below(&cache) <= most);
        match name {
            "wide" => assert_eq!(left.len(), 4, "{left:?}"),
            _ => assert!((1..4).contains(&left.len()), "{left:?}"),
        }
        most = bytes_below(&cache) * 6 / 10; // no room for all next time
    }
}
