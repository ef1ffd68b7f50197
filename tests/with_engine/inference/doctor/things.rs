//! Settings, models and datasets that are wrong, and what people see.

use std::fs;

use super::common::{self, random_model};
use super::machines::Machine;
use super::{Said, doctor, says};

#[test]
fn a_settings_file_that_is_wrong_stops_no_other_check() {
    let folder = tempfile::tempdir().unwrap();
    let of = |text: &str| {
        fs::write(folder.path().join("ctseg.toml"), text).unwrap();
        Said::by(&mut doctor(folder.path(), &["--quick"]))
    };
    let said = of("modle = \"m\"\n");
    says(
        &said.only("settings", "fault"),
        &["ctseg.toml", "modle", "expected one of"],
    );
    said.only("cores", said.all("cores")[0]["state"].as_str().unwrap());
    said.wrong_only(&["settings"]);
    says(
        &of("device = \"gpu\"\n").all("settings")[1]["found"].to_string(),
        &["'gpu' is not a device"],
    );
    let said = of("runs = \"elsewhere\"\n");
    says(&said.only("settings", "ok"), &["ctseg.toml"]);
    says(
        &said.all("disk, runs")[0]["found"].to_string(),
        &["elsewhere (to be created in "],
    );
    let mut command = doctor(folder.path(), &["--quick"]);
    let missing = Said::by(command.env("CTSEG_CONFIG", "no-such.toml"));
    says(
        &missing.only("settings", "fault"),
        &["no-such.toml", "CTSEG_CONFIG"],
    );
}

#[test]
fn variables_that_nobody_reads_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = doctor(folder.path(), &["--quick"]);
    command
        .env("CTSEG_DEVCIE", "flex")
        .env("CTSEG_RUNS", "here");
    let said = Said::by(&mut command);
    let found = said.all("variables");
    assert_eq!(found[0]["found"], "CTSEG_RUNS");
    says(
        &found[1].to_string(),
        &[
            "warning",
            "CTSEG_DEVCIE is set",
            "did you mean CTSEG_DEVICE?",
        ],
    );
    assert_eq!((found.len(), said.code), (2, 0));
}

#[test]
fn models_are_opened_and_compared_with_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let look = |arguments: &[&str]| {
        let mut command = doctor(folder.path(), &["--device", "flex"]);
        command.args(arguments);
        Said::by(&mut command)
    };
    says(
        &look(&[]).only("model", "note"),
        &["none at model", "ctseg fit", "--model"],
    );
    random_model(&model, &[]);
    let said = look(&[]);
    says(
        &said.only("model", "ok"),
        &["model: complete, 2 structures, SHA-256 "],
    );
    let needed = said.all("model")[0]["facts"]["needed_bytes"]
        .as_u64()
        .unwrap();
    assert!((1 << 29..16 << 30).contains(&needed), "{needed}");
    let small = Machine::large();
    small.write("/sys/fs/cgroup/memory.max", &format!("{}\n", needed - 1));
    let mut command = doctor(folder.path(), &["--device", "flex"]);
    let told = Said::by(command.env("CTSEG_DOCTOR_ROOT", small.root.path()));
    says(
        &told.only("memory", "warning"),
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
    let said = look(&[]);
    says(
        &said.only("model", "fault"),
        &["stage2.safetensors", "damaged", "--model"],
    );
    said.wrong_only(&["model"]);
    // Checksums are not for every five minutes.
    look(&["--quick"]).only("model", "ok");
}

#[test]
fn datasets_that_are_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let look = |data: &str, arguments: &[&str]| {
        let mut command = doctor(folder.path(), &["--device", "flex", "--data", data]);
        command.args(arguments);
        Said::by(&mut command)
    };
    for quick in [&["--quick"][..], &[]] {
        let said = look("no-such-folder", quick);
        says(
            &said.only("dataset", "fault"),
            &["no-such-folder does not exist", "CTSEG_DATA"],
        );
        said.wrong_only(&["dataset"]);
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    says(&look("empty", &[]).only("dataset", "fault"), &["empty"]);
    common::phantoms(&folder.path().join("phantoms"), 2, 1);
    says(
        &look("phantoms", &[]).only("dataset", "ok"),
        &["phantoms: 3 cases, "],
    );
}

#[test]
fn people_see_columns_with_what_to_do_below() {
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
    says(lines[at], &["dataset", "nowhere does not exist"]);
    assert_eq!(lines[at + 1].find('→'), lines[at].find("nowhere"));
    assert!(lines.last().unwrap().starts_with("1 fault"), "{text}");
}
