//! Training with a cache of preprocessed cases: the same weights, also with several processes at once.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::common::runs::{entries, stage1_bytes};
use crate::common::{SMALL, ctseg, phantoms, run, stderr};

/// The total size of all entries.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// Trains one fold of a small stage 1.
fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "fit", "--stage", "1", "--data", data, "--epochs", "2", "--fold", "0",
    ];
    arguments.extend(SMALL);
    for set in [
        "training.augmentation={ hu_shift_probability = 0.5, flip_axes = ['x'] }",
        // No cases in memory: every epoch reads the cache.
        "training.cache_mb=0",
    ] {
        arguments.extend(["--set", set]);
    }
    arguments.extend(["--device", "flex", "--threads", "1", "--no-out-of-fold"]);
    arguments.extend(more);
    arguments
}

/// The numbers in the cache report: cases read and preprocessed.
fn reported(log: &str) -> (u64, u64) {
    let line = log.lines().find(|line| line.starts_with("case cache "));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let rest = line.split_once(": ").unwrap().1;
    let mut numbers = rest.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn weights_are_the_same_without_a_cache_and_with_a_cold_or_warm_one() {
    let data = tempfile::tempdir().unwrap();
    let descriptor = phantoms(data.path(), 4, 0);
    let plain = arguments(descriptor.to_str().unwrap(), &[]);
    let without = tempfile::tempdir().unwrap();
    let log = stderr(&run(without.path(), &plain, 0));
    assert!(!log.contains("case cache"), "{log}");

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
        let log = stderr(&run(folder.path(), &with, 0));
        assert!(
            stage1_bytes(folder.path()) == stage1_bytes(without.path()),
            "{log}"
        );
        assert!(log.contains("of 104.9 MB"), "{log}");
        counts.push(reported(&log));
    }
    // Each of the four cases was preprocessed once, and read from the cache afterwards.
    let [(cold_found, cold_made), (warm_found, warm_made)] = counts[..] else {
        panic!("{counts:?}")
    };
    assert_eq!((cold_made, warm_made), (4, 0));
    assert_eq!(warm_found, cold_found + 4);
    assert!(cold_found >= 4, "{counts:?}");
    assert_sweep_uses_it(data.path(), plain);
}

/// The settings file works like the flags of `fit`, relative to its own folder; sweep trials use the cache of a
/// training.
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
    let log = stderr(&run(&folder, &sweep, 0));
    assert_eq!(log.matches(" read, 0 preprocessed").count(), 2, "{log}");
    fs::write(
        folder.join("ctseg.toml"),
        "case_cache = \"c\"\ncase_cache_size = \"much\"\n",
    )
    .unwrap();
    let log = stderr(&run(&folder, &sweep, 2));
    assert!(log.contains("'much' is not a size"), "{log}");
}

#[test]
fn concurrent_processes_share_a_cache_within_its_limit() {
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
        let started = folders.each_ref().map(|folder| {
            let mut command = ctseg(folder.path(), &with);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        for (child, folder) in started.into_iter().zip(&folders) {
            let output = child.wait_with_output().unwrap();
            let log = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{log}");
            assert!(!log.contains("warning: case cache"), "{log}");
            assert!(
                stage1_bytes(folder.path()) == stage1_bytes(without.path()),
                "{name}: {log}"
            );
            assert!(reported(&log).1 > 0 || reported(&log).0 > 0);
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
        most = bytes_below(&cache) * 6 / 10; // too small for all cases next time
    }
}
