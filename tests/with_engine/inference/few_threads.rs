//! Few or no threads: the process limit (`ulimit -u`) applies to users other than root; root can run as such a user.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::batches::{batch, files};
use crate::common::run;

/// A user without other processes.
const USER: &str = "64998";

/// Whether this is root with `setpriv`, to run as another user.
fn can_change_user() -> bool {
    let root = Command::new("id").arg("-u").output();
    let root = root.is_ok_and(|output| output.stdout == b"0\n");
    root && Command::new("setpriv").arg("--version").output().is_ok()
}

/// `ctseg` run by a user limited to `limit` processes and threads; exit code 124 after more than a minute.
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
fn commands_succeed_or_fail_cleanly_with_few_threads() {
    if !can_change_user() {
        println!("skipped: needs root and setpriv");
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
    // The limit includes `timeout` and ctseg's main thread.
    for limit in [2, 3, 4, 5, 7, 12] {
        let out = format!("out{limit}");
        let arguments = format!("predict images -o {out} --device flex");
        let output = limited(folder.path(), limit, &arguments);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!log.contains("panicked"), "{limit}: {log}");
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
            Some(1) => assert!(log.contains("cannot start a thread"), "{limit}: {log}"),
            code => panic!("{limit}: exit code {code:?}: {log}"),
        }
    }
    // One compute thread is enough.
    assert!(whole >= 4, "{whole}");
    let fit = limited(folder.path(), 2, "fit --stage 1 --epochs 1");
    let log = String::from_utf8_lossy(&fit.stderr).into_owned();
    assert_eq!(fit.status.code(), Some(1), "{log}");
    assert!(
        log.contains("cannot start a thread") && !log.contains("panicked"),
        "{log}"
    );
}
