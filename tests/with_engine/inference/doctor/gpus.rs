//! GPUs in simulated machines, as seen by libtorch with CUDA 13.0 and by libtorch for CPUs.

use std::fs;
use std::os::unix::fs::symlink;

use ctseg::doctor::gpu::{Facts, Seen, finding};
use ctseg::doctor::libtorch::LibTorch;
use ctseg::doctor::{Finding, State};
use ctseg_base::limits::host::Host;

use super::machines::Machine;
use super::{Report, assert_contains, doctor};

const CARD: &str = "/sys/bus/pci/devices/0000:3b:00.0";

fn seen(gpus: usize) -> Option<Seen> {
    Some(Seen {
        gpus,
        libtorch: LibTorch {
            folder: "/opt/torch/lib".into(),
            version: Some("2.11.0+cu130".to_owned()),
            cuda: Some((13, Some(0))),
        },
        problem: None,
    })
}

/// A machine with one H100 and this driver, if any.
fn machine(driver: Option<&str>) -> Machine {
    let machine = Machine::large();
    machine.write(&format!("{CARD}/vendor"), "0x10de\n");
    machine.write(&format!("{CARD}/class"), "0x030200\n");
    // The audio device of the card is not a GPU.
    machine.write("/sys/bus/pci/devices/0000:3b:00.1/vendor", "0x10de\n");
    machine.write("/sys/bus/pci/devices/0000:3b:00.1/class", "0x040300\n");
    if let Some(driver) = driver {
        let text = format!(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu Oct 19 22:32:41 UTC 2023\n\
             GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
        );
        machine.write("/proc/driver/nvidia/version", &text);
        let information = "Model: \t\t NVIDIA H100 PCIe\nIRQ:   \t\t 120\n";
        machine.write(
            "/proc/driver/nvidia/gpus/0000:3b:00.0/information",
            information,
        );
        for node in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
            machine.write(&format!("/dev/{node}"), "");
        }
        machine.write("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "");
    }
    machine
}

fn gpu_finding(
    machine: &Machine,
    variables: &[(&str, &str)],
    seen: Option<Seen>,
    asked: bool,
) -> Finding {
    let host = Host::with_root(machine.root.path()).with_variables(variables);
    finding(&Facts::of(&host), seen.as_ref(), asked)
}

/// A warning by default, a fault if a GPU is requested; finding and advice in one text.
fn problem(machine: &Machine, variables: &[(&str, &str)], seen: Option<Seen>) -> String {
    let fault = gpu_finding(machine, variables, seen.clone(), true);
    assert_eq!(fault.state, State::Fault, "{fault:?}");
    let warning = gpu_finding(machine, variables, seen, false);
    assert_eq!(warning.state, State::Warning, "{warning:?}");
    assert_eq!(warning.found, fault.found);
    format!("{}\n{}", fault.found, fault.advice.unwrap())
}

#[test]
fn a_working_gpu_is_reported() {
    let machine = machine(Some("580.65.06"));
    let found = gpu_finding(&machine, &[], seen(1), true);
    assert_eq!(found.state, State::Ok);
    assert_contains(
        &found.found,
        &["1 × NVIDIA H100 PCIe, driver 580.65.06, CUDA 13.0; libtorch sees 1"],
    );
    // An older driver with NVIDIA's compatibility package.
    let machine = self::machine(Some("535.129.03"));
    assert_eq!(gpu_finding(&machine, &[], seen(1), true).state, State::Ok);
}

#[test]
fn drivers_that_are_too_old_are_reported_with_the_required_version() {
    for old in ["470.82.01", "535.129.03", "575.57.08"] {
        let text = problem(&machine(Some(old)), &[], seen(0));
        assert_contains(
            &text,
            &[
                &format!("driver {old}: too old"),
                "CUDA 13.0, which needs 580 or later",
            ],
        );
        assert_contains(&text, &["update the driver", "CUDA 12 needs 525"]);
    }
    // New enough for CUDA 12.
    let mut twelve = seen(1).unwrap();
    twelve.libtorch.cuda = Some((12, Some(8)));
    let found = gpu_finding(
        &machine(Some("535.129.03")),
        &[],
        Some(twelve.clone()),
        true,
    );
    assert_eq!(found.state, State::Ok);
    twelve.gpus = 0;
    let text = problem(&machine(Some("470.82.01")), &[], Some(twelve));
    assert_contains(&text, &["needs 525 or later"]);
    let open = machine(None);
    let line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U22)\n";
    open.write("/proc/driver/nvidia/version", line);
    assert_contains(
        &problem(&open, &[], seen(0)),
        &["driver 570.86.15: too old"],
    );
}

#[test]
fn a_card_without_nvidias_driver_is_reported() {
    assert_contains(
        &problem(&machine(None), &[], seen(0)),
        &[
            "1 NVIDIA GPU, without NVIDIA's driver",
            "driver 580 or later",
        ],
    );
    for (name, expected) in [
        ("nouveau", "restart the machine"),
        ("vfio-pci", "virtual machine"),
    ] {
        let machine = machine(None);
        let drivers = machine.path("/sys/bus/pci/drivers").join(name);
        fs::create_dir_all(&drivers).unwrap();
        symlink(&drivers, machine.path(&format!("{CARD}/driver"))).unwrap();
        assert_contains(
            &problem(&machine, &[], seen(0)),
            &[&format!("'{name}'"), expected],
        );
    }
}

#[test]
fn containers_without_a_gpu_get_advice_for_their_runtime() {
    let bare = machine(Some("580.65.06"));
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
        fs::remove_file(bare.path(&format!("/dev/{node}"))).unwrap();
    }
    let none = "no accessible /dev/nvidia0";
    assert_contains(
        &problem(&bare, &[], seen(0)),
        &[none, "nvidia-modprobe", "--gpus all"],
    );
    let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    assert_contains(&problem(&bare, &pod, seen(0)), &[none, "nvidia.com/gpu: 1"]);
    let apptainer = [("APPTAINER_CONTAINER", "/data/ctseg.sif")];
    assert_contains(&problem(&bare, &apptainer, seen(0)), &[none, "--nv"]);
    let job = [("SLURM_JOB_ID", "7")];
    assert_contains(&problem(&bare, &job, seen(0)), &[none, "--gres=gpu:1"]);
    bare.write("/.dockerenv", "");
    assert_contains(&problem(&bare, &[], seen(0)), &[none, "--gpus all"]);
}

#[test]
fn hidden_gpus_missing_libraries_and_cpu_builds_are_distinguished() {
    let machine = machine(Some("580.65.06"));
    for hidden in ["", "-1", "NoDevFiles"] {
        let text = problem(&machine, &[("CUDA_VISIBLE_DEVICES", hidden)], seen(0));
        assert_contains(
            &text,
            &[&format!("CUDA_VISIBLE_DEVICES='{hidden}'"), "unset"],
        );
    }
    let job = [("CUDA_VISIBLE_DEVICES", ""), ("SLURM_JOB_ID", "7")];
    assert_contains(&problem(&machine, &job, seen(0)), &["--gres=gpu:1"]);
    let mut cpu = seen(0).unwrap();
    cpu.libtorch.cuda = None;
    assert_contains(
        &problem(&machine, &[], Some(cpu)),
        &["built for CPUs only", "setup-libtorch.sh"],
    );
    let mut broken = seen(0).unwrap();
    broken.problem = Some("libcudnn.so.9: cannot open shared object file".to_owned());
    assert_contains(
        &problem(&machine, &[], Some(broken)),
        &["cannot be loaded: libcudnn.so.9", "setup-libtorch.sh"],
    );
    assert_contains(
        &problem(&machine, &[], seen(0)),
        &["libtorch sees none", "nvidia-smi", "libcuda.so.1"],
    );
    fs::remove_file(machine.path("/usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    assert_contains(
        &problem(&machine, &[], seen(0)),
        &["libcuda.so.1 was not found", "LD_LIBRARY_PATH"],
    );
    machine.write("/opt/nvidia/libcuda.so.1", "");
    let named = [("LD_LIBRARY_PATH", "relative:/opt/nvidia")];
    assert_contains(
        &problem(&machine, &named, seen(0)),
        &["/opt/nvidia/libcuda.so.1 must be"],
    );
}

#[test]
fn a_build_without_libtorch_notes_that_it_does_not_use_gpus() {
    let machine = machine(Some("470.82.01"));
    let found = gpu_finding(&machine, &[], None, false);
    assert_eq!(found.state, State::Note, "{found:?}");
    assert_contains(
        &found.found,
        &["1 × NVIDIA H100 PCIe, driver 470.82.01", "no libtorch"],
    );
    assert_contains(found.advice.as_ref().unwrap(), &["--features libtorch"]);
    let none = Machine::large();
    assert_eq!(gpu_finding(&none, &[], seen(0), false).state, State::Ok);
    let asked = gpu_finding(&none, &[], seen(0), true);
    assert_eq!(asked.state, State::Fault);
    assert_contains(&asked.found, &["no NVIDIA GPU in this machine"]);
}

#[test]
#[cfg(not(feature = "libtorch"))]
fn doctor_explains_how_to_build_a_missing_engine() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::large();
    for device in ["libtorch", "libtorch:cuda:0"] {
        for quick in [&["--quick"][..], &[]] {
            let mut command = doctor(folder.path(), &["--device", device]);
            command
                .args(quick)
                .env("CTSEG_DOCTOR_ROOT", machine.root.path());
            let report = Report::run(&mut command);
            let text = report.only(&format!("engine {device}"), "fault");
            assert_contains(
                &text,
                &[
                    "not in this build",
                    "scripts/setup-libtorch.sh",
                    "--device auto",
                ],
            );
            assert_eq!(report.code, 1);
        }
    }
}

#[test]
fn the_engines_of_this_build_compute_correctly() {
    let folder = tempfile::tempdir().unwrap();
    let report = Report::run(&mut doctor(folder.path(), &[]));
    assert_contains(
        &report.only("engine flex", "ok"),
        &["f32, self-test passed in"],
    );
    assert_contains(&report.only("engines", "ok"), &["flex"]);
    if cfg!(feature = "libtorch") {
        assert_contains(&report.only("engines", "ok"), &["libtorch 2.11.0", "/lib"]);
        assert_contains(
            &report.only("engine libtorch", "ok"),
            &["self-test passed in"],
        );
    }
    let refused = Report::run(&mut doctor(
        folder.path(),
        &["--device", "flex", "--precision", "bf16"],
    ));
    assert_contains(
        &refused.only("engine flex", "fault"),
        &["--precision bf16", "use auto"],
    );
}
