//! Wrong settings, models and datasets, and the table in the terminal.

use std::fs;

use super::common::{self, random_model};
use super::machines::Machine;
use super::{Report, assert_contains, doctor};

#[test]
fn a_wrong_settings_file_does_not_stop_other_checks() {
    let folder = tempfile::tempdir().unwrap();
    let of = |text: &str| {
        fs::write(folder.path().join("ctseg.toml"), text).unwrap();
        Report::run(&mut doctor(folder.path(), &["--quick"]))
    };
    let report = of("modle = \"m\"\n");
    assert_contains(
        &report.only("settings", "fault"),
        &["ctseg.toml", "modle", "expected one of"],
    );
    report.only("cores", report.all("cores")[0]["state"].as_str().unwrap());
    report.assert_faults(&["settings"]);
    assert_contains(
        &of("device = \"gpu\"\n").all("settings")[1]["found"].to_string(),
        &["'gpu' is not a device"],
    );
    let report = of("runs = \"elsewhere\"\n");
    assert_contains(&report.only("settings", "ok"), &["ctseg.toml"]);
    assert_contains(
        &report.all("disk, runs")[0]["found"].to_string(),
        &["elsewhere (to be created in "],
    );
    let mut command = doctor(folder.path(), &["--quick"]);
    let missing = Report::run(command.env("CTSEG_CONFIG", "no-such.toml"));
    assert_contains(
        &missing.only("settings", "fault"),
        &["no-such.toml", "CTSEG_CONFIG"],
    );
}

#[test]
fn unknown_variables_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = doctor(folder.path(), &["--quick"]);
    command
        .env("CTSEG_DEVCIE", "flex")
        .env("CTSEG_RUNS", "here");
    let report = Report::run(&mut command);
    let found = report.all("variables");
    assert_eq!(found[0]["found"], "CTSEG_RUNS");
    assert_contains(
        &found[1].to_string(),
        &[
            "warning",
            "CTSEG_DEVCIE is set",
            "did you mean CTSEG_DEVICE?",
        ],
    );
    assert_eq!((found.len(), report.code), (2, 0));
}

#[test]
fn models_are_opened_and_compared_with_available_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let check = |arguments: &[&str]| {
        let mut command = doctor(folder.path(), &["--device", "flex"]);
        command.args(arguments);
        Report::run(&mut command)
    };
    assert_contains(
        &check(&[]).only("model", "note"),
        &["none at model", "ctseg fit", "--model"],
    );
    random_model(&model, &[]);
    let report = check(&[]);
    assert_contains(
        &report.only("model", "ok"),
        &["model: complete, 2 structures, SHA-256 "],
    );
    let needed = report.all("model")[0]["facts"]["needed_bytes"]
        .as_u64()
        .unwrap();
    assert!((1 << 29..16 << 30).contains(&needed), "{needed}");
    let small = Machine::large();
    small.write("/sys/fs/cgroup/memory.max", &format!("{}\n", needed - 1));
    let mut command = doctor(folder.path(), &["--device", "flex"]);
    let report = Report::run(command.env("CTSEG_DOCTOR_ROOT", small.root.path()));
    assert_contains(
        &report.only("memory", "warning"),
        &[
            "the model needs about",
            "512 × 512 × 400 voxels",
            "--max-ram",
        ],
    );
    let weights = model.join("stage2.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    let report = check(&[]);
    assert_contains(
        &report.only("model", "fault"),
        &["stage2.safetensors", "damaged", "--model"],
    );
    report.assert_faults(&["model"]);
    // Quick checks do not verify checksums.
    check(&["--quick"]).only("model", "ok");
}

#[test]
fn configured_datasets_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let check = |data: &str, arguments: &[&str]| {
        let mut command = doctor(folder.path(), &["--device", "flex", "--data", data]);
        command.args(arguments);
        Report::run(&mut command)
    };
    for quick in [&["--quick"][..], &[]] {
        let report = check("no-such-folder", quick);
        assert_contains(
            &report.only("dataset", "fault"),
            &["no-such-folder does not exist", "CTSEG_DATA"],
        );
        report.assert_faults(&["dataset"]);
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert_contains(&check("empty", &[]).only("dataset", "fault"), &["empty"]);
    common::phantoms(&folder.path().join("phantoms"), 2, 1);
    assert_contains(
        &check("phantoms", &[]).only("dataset", "ok"),
        &["phantoms: 3 cases, "],
    );
}

#[test]
fn the_table_has_columns_with_advice_below() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = common::ctseg(folder.path(), &["doctor", "--quick", "--data", "nowhere"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("fault "))
        .unwrap();
    assert_contains(lines[at], &["dataset", "nowhere does not exist"]);
    assert_eq!(lines[at + 1].find('→'), lines[at].find("nowhere"));
    assert!(lines.last().unwrap().starts_with("1 fault"), "{text}");
}
