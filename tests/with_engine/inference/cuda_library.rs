//! libtorch's CUDA half is loaded where NVIDIA's driver is, and nowhere else.
// Linkers other than lld, which Rust takes here alone, bind libtorch.so and with it this library.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::ctseg;
use ctseg_engine::libtorch::{cuda_devices, cuda_is_loaded};

/// `folder`, and then where libraries are looked for anyway: the driver may be found by that.
fn before_others(folder: &Path) -> std::ffi::OsString {
    let mut folders = folder.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        folders.push(":");
        folders.push(others);
    }
    folders
}

/// What the dynamic linker loads at a start of the program, with `folder` in the places that it looks in first.
fn loaded_at_start(folder: &Path) -> String {
    let output = ctseg(folder, &["--version"])
        .env("LD_LIBRARY_PATH", before_others(folder))
        .env("LD_DEBUG", "files")
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("libtorch_cpu.so"), "{said}");
    said
}

/// Puts an empty library there, by the name of NVIDIA's driver.
fn driver(folder: &Path) {
    let made = Command::new("cc")
        .args(["-shared", "-x", "c", "/dev/null", "-o"])
        .arg(folder.join("libcuda.so.1"))
        .status()
        .unwrap();
    assert!(made.success());
}

fn has_driver() -> bool {
    // SAFETY: the name ends in 0; a driver that is there is loaded by the program anyway.
    unsafe { !libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_LAZY).is_null() }
}

/// Loads it, unless this libtorch is built for CPUs alone.
fn is_there() -> bool {
    let flags = libc::RTLD_NOW | libc::RTLD_GLOBAL;
    // SAFETY: the name ends in 0; what the library does when it is loaded it also does when the linker loads it.
    let library = unsafe { libc::dlopen(c"libtorch_cuda.so".as_ptr(), flags) };
    if library.is_null() {
        println!("left out: this libtorch is built for CPUs alone");
    }
    !library.is_null()
}

#[test]
fn it_is_loaded_where_the_driver_is_and_nowhere_else() {
    if !is_there() {
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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn libraries_that_cannot_be_loaded_are_said_and_no_cpu_steps_in() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A driver, and a broken library before the whole one.
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
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        let parts = [
            "cannot be loaded",
            "libtorch_cuda.so",
            "--device libtorch for the CPU",
        ];
        assert!(
            parts.iter().all(|part| said.contains(part)),
            "{line}: {said}"
        );
    }
    // One of several processes.
    let place = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")];
    let output = run("fit --stage 1").envs(place).output().unwrap();
    assert!(
        said(&output).contains("cannot be loaded"),
        "{}",
        said(&output)
    );
    // The doctor's verdict is that of the commands.
    for (line, code) in [
        ("doctor --quick", 1),
        ("doctor --quick --device libtorch", 0),
    ] {
        let output = run(line).output().unwrap();
        let said = said(&output);
        assert!(said.contains("cannot be loaded"), "{said}");
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    }
    // Hidden, GPUs are none of its business.
    let mut hidden =
        run("bench --seconds 0.01 --network unet2d --widths 4,8 --size 16,16 --batch 1");
    let output = hidden.env("CUDA_VISIBLE_DEVICES", "-1").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// Its kernels and hooks are then those of a program that it is bound to.
#[test]
fn loaded_late_it_is_registered_as_if_bound() {
    if !is_there() {
        return;
    }
    assert!(cuda_is_loaded());
    assert!(has_driver() || cuda_devices() == 0);
}
