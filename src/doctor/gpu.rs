//! NVIDIA GPUs: present, with a driver, accessible to this process, visible to libtorch.

use std::path::PathBuf;

use serde_json::json;

use super::cluster::Container;
use super::libtorch::DEFAULT_CUDA;
use super::libtorch::LibTorch;
use super::{Finding, State};
use ctseg_base::limits::host::Host;
use ctseg_base::text::words::counted;

const CHECK: &str = "GPU";

const NVIDIA: &str = "0x10de";

/// Shown for WSL, where the driver is that of Windows.
const WINDOWS_DRIVER: &str = "of Windows";

/// Folders of the driver's library, in addition to `LD_LIBRARY_PATH`.
const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/.singularity.d/libs",
];

/// Facts about the GPUs of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Cards on the PCI bus, each with its kernel driver.
    pub cards: Vec<Option<String>>,
    /// Such as `NVIDIA H100 80GB HBM3`, from the driver.
    pub models: Vec<String>,
    /// Version of the NVIDIA kernel driver.
    pub driver: Option<String>,
    /// `nvidia0`, … in `/dev`.
    pub nodes: Vec<String>,
    /// Whether one of the nodes can be opened.
    pub opens: bool,
    /// WSL has no device nodes.
    pub is_wsl: bool,
    /// The driver's user-space library.
    pub library: Option<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES`, which may be empty.
    pub visible: Option<String>,
    pub container: Option<Container>,
    pub is_slurm: bool,
}

/// GPUs as seen by libtorch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub gpus: usize,
    pub libtorch: LibTorch,
    /// Error while loading its GPU libraries.
    pub problem: Option<String>,
}

impl Facts {
    pub fn of(host: &Host) -> Self {
        let nodes = host.names("/dev").into_iter().filter(|name| {
            let number = name.strip_prefix("nvidia").unwrap_or_default();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let nodes: Vec<String> = nodes.collect();
        let opens = |name: &String| {
            let path = host.path(&format!("/dev/{name}"));
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .is_ok()
        };
        let version = host.read("/proc/driver/nvidia/version");
        Self {
            cards: cards(host),
            models: models(host),
            driver: version.and_then(|text| driver_version(&text)),
            opens: nodes.iter().any(opens),
            nodes,
            is_wsl: host.path("/dev/dxg").exists(),
            library: library(host),
            visible: host.variable_as_set("CUDA_VISIBLE_DEVICES"),
            container: Container::of(host),
            is_slurm: host.variable("SLURM_JOB_ID").is_some(),
        }
    }

    fn count(&self) -> usize {
        self.cards
            .len()
            .max(self.models.len())
            .max(self.nodes.len())
    }

    /// `2 × NVIDIA H100 80GB HBM3`
    fn named(&self) -> String {
        let count = self.count();
        match self.models.first() {
            Some(model) if self.models.iter().all(|other| other == model) => {
                format!("{count} × {model}")
            }
            Some(_) => self.models.join(", "),
            None if count == 0 && self.is_wsl => "Windows GPU (WSL)".to_owned(),
            None => counted(count, "NVIDIA GPU"),
        }
    }
}

/// NVIDIA display and 3D controllers on the PCI bus, with their kernel drivers.
fn cards(host: &Host) -> Vec<Option<String>> {
    let devices = "/sys/bus/pci/devices";
    let names = host.names(devices).into_iter().filter(|name| {
        let text = |file: &str| host.read(&format!("{devices}/{name}/{file}"));
        text("vendor").is_some_and(|vendor| vendor.trim() == NVIDIA)
            && text("class").is_some_and(|class| class.starts_with("0x03"))
    });
    let driver = |name: String| {
        let link = std::fs::read_link(host.path(&format!("{devices}/{name}/driver"))).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    };
    names.map(driver).collect()
}

fn models(host: &Host) -> Vec<String> {
    let folder = "/proc/driver/nvidia/gpus";
    let models = host.names(folder).into_iter().filter_map(|name| {
        let text = host.read(&format!("{folder}/{name}/information"))?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    });
    models.collect()
}

/// The version in the first line of `/proc/driver/nvidia/version`:
/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 …`.
fn driver_version(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        parts.len() >= 2 && parts.iter().all(is_number)
    };
    let line = text.lines().next()?;
    Some(line.split_whitespace().find(is_version)?.to_owned())
}

fn library(host: &Host) -> Option<PathBuf> {
    let named = host.variable("LD_LIBRARY_PATH").unwrap_or_default();
    let named: Vec<&str> = named
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .collect();
    let mut folders = named.iter().chain(&LIBRARY_FOLDERS);
    folders.find_map(|folder| {
        let path = host.path(&format!("{folder}/libcuda.so.1"));
        path.exists().then(|| host.shown(&path))
    })
}

/// The minimum driver version for programs built with this CUDA
/// (<https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html>).
pub fn least_driver(cuda_major: u32) -> u32 {
    match cuda_major {
        13.. => 580,
        12 => 525,
        _ => 450,
    }
}

fn is_hidden(visible: &str) -> bool {
    matches!(visible.trim(), "" | "-1" | "NoDevFiles" | "none" | "void")
}

/// The finding for these facts: `seen` by the build's libtorch, if any; `requested` if `--device` names a GPU.
pub fn finding(facts: &Facts, seen: Option<&Seen>, requested: bool) -> Finding {
    let value = json!({
        "gpus": facts.count(), "models": facts.models, "driver": facts.driver,
        "device_nodes": facts.nodes, "libtorch_sees": seen.map(|seen| seen.gpus),
        "cuda_visible_devices": facts.visible,
    });
    let state = match (requested, seen) {
        (true, _) => State::Fault,
        (false, Some(_)) => State::Warning,
        // This build would not use a GPU.
        (false, None) => State::Note,
    };
    let finding = match problem(facts, seen) {
        Some(Problem { found, advice }) => Finding::fault(CHECK, found, advice).but(state),
        None => without_problem(facts, seen, requested),
    };
    finding.with(value)
}

/// No GPU, or GPUs without a problem.
fn without_problem(facts: &Facts, seen: Option<&Seen>, requested: bool) -> Finding {
    let driver = facts.driver.as_deref().unwrap_or(WINDOWS_DRIVER);
    match seen {
        None if facts.count() > 0 || facts.is_wsl => Finding::note(
            CHECK,
            format!("{}, driver {driver}; not used, this build has no libtorch", facts.named()),
        )
        .advised("run scripts/setup-libtorch.sh, then cargo build --release --features libtorch; or use the image ctseg:cuda")
        .but(if requested { State::Fault } else { State::Note }),
        Some(seen) if seen.gpus > 0 => {
            let cuda = seen.libtorch.cuda_name();
            let cuda = cuda.map_or_else(String::new, |cuda| format!(", {cuda}"));
            let mut found = format!("{}, driver {driver}{cuda}; libtorch sees {}", facts.named(), seen.gpus);
            if let Some(visible) = &facts.visible {
                found += &format!(" (CUDA_VISIBLE_DEVICES={visible})");
            }
            Finding::ok(CHECK, found)
        }
        _ if requested => Finding::fault(
            CHECK,
            "no NVIDIA GPU in this machine, but --device or CTSEG_DEVICE requests one",
            "use a machine with a GPU, or --device auto",
        ),
        _ => Finding::ok(CHECK, "no NVIDIA GPU in this machine"),
    }
}

/// A problem, and what to do.
struct Problem {
    found: String,
    advice: String,
}

impl Problem {
    fn new(found: String, advice: impl Into<String>) -> Self {
        let advice = advice.into();
        Self { found, advice }
    }
}

/// The first problem on the way from the machine to libtorch.
fn problem(facts: &Facts, seen: Option<&Seen>) -> Option<Problem> {
    let named = facts.named();
    if let Some(problem) = seen.and_then(|seen| seen.problem.as_ref()) {
        let found = format!(
            "NVIDIA's driver is installed, but a GPU library of libtorch cannot be loaded: {problem}"
        );
        let advice = "install libtorch completely with scripts/setup-libtorch.sh and rebuild ctseg; or add the folder of the missing library to LD_LIBRARY_PATH";
        return Some(Problem::new(found, advice));
    }
    let is_none = facts.count() == 0 && facts.driver.is_none() && !facts.is_wsl;
    // If libtorch sees a GPU, the rest does not matter.
    if is_none || seen.is_some_and(|seen| seen.gpus > 0) {
        return None;
    }
    if let Some(seen) = seen
        && seen.libtorch.cuda.is_none()
        && seen.gpus == 0
    {
        let found = format!("{named}, but this libtorch is built for CPUs only");
        let advice = "install a GPU build with scripts/setup-libtorch.sh and rebuild ctseg";
        return Some(Problem::new(found, advice));
    }
    if !facts.is_wsl {
        if let Some(problem) = driver_problem(facts, seen) {
            return Some(problem);
        }
        if let Some(problem) = access_problem(facts) {
            return Some(problem);
        }
    }
    visibility_problem(facts).or_else(|| libtorch_problem(facts, seen?))
}

/// GPUs hidden by the environment.
fn visibility_problem(facts: &Facts) -> Option<Problem> {
    let visible = facts
        .visible
        .as_deref()
        .filter(|visible| is_hidden(visible))?;
    let found = format!(
        "{}, hidden by CUDA_VISIBLE_DEVICES='{visible}'",
        facts.named()
    );
    let advice = match facts.is_slurm {
        true => "Slurm gave this job no GPU: request one with --gres=gpu:1",
        false => "unset CUDA_VISIBLE_DEVICES, or select GPUs: CUDA_VISIBLE_DEVICES=0",
    };
    Some(Problem::new(found, advice))
}

/// An accessible driver, but no GPU visible to libtorch.
fn libtorch_problem(facts: &Facts, seen: &Seen) -> Option<Problem> {
    if seen.gpus > 0 {
        return None;
    }
    let driver = facts.driver.as_deref().unwrap_or(WINDOWS_DRIVER);
    let found = format!("{}, driver {driver}, but libtorch sees none", facts.named());
    let advice = match (&facts.library, seen.libtorch.cuda_name()) {
        (None, _) => format!(
            "the driver's library libcuda.so.1 was not found: {}",
            facts.container.map_or(
                "install it with the driver, or add its folder to LD_LIBRARY_PATH",
                gpu_access
            )
        ),
        (Some(library), cuda) => format!(
            "run nvidia-smi; if it reports a mismatch, restart the machine to complete a driver update; {} must belong to the driver{}",
            library.display(),
            cuda.map_or_else(String::new, |cuda| format!(
                ", and {cuda} must support the GPU"
            ))
        ),
    };
    Some(Problem::new(found, advice))
}

/// No driver, or an outdated one.
fn driver_problem(facts: &Facts, seen: Option<&Seen>) -> Option<Problem> {
    let cuda = seen.and_then(|seen| seen.libtorch.cuda);
    let least = least_driver(cuda.map_or(DEFAULT_CUDA, |(major, _)| major));
    let Some(driver) = &facts.driver else {
        let bound = facts.cards.iter().flatten().next();
        let bound = bound.map_or_else(String::new, |name| format!(" (kernel driver '{name}')"));
        let found = format!("{}, without NVIDIA's driver{bound}", facts.named());
        let advice = match bound.contains("vfio") {
            true => {
                "the GPU is reserved for a virtual machine: use it there, or unbind it from vfio-pci"
                    .to_owned()
            }
            false => format!("install NVIDIA driver {least} or later and restart the machine"),
        };
        return Some(Problem::new(found, advice));
    };
    let seen = seen?;
    let major: u32 = driver.split('.').next()?.parse().ok()?;
    if major >= least {
        return None;
    }
    let cuda = seen.libtorch.cuda_name().unwrap_or_default();
    Some(Problem::new(
        format!(
            "{}, driver {driver}: too old for libtorch with {cuda}, which needs {least} or later",
            facts.named()
        ),
        format!(
            "update the driver (in a container: of the host) to {least} or later; or build ctseg with a libtorch 2.11.0 for \
             an older CUDA, set by LIBTORCH (CUDA 12 needs {})",
            least_driver(12)
        ),
    ))
}

/// A driver, but GPUs not accessible to this process.
fn access_problem(facts: &Facts) -> Option<Problem> {
    let driver = facts.driver.as_deref().unwrap_or_default();
    let how = match (facts.container, facts.is_slurm) {
        (Some(container), _) => gpu_access(container).to_owned(),
        (None, true) => "request one from Slurm: --gres=gpu:1".to_owned(),
        (None, false) => {
            "run as root: nvidia-modprobe -u -c 0; start a container with --gpus all (Docker) or --nv (Apptainer)".to_owned()
        }
    };
    if facts.nodes.is_empty() {
        let found = format!("driver {driver}, but no accessible /dev/nvidia0");
        return Some(Problem::new(found, how));
    }
    if !facts.opens {
        let found = format!(
            "{}, driver {driver}: no permission to open /dev/{}",
            facts.named(),
            facts.nodes[0]
        );
        let how = match (facts.container, facts.is_slurm) {
            (None, false) => {
                "see 'ls -l /dev/nvidia*': the user may have to join a group such as video"
                    .to_owned()
            }
            _ => how,
        };
        return Some(Problem::new(found, how));
    }
    None
}

/// How to make GPUs accessible in a container.
fn gpu_access(container: Container) -> &'static str {
    match container {
        Container::Kubernetes => {
            "set the pod's resources.limits to 'nvidia.com/gpu: 1', as in scripts/k8s/overlays/gpu; the node needs NVIDIA's device plugin"
        }
        Container::Docker => {
            "start the container with --gpus all; the host needs nvidia-container-toolkit"
        }
        Container::Podman => {
            "start the container with --device nvidia.com/gpu=all; the host needs nvidia-container-toolkit"
        }
        Container::Apptainer => "apptainer run --nv",
    }
}
