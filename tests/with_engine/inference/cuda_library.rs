//! libtorch's CUDA library is loaded only if NVIDIA's driver exists.
// Only with lld, Rust's default linker on this platform: others link libtorch.so, which loads this library.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::ctseg;
use ctseg_engine::libtorch::{cuda_devices, cuda_is_loaded};

/// `folder` followed by the current `LD_LIBRARY_PATH`, which may be needed to find the driver.
fn before_others(folder: &Path) -> std::ffi::OsString {
    let mut folders = folder.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.push(":");
        folders.push(others);
    }
    folders
}

/// The libraries loaded by the dynamic linker at program start, with `folder` first in the search path.
fn loaded_at_start(folder: &Path) -> String {
    let output = ctseg(folder, &["--version"])
        .env("LD_LIBRARY_PATH", before_others(folder))
        .env("LD_DEBUG", "files")
        .output()
        .unwrap();
    assert!(output.status.success());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("libtorch_cpu.so"), "{log}");
    log
}

/// Writes an empty library with the name of NVIDIA's driver.
fn driver(folder: &Path) {
    let made = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(folder.join("libcuda.so.1"))
        .status()
        .unwrap();
    assert!(made.success());
}

fn has_driver() -> bool {
    // SAFETY: the name ends in 0; the program itself loads the driver if it exists.
    unsafe { !libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY).is_null() }
}

/// Loads the CUDA library; false if this libtorch is built for CPUs only.
fn load_cuda_library() -> bool {
    let flags = libc::RTLD_NOW | libc::RTLD_GLOBAL;
    // SAFETY: the name ends in 0; the library's initialisers are the same as when the linker loads it.
    let library = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), flags) };
    if library.is_null() {
        println!("skipped: this libtorch is built for CPUs only");
    }
    !library.is_null()
}

#[test]
fn libtorch_cuda_is_loaded_only_if_the_driver_exists() {
    if !load_cuda_library() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let without = loaded_at_start(folder.path());
    assert_eq!(without.contains("libtorch_cuda.so"), has_driver());

    driver(folder.path());
    let with = loaded_at_start(folder.path());
    let by = with
        .lines()
        .find(|line| line.contains("file=libtorch_cuda.so"));
    assert!(
        by.is_some_and(|line| line.contains("dynamically loaded by")),
        "{by:?}"
    );
}

fn stdout_and_stderr(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn libraries_that_cannot_be_loaded_are_errors_without_a_cpu_fallback() {
    if !load_cuda_library() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A driver, and a broken library that precedes the valid one in the search path.
    driver(folder.path());
    std::fs::write(folder.path().join("libtorch_cuda.so"), "torn").unwrap();
    let run = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        let mut command = ctseg(folder.path(), &arguments);
        command.env("LD_LIBRARY_PATH", before_others(folder.path()));
        command.env_remove("CUDA_VISIBLE_DEVICES");
        command
    };
    for line in [
        "bench --device auto",
        "bench --device libtorch:cuda:0",
        "fit --stage 1 --gpus 2",
        "fit --stage 1 --gpus 2 --device libtorch:cuda",
    ] {
        let output = run(line).output().unwrap();
        let log = stdout_and_stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {log}");
        let parts = [
            "cannot be loaded",
            "libtorch_cuda.so",
            "--device libtorch for the CPU",
        ];
        assert!(parts.iter().all(|part| log.contains(part)), "{line}: {log}");
    }
    // One of several processes.
    let place = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")];
    let output = run("fit --stage 1").envs(place).output().unwrap();
    assert!(
        stdout_and_stderr(&output).contains("cannot be loaded"),
        "{}",
        stdout_and_stderr(&output)
    );
    // `ctseg doctor` agrees with the other commands.
    for (line, code) in [
        ("doctor --quick", 1),
        ("doctor --quick --device libtorch", 0),
    ] {
        let output = run(line).output().unwrap();
        let log = stdout_and_stderr(&output);
        assert!(log.contains("cannot be loaded"), "{log}");
        assert_eq!(output.status.code(), Some(code), "{line}: {log}");
    }
    // With hidden GPUs the library is not needed.
    let mut hidden =
        run("bench --seconds 0.01 --network unet2d --widths 4,8 --size 16,16 --batch 1");
    let output = hidden.env("CUDA_VISIBLE_DEVICES", "-1").output().unwrap();
    assert!(output.status.success(), "{}", stdout_and_stderr(&output));
}

/// Its kernels and hooks are registered as in a program linked with it.
#[test]
fn libtorch_cuda_loaded_at_run_time_registers_its_kernels() {
    if !load_cuda_library() {
        return;
    }
    assert!(cuda_is_loaded());
    assert!(has_driver() || cuda_devices() == 0);
}
