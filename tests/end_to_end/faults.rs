//! Failing disks and killed processes: replacing a model, and files above the size limit.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::faults::{Fault, Record, Shim};
use crate::common::{ctseg, publish_random, small_recipe, stderr};
use ctseg_core::model::bundle::{Bundle, TrainedStage};
use ctseg_core::model::postprocessing::Postprocessing;
use ctseg_image::nifti::{NiftiHeader, VoxelType, write_labels, write_volume};
use ctseg_image::space::{Grid, LabelMap, Volume};
use ndarray::Array3;

/// Variables with the model to replace and the model with the new stage 1.
const PATHS: [&str; 2] = ["TEST_REPLACED_MODEL", "TEST_NEW_MODEL"];

#[test]
#[ignore = "helper of the tests below, which run it in separate processes"]
fn replaces_a_model_for_other_tests() {
    let [Some(model), Some(new)] = PATHS.map(std::env::var_os) else {
        return;
    };
    let new = Bundle::open(Path::new(&new)).unwrap();
    let stage = TrainedStage {
        manifest: new.stage(1).unwrap().clone(),
        weights: new.stage_weights(1).unwrap(),
    };
    let structures = new.structures().unwrap();
    if let Err(error) = Bundle::publish(Path::new(&model), &structures, stage) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// A two-stage model, and another stage 1 to replace its own.
struct Replacement {
    shim: Shim,
    folder: tempfile::TempDir,
}

/// The result of one attempt.
struct Attempt {
    /// Contains the model, and anything left beside it.
    folder: tempfile::TempDir,
    output: Output,
    record: Record,
}

impl Replacement {
    fn new() -> Option<Self> {
        let made = Self {
            shim: Shim::build()?,
            folder: tempfile::tempdir().unwrap(),
        };
        let alone = [
            "region=whole",
            "prior=false",
            "train_folds=[0]",
            "training.patch_size=[16, 16, 16]",
        ];
        publish_random(&made.path("old"), &small_recipe("1", &[]), &[&[]]);
        publish_random(&made.path("old"), &small_recipe("refine", &alone), &[&[]]);
        let wider = small_recipe("1", &["network.widths=[8, 8]"]);
        publish_random(&made.path("new"), &wider, &[&[]]);
        Some(made)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces stage 1 in a copy of the old model, which copies its stage 2.
    fn attempt(&self, exchange: bool, fault: Option<Fault>) -> Attempt {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in self.path("old").read_dir().unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "faults::replaces_a_model_for_other_tests";
        command.args(["--exact", test, "--ignored", "--nocapture"]);
        command
            .env(PATHS[0], &model)
            .env(PATHS[1], self.path("new"));
        if !exchange {
            command.env("FAULT_NO_EXCHANGE", "1");
        }
        let (output, record) = self.shim.run(&mut command, folder.path(), fault);
        Attempt {
            folder,
            output,
            record,
        }
    }
}

impl Attempt {
    fn model(&self) -> Bundle {
        let found = Bundle::open(&self.folder.path().join("model"));
        found.unwrap_or_else(|error| panic!("{error}\n{:?}", self.record))
    }

    /// Replaces the model again without faults; fails if anything is left beside it.
    fn assert_clean_after_another(&self) {
        let replaced = self.model().set_postprocessing(Some(Postprocessing {
            cases: 1,
            smallest_gain: 0.0,
            structures: BTreeMap::new(),
        }));
        replaced.unwrap();
        let entries = self.folder.path().read_dir().unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["model"], "{:?}", self.record);
    }
}

#[test]
fn a_replaced_model_is_always_the_old_or_the_new_one() {
    let Some(replacement) = Replacement::new() else {
        return;
    };
    let old = Bundle::open(&replacement.path("old")).unwrap().sha256();
    for exchange in [true, false] {
        let whole = replacement.attempt(exchange, None);
        assert!(whole.output.status.success(), "{}", stderr(&whole.output));
        assert!(whole.record.unsynced().is_empty(), "{:?}", whole.record);
        let new = whole.model().sha256();
        assert_ne!(new, old);
        whole.assert_clean_after_another();
        for (op, action) in [
            ("rename", "KILL"),
            ("rename", "EIO"),
            ("sync", "KILL"),
            ("sync", "EIO"),
        ] {
            // The syncs are the same for both ways to rename the folders.
            if exchange && (op, action) == ("sync", "EIO") {
                continue;
            }
            for at in 1..=whole.record.count(op) {
                let at = at.to_string();
                let attempt = replacement.attempt(exchange, Some((op, &at, action)));
                let status = attempt.output.status;
                let log = stderr(&attempt.output);
                let what = format!("{op} {at} {action}, exchange {exchange}: {status} {log}");
                assert_eq!(attempt.record.count("fault"), 1, "{what}");
                assert_eq!(status.signal(), (action == "KILL").then_some(9), "{what}");
                assert!(matches!(status.code(), None | Some(0 | 1)), "{what}");
                let found = attempt.model().sha256();
                let expected = [&old, &new];
                let expected = &expected[usize::from(status.success())..];
                assert!(expected.contains(&&found), "{what}");
                let problems = log.lines().filter(|line| line.starts_with("error: "));
                assert_eq!(
                    problems.count(),
                    usize::from(status.code() == Some(1)),
                    "{what}"
                );
                attempt.assert_clean_after_another();
            }
        }
    }
}

#[test]
fn a_missing_sync_is_detected() {
    let Some(replacement) = Replacement::new() else {
        return;
    };
    for exchange in [true, false] {
        let whole = replacement.attempt(exchange, None);
        let copied = whole.record.number("sync", "/stage2.safetensors");
        let folder = whole.folder.path().canonicalize().unwrap();
        let renamed = whole.record.number("sync", folder.to_str().unwrap());
        for (at, expected) in [
            (copied.as_str(), "/stage2.safetensors before it was renamed"),
            (renamed.as_str(), "was removed"),
            ("1+", "/stage1.safetensors before it was renamed"),
        ] {
            let attempt = replacement.attempt(exchange, Some(("sync", at, "SKIP")));
            assert!(attempt.output.status.success());
            let found = attempt.record.unsynced();
            let named = found.iter().any(|line| line.contains(expected));
            assert!(named, "{at}, exchange {exchange}: {found:?}");
        }
    }
}

/// Writes a case of `side`³ incompressible voxels.
fn write_noise(data: &Path, name: &str, side: usize) {
    let grid = Grid::with_spacing([side; 3], [1.0; 3]);
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as f32 - 32_768.0
    };
    let volume = Volume {
        grid,
        data: Array3::from_shape_simple_fn(grid.shape_zyx(), &mut next),
    };
    let file = |folder: &str| data.join(folder).join(format!("{name}.nii.gz"));
    write_volume(&file("images"), &volume, VoxelType::I16).unwrap();
    let mut labels = LabelMap::empty(grid);
    labels.data[[0, 0, 0]] = 1;
    let header = NiftiHeader::for_grid(&grid).unwrap();
    write_labels(&file("labels"), &labels, &header).unwrap();
}

#[test]
fn a_file_above_the_size_limit_fails_only_its_case() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_noise(&data, "large", 48);
    write_noise(&data, "small", 4);
    let text = "name = \"noise\"\nimages = \"images/*.nii.gz\"\nlabels = \"labels/{case}.nii.gz\"\n[structures]\na = 1\n";
    fs::write(data.join("dataset.toml"), text).unwrap();
    let convert = ctseg(
        folder.path(),
        &["convert", "data", "--to", "nnunet", "-o", "raw"],
    );
    // In blocks of 512 bytes or of 1024, which differs between shells.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 64 && exec \"$0\" \"$@\""])
        .arg(convert.get_program())
        .args(convert.get_args())
        .current_dir(folder.path());
    let output = limited.output().unwrap();
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{} {log}", output.status);
    assert!(
        log.contains("File too large") && log.contains("ulimit -f"),
        "{log}"
    );
    let images = folder.path().join("raw/Dataset500_noise/imagesTr");
    let names: Vec<_> = images
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["small_0000.nii.gz"]);
}
