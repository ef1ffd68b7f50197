//! A dataset copied to scratch: once, by all processes together, and errors are still about the files themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use crate::common::{SMALL, ctseg, phantoms, run, stderr};
use ctseg_base::Error;
use ctseg_base::progress::{Observer, Silent, Task};
use ctseg_core::dataset::scratch_copy::staged;
use ctseg_core::dataset::{Dataset, LabelSource};

/// Remembers what is said, and what is warned of.
#[derive(Default)]
struct Heard {
    said: Mutex<Vec<String>>,
    warned: Mutex<Vec<String>>,
}

impl Observer for Heard {
    fn info(&self, line: &str) {
        self.said.lock().unwrap().push(line.to_owned());
    }

    fn warn(&self, line: &str) {
        self.warned.lock().unwrap().push(line.to_owned());
    }

    fn task(&self, name: &str, total: u64, unit: &'static str) -> Box<dyn Task> {
        Silent.task(name, total, unit)
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

/// The dataset with its copies; what was said, and what was warned of.
fn near(dataset: &Dataset, scratch: &Path) -> (Dataset, Vec<String>, Vec<String>) {
    let heard = Heard::default();
    let near = staged(dataset.clone(), scratch, &GO_ON, &heard).unwrap();
    (
        near,
        heard.said.into_inner().unwrap(),
        heard.warned.into_inner().unwrap(),
    )
}

/// The number of files that were copied now.
fn copied(said: &str) -> u64 {
    let line = said.lines().find(|line| line.starts_with("scratch "));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    let (before, _) = line.split_once(" of them (").unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Files of copies, without locks.
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

/// The one folder below `scratch`.
fn only_folder(scratch: &Path) -> PathBuf {
    let mut entries = fs::read_dir(scratch).unwrap();
    let folder = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    folder
}

/// The file that is read in place of `source`.
fn place(near: &Dataset, source: &Path) -> PathBuf {
    let read = near.copies.read(source, |path| Ok(path.to_path_buf()));
    read.unwrap()
}

fn opened(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

fn map_of(dataset: &Dataset, case: usize) -> PathBuf {
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

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model/stage1.safetensors")).unwrap()
}

#[test]
fn copies_are_made_once_and_anew_where_the_file_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let mut dataset = Dataset::open(&phantoms(&folder.path().join("data"), 3, 1)).unwrap();
    // One file lies elsewhere, and cases without labels or of the test set are not trained on.
    let outside = folder.path().join("outside.nii.gz");
    let trained = dataset.training_cases();
    fs::rename(&dataset.cases[trained[0]].image, &outside).unwrap();
    dataset.cases[trained[0]].image = outside.clone();

    let (first, said, warned) = near(&dataset, &scratch);
    assert_eq!((copied(&said[0]), first.copies.len()), (6, 6), "{said:?}");
    assert!(warned.is_empty(), "{warned:?}");
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
    // A second look copies nothing.
    let (_, said, _) = near(&dataset, &scratch);
    assert_eq!(copied(&said[0]), 0, "{said:?}");

    // Another time or another length is another file; a copy that was cut or removed is none.
    let place = |source: &Path| place(&first, source);
    let later = SystemTime::now() + Duration::from_secs(7);
    let bytes = fs::read(&sources[1]).unwrap();
    fs::write(&sources[1], &bytes).unwrap();
    opened(&sources[1]).set_modified(later).unwrap();
    opened(&place(&sources[2])).set_len(9).unwrap();
    fs::remove_file(place(&outside)).unwrap();
    let (_, said, _) = near(&dataset, &scratch);
    assert_eq!(copied(&said[0]), 3, "{said:?}");
    for source in &sources {
        assert!(fs::read(place(source)).unwrap() == fs::read(source).unwrap());
    }

    // A copy that is cleared away, or spoilt, while it is in use costs time alone.
    let (near, ..) = near(&dataset, &scratch);
    let expected = dataset.load(&dataset.cases[trained[1]]).unwrap();
    fs::remove_file(place(&sources[2])).unwrap();
    fs::write(place(&sources[3]), b"spoilt").unwrap();
    let loaded = near.load(&near.cases[trained[1]]).unwrap();
    assert!(
        loaded.volume.data == expected.volume.data && loaded.labels.data == expected.labels.data
    );
}

#[test]
fn what_cannot_be_copied_is_read_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 2, 0);
    let dataset = Dataset::open(&descriptor).unwrap();

    // No disk has room for this one, which takes none.
    let mut vast = dataset.clone();
    vast.cases[0].image = folder.path().join("vast.nii");
    fs::File::create(&vast.cases[0].image)
        .unwrap()
        .set_len(1 << 43)
        .unwrap();
    let scratch = folder.path().join("small");
    let (near_vast, said, warned) = near(&vast, &scratch);
    assert!(near_vast.copies.is_empty() && said.is_empty() && files(&scratch).is_empty());
    assert_eq!(warned.len(), 1, "{warned:?}");
    for expected in ["not enough space", "GB are free", "original location"] {
        assert!(warned[0].contains(expected), "{expected}: {warned:?}");
    }

    // A folder that somebody else has put there.
    let scratch = folder.path().join("trap");
    near(&dataset, &scratch);
    let own = only_folder(&scratch);
    fs::rename(&own, folder.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("moved"), &own).unwrap();
    let (trapped, _, warned) = near(&dataset, &scratch);
    assert!(trapped.copies.is_empty());
    assert!(warned[0].contains("another user"), "{warned:?}");

    // A file that is not there is for the dataset's check to tell of; the others are copied.
    let gone = map_of(&dataset, 0);
    fs::remove_file(&gone).unwrap();
    let (near_rest, said, warned) = near(&dataset, &folder.path().join("rest"));
    assert_eq!(
        (copied(&said[0]), near_rest.copies.len()),
        (3, 3),
        "{said:?}"
    );
    assert!(warned.is_empty(), "{warned:?}");
    let error = near_rest.load(&near_rest.cases[0]).unwrap_err().to_string();
    assert!(error.contains(gone.to_str().unwrap()), "{error}");

    let stopped = AtomicBool::new(true);
    let ended = staged(dataset, &folder.path().join("never"), &stopped, &Silent);
    assert!(matches!(ended, Err(Error::Interrupted(_))));
}

#[test]
fn training_reads_copies_and_names_the_files_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let descriptor = phantoms(&data, 4, 0);
    let scratch = folder.path().join("scratch");
    let descriptor = descriptor.to_str().unwrap();
    let (plain, far) = (folder.path().join("plain"), folder.path().join("far"));
    for work in [&plain, &far] {
        fs::create_dir(work).unwrap();
    }
    let said = stderr(&run(&plain, &arguments(descriptor, &[]), 0));
    assert!(!said.contains("scratch"), "{said}");

    let with = arguments(descriptor, &["--scratch", scratch.to_str().unwrap()]);
    let said = stderr(&run(&far, &with, 0));
    assert_eq!(copied(&said), 8, "{said}");
    assert!(weights(&far) == weights(&plain), "{said}");
    // What is written of the run names the data, not their copies.
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

    // Resumed, with the folder of the scheduler's variable: the flag alone, and the settings file.
    let resume = ["fit", "--resume", run_folder.to_str().unwrap(), "--scratch"];
    let mut command = ctseg(&far, &resume);
    let output = command.env("TMPDIR", &scratch).output().unwrap();
    assert_eq!(
        (output.status.code(), copied(&stderr(&output))),
        (Some(0), 0)
    );
    let said = stderr(&ctseg(&far, &resume).env_remove("TMPDIR").output().unwrap());
    assert!(
        said.contains("TMPDIR is not set") && said.contains("--scratch DIR"),
        "{said}"
    );
    fs::write(far.join("ctseg.toml"), "scratch = \"$TMPDIR\"\n").unwrap();
    let mut command = ctseg(&far, &resume[..3]);
    let output = command.env("TMPDIR", &scratch).output().unwrap();
    assert_eq!(
        (output.status.code(), copied(&stderr(&output))),
        (Some(0), 0)
    );

    // A damaged image is copied as it is; the error is about the image.
    let dataset = Dataset::open(Path::new(descriptor)).unwrap();
    let image = &dataset.cases[0].image;
    let bytes = fs::read(image).unwrap();
    fs::write(image, &bytes[..bytes.len() / 2]).unwrap();
    let said = stderr(&run(&plain, &with, 1));
    assert_eq!(copied(&said), 1, "{said}");
    assert_about(&said, image);
}

/// All warnings are about `image`, none about a copy.
fn assert_about(said: &str, image: &Path) {
    let about = said.lines().filter(|line| line.contains("warning"));
    let about: Vec<&str> = about.collect();
    assert!(
        !about.is_empty()
            && about
                .iter()
                .all(|line| line.contains(image.to_str().unwrap())),
        "{said}"
    );
    assert!(about.iter().all(|line| !line.contains("ctseg-")), "{said}");
}

#[test]
fn processes_of_a_machine_copy_a_dataset_together() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 6, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    let scratch = folder.path().join("scratch");
    near(&dataset, &scratch);
    let copies = only_folder(&scratch);
    let names = files(&copies);
    fs::remove_dir_all(copies.join("data")).unwrap();
    // What a killed process has left is removed.
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
    let begun = works.each_ref().map(|work| {
        let mut command = ctseg(work.path(), &arguments);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut total = 0;
    for child in begun {
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("12 files of 6 cases"), "{said}");
        total += copied(&said);
    }
    assert_eq!(total, 12, "each file is copied by one of them");
    assert_eq!(files(&copies), names);
    assert!(weights(works[0].path()) == weights(works[1].path()));
    assert!(weights(works[0].path()) == weights(works[2].path()));
}
