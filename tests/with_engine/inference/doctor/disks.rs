//! Disks that are full, without inodes or read-only: mounted in a separate namespace, where that is permitted.

use std::path::Path;
use std::process::Command;

use super::{Report, assert_contains, doctor};

/// Runs doctor in `folder`, with a tmpfs with these options mounted at `disk`, after the shell has run `before` there;
/// `None` if mounting is not permitted.
fn on_disk(folder: &Path, options: &str, before: &str, arguments: &[&str]) -> Option<Report> {
    std::fs::create_dir_all(folder.join("disk")).unwrap();
    let mounted = format!("mount -t tmpfs -o {options} none disk || exit 9");
    let may = Command::new("unshare")
        .current_dir(folder)
        .args(["-m", "sh", "-c", &mounted])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!("skipped: file systems cannot be mounted here");
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
    Some(Report::run(&mut command))
}

#[test]
fn a_full_disk_is_a_fault_that_names_its_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "head -c 100000 /dev/zero >fill";
    let runs = ["--runs", "disk/runs"];
    if let Some(report) = on_disk(folder.path(), "size=64k", fill, &runs) {
        let text = report.only("disk, runs", "fault");
        assert_contains(
            &text,
            &[
                "disk/runs (to be created in ",
                " on tmpfs none at ",
                ": disk full",
            ],
        );
        assert_contains(
            &text,
            &["free some space, or use another folder (--runs or CTSEG_RUNS)"],
        );
        report.assert_faults(&["disk, runs"]);
    }
    // Empty but too small.
    if let Some(report) = on_disk(folder.path(), "size=200k", "true", &runs) {
        assert_contains(
            &report.only("disk, runs", "fault"),
            &["nearly full, ", " kB free"],
        );
    }
    if let Some(report) = on_disk(folder.path(), "size=500m", "true", &runs) {
        assert_contains(
            &report.only("disk, runs", "warning"),
            &["almost full, ", " MB free"],
        );
        report.assert_faults(&[]);
    }
}

#[test]
fn a_disk_without_inodes_is_distinguished_from_a_full_one() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "for file in 1 2 3 4 5; do : >$file; done";
    let arguments = ["--runs", "disk"];
    if let Some(report) = on_disk(folder.path(), "size=2g,nr_inodes=4", fill, &arguments) {
        let text = report.only("disk, runs", "fault");
        assert_contains(
            &text,
            &["no inodes left", "2.1 GB free", "remove many small files"],
        );
    }
}

#[test]
fn a_read_only_disk_is_accepted_for_models_but_not_for_runs() {
    let folder = tempfile::tempdir().unwrap();
    let read_only = "mkdir model && mount -o remount,ro .";
    let arguments = ["--runs", "disk/runs", "--model", "disk/model"];
    if let Some(report) = on_disk(folder.path(), "size=2g", read_only, &arguments) {
        let text = report.only("disk, runs", "fault");
        assert_contains(
            &text,
            &[
                "tmpfs none at ",
                ", read-only: read-only file system",
                "mount it read-write",
            ],
        );
        assert_contains(&report.only("disk, model", "note"), &["read-only"]);
        report.assert_faults(&["disk, runs"]);
    }
}

#[test]
fn a_file_in_place_of_a_folder_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("runs"), "").unwrap();
    let report = Report::run(&mut doctor(folder.path(), &["--quick", "--device", "flex"]));
    assert_contains(
        &report.only("disk, runs", "fault"),
        &["not a folder", "--runs"],
    );
}

#[test]
fn doctor_removes_the_files_that_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = doctor(folder.path(), &["--quick", "--device", "flex"]);
    let report = Report::run(command.env("TMPDIR", temporary.path()));
    for (place, shown) in [
        ("runs", "runs (to be created in "),
        ("model", "."),
        ("working folder", "."),
        ("temporary", temporary.path().to_str().unwrap()),
    ] {
        let found = report.all(&format!("disk, {place}"))[0];
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
