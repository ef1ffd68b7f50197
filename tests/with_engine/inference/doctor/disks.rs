//! Disks that are full, without inodes or read-only: made in a mount namespace of their own, where that is allowed.

use std::path::Path;
use std::process::Command;

use super::{Said, doctor, says};

/// What a doctor says in `folder`, where a memory disk with these options is mounted at `disk`, after the shell has done
/// `before` there; none where mounting is not allowed.
fn on_disk(folder: &Path, options: &str, before: &str, arguments: &[&str]) -> Option<Said> {
    std::fs::create_dir_all(folder.join("disk")).unwrap();
    let mounted = format!("mount -t tmpfs -o {options} none disk || exit 9");
    let may = Command::new("unshare")
        .current_dir(folder)
        .args(["-m", "sh", "-c", &mounted])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("left out: file systems cannot be mounted here");
        return None;
    }
    let inner = doctor(folder, &["--quick", "--device", "flex"]);
    let mut command = Command::new("unshare");
    let script = format!("{mounted}; (cd disk && {before}) >/dev/null 2>&1; exec \"$@\"");
    command
        .current_dir(folder)
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .args(arguments);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Some(Said::by(&mut command))
}

#[test]
fn a_full_disk_is_a_fault_that_names_its_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "head -c 100000 /dev/zero >fill";
    let runs = ["--runs", "disk/runs"];
    if let Some(said) = on_disk(folder.path(), "size=64k", fill, &runs) {
        let text = said.only("disk, runs", "fault");
        says(
            &text,
            &[
                "disk/runs (to be created in ",
                " on tmpfs none at ",
                ": disk full",
            ],
        );
        says(
            &text,
            &["free some space, or use another folder (--runs or CTSEG_RUNS)"],
        );
        said.wrong_only(&["disk, runs"]);
    }
    // Empty, and too small for anything.
    if let Some(said) = on_disk(folder.path(), "size=200k", "true", &runs) {
        says(
            &said.only("disk, runs", "fault"),
            &["nearly full, ", " kB free"],
        );
    }
    if let Some(said) = on_disk(folder.path(), "size=500m", "true", &runs) {
        says(
            &said.only("disk, runs", "warning"),
            &["almost full, ", " MB free"],
        );
        said.wrong_only(&[]);
    }
}

#[test]
fn a_disk_without_inodes_is_told_from_a_full_one() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "for file in 1 2 3 4 5; do : >$file; done";
    let arguments = ["--runs", "disk"];
    if let Some(said) = on_disk(folder.path(), "size=2g,nr_inodes=4", fill, &arguments) {
        let text = said.only("disk, runs", "fault");
        says(
            &text,
            &["no inodes left", "2.1 GB free", "remove many small files"],
        );
    }
}

#[test]
fn a_disk_for_reading_will_do_for_models_and_not_for_runs() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = "mkdir model && mount -o remount,ro .";
    let arguments = ["--runs", "disk/runs", "--model", "disk/model"];
    if let Some(said) = on_disk(folder.path(), "size=2g", read_only, &arguments) {
        let text = said.only("disk, runs", "fault");
        says(
            &text,
            &[
                "tmpfs none at ",
                ", read-only: read-only file system",
                "mount it read-write",
            ],
        );
        says(&said.only("disk, model", "note"), &["read-only"]);
        said.wrong_only(&["disk, runs"]);
    }
}

#[test]
fn a_file_in_the_place_of_a_folder_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("runs"), "").unwrap();
    let said = Said::by(&mut doctor(folder.path(), &["--quick", "--device", "flex"]));
    says(
        &said.only("disk, runs", "fault"),
        &["not a folder", "--runs"],
    );
}

#[test]
fn what_the_doctor_writes_it_removes() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = doctor(folder.path(), &["--quick", "--device", "flex"]);
    let said = Said::by(command.env("TMPDIR", temporary.path()));
    for (place, shown) in [
        ("runs", "runs (to be created in "),
        ("model", "."),
        ("working folder", "."),
        ("temporary", temporary.path().to_str().unwrap()),
    ] {
        let found = said.all(&format!("disk, {place}"))[0];
        assert_eq!(found["facts"]["is_writable"], true, "{found:#}");
        assert!(
            found["found"].as_str().unwrap().starts_with(shown),
            "{found:#}"
        );
    }
    for folder in [&folder, &temporary] {
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
