//! The job scripts of scripts/slurm on a test cluster: killed, interrupted, preempted, cancelled, in a chain.

use std::process::Command;

/// Takes minutes and runs four Slurm nodes on this machine; runs only on request.
#[test]
fn job_scripts_lose_nothing_and_do_nothing_twice() {
    if std::env::var_os("CTSEG_TEST_SLURM").is_none() {
        println!("skipped: CTSEG_TEST_SLURM is not set");
        return;
    }
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/slurm");
    let installed = Command::new(format!("{scripts}/testbed.sh"))
        .arg("installed")
        .status()
        .unwrap();
    if !installed.success() {
        println!("skipped: no Slurm here ('scripts/slurm/testbed.sh install' installs it)");
        return;
    }
    let output = Command::new(format!("{scripts}/test.sh"))
        .env("CTSEG", env!("CARGO_BIN_EXE_ctseg"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let tests = if cfg!(feature = "mpi") { 10 } else { 9 };
    let passed = format!("{tests} tests on Slurm passed");
    assert!(
        output.status.success() && printed.contains(&passed),
        "{printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
