//! Few threads, or none: the limit of processes (`ulimit -u`) holds for users other than root, who can be played by root.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::batches::{batch, files};
use crate::common::run;

/// A user who has no other processes.
const USER: &str = "64998";

/// Whether this is root, with what it takes to be somebody else.
fn can_be_another() -> bool {
    let root = Command::new("id").arg("-u").output();
    let root = root.is_ok_and(|output| output.stdout == b"0\n");
    root && Command::new("setpriv").arg("--version").output().is_ok()
}

/// `ctseg predict` of a user that may have so many processes and threads; 124 where it takes longer than a minute.
fn limited(folder: &Path, limit: u32, arguments: &str) -> Output {
    let shell = format!("ulimit -u {limit}; exec timeout -k 5 60 ./ctseg {arguments}");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .args(["bash", "-c", &shell])
        .current_dir(folder);
    command.output().unwrap()
}

#[test]
fn commands_end_in_order_with_few_threads_or_none() {
    if !can_be_another() {
        println!("left out: needs root and setpriv");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    batch(folder.path(), 3);
    std::fs::copy(env!("CARGO_BIN_EXE_ctseg"), at("ctseg")).unwrap();
    let open = Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(folder.path())
        .status();
    assert!(open.unwrap().success());
    let _ = run(
        folder.path(),
        &["predict", "images", "-o", "plenty", "--device", "flex"],
        0,
    );
    let mut whole = 0;
    // `timeout` is one of them, ctseg's own thread another.
    for limit in [2, 3, 4, 5, 7, 12] {
        let out = format!("out{limit}");
        let arguments = format!("predict images -o {out} --device flex");
        let output = limited(folder.path(), limit, &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{limit}: {said}");
        match output.status.code() {
            Some(0) => {
                whole += 1;
                let maps = files(&at(&out), ".nii.gz");
                assert_eq!(maps.len(), 3);
                for name in maps {
                    let [a, b] = [out.as_str(), "plenty"]
                        .map(|of| std::fs::read(at(of).join(&name)).unwrap());
                    assert!(a == b, "{name} with {limit} processes");
                }
            }
            Some(1) => assert!(said.contains("cannot start a thread"), "{limit}: {said}"),
            code => panic!("{limit}: exit code {code:?}: {said}"),
        }
    }
    // One thread to compute with is enough.
    assert!(whole >= 4, "{whole}");
    let fit = limited(folder.path(), 2, "fit --stage 1 --epochs 1");
    let said = String::from_utf8_lossy(&fit.stderr).into_owned();
    assert_eq!(fit.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cannot start a thread") && !said.contains("panicked"),
        "{said}"
    );
}
