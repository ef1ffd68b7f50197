//! A dataset copied to scratch: once, shared by all processes, with errors that name the original files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use crate::common::captured_log::CapturedLog;
use crate::common::runs::{find_only, stage1_bytes};
use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use ctseg_base::Error;
use ctseg_base::progress::Silent;
use ctseg_core::dataset::scratch_copy::staged;
use ctseg_core::dataset::{Dataset, LabelSource};

static NO_STOP: AtomicBool = AtomicBool::new(false);

/// The dataset with its copies; messages and warnings.
fn stage(dataset: &Dataset, scratch: &Path) -> (Dataset, Vec<String>, Vec<String>) {
    let log = CapturedLog::default();
    let copy = staged(dataset.clone(), scratch, &NO_STOP, &log).unwrap();
    (
        copy,
        log.infos.into_inner().unwrap(),
        log.warnings.into_inner().unwrap(),
    )
}

/// The number of files that this run copied.
fn copied(log: &str) -> u64 {
    let line = log.lines().find(|line| line.starts_with("scratch "));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let (before, _) = line.split_once(" of them (").unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The files below `folder`, without locks.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.retain(|path| {
        !path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("lock-")
    });
    found.sort();
    found
}

/// The file that is read instead of `source`.
fn place(copy: &Dataset, source: &Path) -> PathBuf {
    let read = copy.copies.read(source, |path| Ok(path.to_path_buf()));
    read.unwrap()
}

fn opened(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

/// The label map of a case.
pub(crate) fn map_of(dataset: &Dataset, case: usize) -> PathBuf {
    match &dataset.cases[case].labels {
        LabelSource::Map(path) => path.clone(),
        other => panic!("{other:?}"),
    }
}

/// A small stage 1, of one fold.
fn arguments<'a>(data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "fit", "--stage", "1", "--data", data, "--epochs", "1", "--fold", "0",
    ];
    arguments.extend(SMALL);
    arguments.extend(["--device", "flex", "--threads", "1", "--no-out-of-fold"]);
    arguments.extend(more);
    arguments
}

#[test]
fn files_are_copied_once_and_again_after_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let mut dataset = Dataset::open(&phantoms(&folder.path().join("data"), 3, 1)).unwrap();
    // One image is in another folder. Test cases are not copied.
    let outside = folder.path().join("outside.nii.gz");
    let trained = dataset.training_cases();
    fs::rename(&dataset.cases[trained[0]].image, &outside).unwrap();
    dataset.cases[trained[0]].image = outside.clone();

    let (first, log, warnings) = stage(&dataset, &scratch);
    assert_eq!((copied(&log[0]), first.copies.len()), (6, 6), "{log:?}");
    assert!(warnings.is_empty(), "{warnings:?}");
    let made = files(&scratch);
    assert_eq!(made.len(), 6, "{made:?}");
    let sources: Vec<PathBuf> = trained
        .iter()
        .flat_map(|case| [dataset.cases[*case].image.clone(), map_of(&dataset, *case)])
        .collect();
    for source in &sources {
        let place = place(&first, source);
        assert!(place != *source && made.contains(&place));
        assert!(fs::read(&place).unwrap() == fs::read(source).unwrap());
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified(&place), modified(source));
    }
    // A second run copies nothing.
    let (_, log, _) = stage(&dataset, &scratch);
    assert_eq!(copied(&log[0]), 0, "{log:?}");

    // A source with another time or size, a truncated copy and a removed copy are copied again.
    let place = |source: &Path| place(&first, source);
    let later = SystemTime::now() + Duration::from_secs(7);
    let bytes = fs::read(&sources[1]).unwrap();
    fs::write(&sources[1], &bytes).unwrap();
    opened(&sources[1]).set_modified(later).unwrap();
    opened(&place(&sources[2])).set_len(9).unwrap();
    fs::remove_file(place(&outside)).unwrap();
    let (_, log, _) = stage(&dataset, &scratch);
    assert_eq!(copied(&log[0]), 3, "{log:?}");
    for source in &sources {
        assert!(fs::read(place(source)).unwrap() == fs::read(source).unwrap());
    }

    // If a copy in use is removed or damaged, the original is read.
    let (copy, ..) = stage(&dataset, &scratch);
    let expected = dataset.load(&dataset.cases[trained[1]]).unwrap();
    fs::remove_file(place(&sources[2])).unwrap();
    fs::write(place(&sources[3]), b"damaged").unwrap();
    let loaded = copy.load(&copy.cases[trained[1]]).unwrap();
    assert!(
        loaded.volume.data == expected.volume.data && loaded.labels.data == expected.labels.data
    );
}

#[test]
fn files_that_cannot_be_copied_are_read_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 2, 0);
    let dataset = Dataset::open(&descriptor).unwrap();

    // A sparse file larger than any disk.
    let mut vast = dataset.clone();
    vast.cases[0].image = folder.path().join("vast.nii");
    fs::File::create(&vast.cases[0].image)
        .unwrap()
        .set_len(1 << 43)
        .unwrap();
    let scratch = folder.path().join("small");
    let (vast_copy, log, warnings) = stage(&vast, &scratch);
    assert!(vast_copy.copies.is_empty() && log.is_empty() && files(&scratch).is_empty());
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for expected in ["not enough space", "B are free", "original location"] {
        assert!(warnings[0].contains(expected), "{expected}: {warnings:?}");
    }

    // A symbolic link in place of the folder.
    let scratch = folder.path().join("trap");
    stage(&dataset, &scratch);
    let own = find_only(&scratch).unwrap();
    fs::rename(&own, folder.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("moved"), &own).unwrap();
    let (trapped, _, warnings) = stage(&dataset, &scratch);
    assert!(trapped.copies.is_empty());
    assert!(warnings[0].contains("another user"), "{warnings:?}");

    // A missing file is left to the dataset check; the others are copied.
    let gone = map_of(&dataset, 0);
    fs::remove_file(&gone).unwrap();
    let (rest_copy, log, warnings) = stage(&dataset, &folder.path().join("rest"));
    assert_eq!((copied(&log[0]), rest_copy.copies.len()), (3, 3), "{log:?}");
    assert!(warnings.is_empty(), "{warnings:?}");
    let error = rest_copy.load(&rest_copy.cases[0]).unwrap_err().to_string();
    assert!(error.contains(gone.to_str().unwrap()), "{error}");

    let stopped = AtomicBool::new(true);
    let ended = staged(dataset, &folder.path().join("never"), &stopped, &Silent);
    assert!(matches!(ended, Err(Error::Interrupted(_))));
}

#[test]
fn training_reads_copies_and_records_the_original_paths() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let descriptor = phantoms(&data, 4, 0);
    let scratch = folder.path().join("scratch");
    let descriptor = descriptor.to_str().unwrap();
    let (plain, far) = (folder.path().join("plain"), folder.path().join("far"));
    for work in [&plain, &far] {
        fs::create_dir(work).unwrap();
    }
    let log = stderr(&run(&plain, &arguments(descriptor, &[]), 0));
    assert!(!log.contains("scratch"), "{log}");

    let with = arguments(descriptor, &["--scratch", scratch.to_str().unwrap()]);
    let log = stderr(&run(&far, &with, 0));
    assert_eq!(copied(&log), 8, "{log}");
    assert!(stage1_bytes(&far) == stage1_bytes(&plain), "{log}");
    // The run folder records the data, not the copies.
    let run_folder = fs::read_dir(far.join("runs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let settings = fs::read_to_string(run_folder.join("run.toml")).unwrap();
    assert!(
        settings.contains("dataset.toml") && !settings.contains("scratch"),
        "{settings}"
    );

    // Resumed with the scheduler's TMPDIR: by the flag without a value, and by the settings file.
    let resume = ["fit", "--resume", run_folder.to_str().unwrap(), "--scratch"];
    let mut command = ctseg(&far, &resume);
    let output = command.env("TMPDIR", &scratch).output().unwrap();
    assert_eq!(
        (output.status.code(), copied(&stderr(&output))),
        (Some(0), 0)
    );
    let log = stderr(&ctseg(&far, &resume).env_remove("TMPDIR").output().unwrap());
    assert!(
        log.contains("TMPDIR is not set") && log.contains("--scratch DIR"),
        "{log}"
    );
    fs::write(far.join("ctseg.toml"), "scratch = \"$TMPDIR\"\n").unwrap();
    let mut command = ctseg(&far, &resume[..3]);
    let output = command.env("TMPDIR", &scratch).output().unwrap();
    assert_eq!(
        (output.status.code(), copied(&stderr(&output))),
        (Some(0), 0)
    );

    // A damaged image is copied unchanged; the error names the original.
    let dataset = Dataset::open(Path::new(descriptor)).unwrap();
    let image = &dataset.cases[0].image;
    let bytes = fs::read(image).unwrap();
    fs::write(image, &bytes[..bytes.len() / 2]).unwrap();
    let log = stderr(&run(&plain, &with, 1));
    assert_eq!(copied(&log), 1, "{log}");
    assert_about(&log, image);
}

/// Fails unless all warnings are about `image` and none is about a copy.
fn assert_about(log: &str, image: &Path) {
    let about = log.lines().filter(|line| line.contains("warning"));
    let about: Vec<&str> = about.collect();
    assert!(
        !about.is_empty()
            && about
                .iter()
                .all(|line| line.contains(image.to_str().unwrap())),
        "{log}"
    );
    assert!(about.iter().all(|line| !line.contains("ctseg-")), "{log}");
}

#[test]
fn processes_on_a_machine_share_the_copying() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 6, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    let scratch = folder.path().join("scratch");
    stage(&dataset, &scratch);
    let copies = find_only(&scratch).unwrap();
    let names = files(&copies);
    fs::remove_dir_all(copies.join("data")).unwrap();
    // The temporary file of a killed process is removed.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let own = ctseg_base::process::id::ProcessId::current().to_string();
    let dead = own.replace(
        &format!("-{}-", std::process::id()),
        &format!("-{}-", child.id()),
    );
    child.wait().unwrap();
    fs::write(copies.join(format!(".ctseg-{dead}-abcdef")), "half a copy").unwrap();

    let arguments = arguments(
        descriptor.to_str().unwrap(),
        &["--scratch", scratch.to_str().unwrap()],
    );
    let works = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let children = works.each_ref().map(|work| {
        let mut command = ctseg(work.path(), &arguments);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut total = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{log}");
        assert!(log.contains("12 files of 6 cases"), "{log}");
        total += copied(&log);
    }
    assert_eq!(total, 12, "each file is copied by one of them");
    assert_eq!(files(&copies), names);
    assert!(stage1_bytes(works[0].path()) == stage1_bytes(works[1].path()));
    assert!(stage1_bytes(works[0].path()) == stage1_bytes(works[2].path()));
}
