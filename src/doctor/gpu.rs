//! NVIDIA GPUs: in the machine, with a driver, within reach of this process, seen by libtorch.

use std::path::PathBuf;

use serde_json::json;

use super::cluster::Container;
use super::libtorch::LibTorch;
use super::libtorch::USUAL_CUDA;
use super::{Finding, State};
use ctseg_base::limits::host::Host;
use ctseg_base::text::words::counted;

const CHECK: &str = "GPU";

const NVIDIA: &str = "0x10de";

/// Where the driver's library lies, beside `LD_LIBRARY_PATH`.
const LIBRARY_FOLDERS: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/.singularity.d/libs",
];

/// What the machine shows of GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// On the PCI bus, each with the kernel's driver that has it.
    pub cards: Vec<Option<String>>,
    /// Such as `NVIDIA H100 80GB HBM3`; the driver names them.
    pub models: Vec<String>,
    /// Version of NVIDIA's driver in the kernel.
    pub driver: Option<String>,
    /// `nvidia0`, … in `/dev`.
    pub nodes: Vec<String>,
    /// Whether one of these can be opened.
    pub opens: bool,
    /// Windows hands its GPU in another way.
    pub is_wsl: bool,
    /// The driver's library that programs use.
    pub library: Option<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES`, which may be empty.
    pub visible: Option<String>,
    pub container: Option<Container>,
    pub is_slurm: bool,
}

/// libtorch's side of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub gpus: usize,
    pub libtorch: LibTorch,
    /// Why its libraries for GPUs could not be loaded.
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
            None if count == 0 && self.is_wsl => "the GPU of Windows".to_owned(),
            None => counted(count, "NVIDIA GPU"),
        }
    }
}

/// Display and 3D controllers of NVIDIA's on the PCI bus.
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

/// Of the first line of `/proc/driver/nvidia/version`, the word that is a version:
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

/// The least driver for programs built with this CUDA
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

/// What the facts mean; `seen` by the build's libtorch, where it has one, and `asked` where `--device` names a GPU.
pub fn judged(facts: &Facts, seen: Option<&Seen>, asked: bool) -> Finding {
    let value = json!({
        "gpus": facts.count(), "models": facts.models, "driver": facts.driver,
        "device_nodes": facts.nodes, "libtorch_sees": seen.map(|seen| seen.gpus),
        "cuda_visible_devices": facts.visible,
    });
    let state = match (asked, seen) {
        (true, _) => State::Fault,
        (false, Some(_)) => State::Warning,
        // Nothing here would use it.
        (false, None) => State::Note,
    };
    let finding = match trouble(facts, seen) {
        Some((found, advice)) => Finding::fault(CHECK, found, advice).but(state),
        None => sound(facts, seen, asked),
    };
    finding.with(value)
}

/// No GPU, or GPUs that nothing speaks against.
fn sound(facts: &Facts, seen: Option<&Seen>, asked: bool) -> Finding {
    let driver = facts.driver.as_deref().unwrap_or("of Windows");
    match seen {
        None if facts.count() > 0 || facts.is_wsl => Finding::note(
            CHECK,
            format!("{}, driver {driver}; this build has no libtorch and leaves them alone", facts.named()),
        )
        .advised("scripts/setup-libtorch.sh, then cargo build --release --features libtorch; or the image ctseg:cuda")
        .but(if asked { State::Fault } else { State::Note }),
        Some(seen) if seen.gpus > 0 => {
            let cuda = seen.libtorch.cuda_name();
            let cuda = cuda.map_or_else(String::new, |cuda| format!(", {cuda}"));
            let mut found = format!("{}, driver {driver}{cuda}; libtorch sees {}", facts.named(), seen.gpus);
            if let Some(visible) = &facts.visible {
                found += &format!(" (CUDA_VISIBLE_DEVICES={visible})");
            }
            Finding::ok(CHECK, found)
        }
        _ if asked => Finding::fault(
            CHECK,
            "no NVIDIA GPU in this machine, and --device or CTSEG_DEVICE names one",
            "use a machine with one, or --device auto, which takes what there is",
        ),
        _ => Finding::ok(CHECK, "no NVIDIA GPU in this machine"),
    }
}

/// The first thing on the way from the machine to libtorch that is not as it must be, and what to do.
fn trouble(facts: &Facts, seen: Option<&Seen>) -> Option<(String, String)> {
    let named = facts.named();
    if let Some(problem) = seen.and_then(|seen| seen.problem.as_ref()) {
        let found = format!(
            "NVIDIA's driver is here, and a library that libtorch needs for GPUs cannot be loaded: {problem}"
        );
        let advice = "scripts/setup-libtorch.sh installs libtorch's whole, then build ctseg again; or name a missing one's folder in LD_LIBRARY_PATH";
        return Some((found, advice.to_owned()));
    }
    let is_none = facts.count() == 0 && facts.driver.is_none() && !facts.is_wsl;
    // What works is in order, however it does.
    if is_none || seen.is_some_and(|seen| seen.gpus > 0) {
        return None;
    }
    if let Some(seen) = seen
        && seen.libtorch.cuda.is_none()
        && seen.gpus == 0
    {
        let found = format!("{named}, and this libtorch is built for CPUs alone");
        let advice = "scripts/setup-libtorch.sh installs one for GPUs; build ctseg again with it";
        return Some((found, advice.to_owned()));
    }
    if !facts.is_wsl {
        if let Some(trouble) = driver_trouble(facts, seen) {
            return Some(trouble);
        }
        if let Some(trouble) = reach_trouble(facts) {
            return Some(trouble);
        }
    }
    visibility_trouble(facts).or_else(|| libtorch_trouble(facts, seen?))
}

/// GPUs that the environment hides.
fn visibility_trouble(facts: &Facts) -> Option<(String, String)> {
    let visible = facts
        .visible
        .as_deref()
        .filter(|visible| is_hidden(visible))?;
    let found = format!(
        "{}, hidden by CUDA_VISIBLE_DEVICES='{visible}'",
        facts.named()
    );
    let advice = match facts.is_slurm {
        true => "Slurm gave this job no GPU: ask for one by --gres=gpu:1",
        false => "unset CUDA_VISIBLE_DEVICES, or name GPUs: CUDA_VISIBLE_DEVICES=0",
    };
    Some((found, advice.to_owned()))
}

/// A driver within reach, and a libtorch that sees no GPU.
fn libtorch_trouble(facts: &Facts, seen: &Seen) -> Option<(String, String)> {
    if seen.gpus > 0 {
        return None;
    }
    let driver = facts.driver.as_deref().unwrap_or("of Windows");
    let found = format!("{}, driver {driver}, and libtorch sees none", facts.named());
    let advice = match (&facts.library, seen.libtorch.cuda_name()) {
        (None, _) => format!(
            "the driver's library libcuda.so.1 is not found: {}",
            facts.container.map_or(
                "install it with the driver, or name its folder in LD_LIBRARY_PATH",
                handed_in
            )
        ),
        (Some(library), cuda) => format!(
            "does nvidia-smi work? if it speaks of a mismatch, restart the machine after the driver's update; {} must be the driver's own{}",
            library.display(),
            cuda.map_or_else(String::new, |cuda| format!(
                ", and the GPU one that {cuda} knows"
            ))
        ),
    };
    Some((found, advice))
}

/// No driver, or one that is too old.
fn driver_trouble(facts: &Facts, seen: Option<&Seen>) -> Option<(String, String)> {
    let cuda = seen.and_then(|seen| seen.libtorch.cuda);
    let least = least_driver(cuda.map_or(USUAL_CUDA, |(major, _)| major));
    let Some(driver) = &facts.driver else {
        let bound = facts.cards.iter().flatten().next();
        let bound = bound.map_or_else(String::new, |name| {
            format!(" (the kernel has '{name}' for it)")
        });
        let found = format!("{}, without NVIDIA's driver{bound}", facts.named());
        let advice = match bound.contains("vfio") {
            true => {
                "it is set aside for a virtual machine: use it there, or take it back from vfio-pci"
                    .to_owned()
            }
            false => format!("install NVIDIA's driver {least} or later, and restart the machine"),
        };
        return Some((found, advice));
    };
    let seen = seen?;
    let major: u32 = driver.split('.').next()?.parse().ok()?;
    if major >= least {
        return None;
    }
    let cuda = seen.libtorch.cuda_name().unwrap_or_default();
    Some((
        format!(
            "{}, driver {driver}: too old for libtorch with {cuda}, which needs {least} or later",
            facts.named()
        ),
        format!(
            "update the driver of the machine (a container uses that of its host) to {least} or later; or build ctseg with a \
             libtorch 2.11.0 for an older CUDA, named by LIBTORCH (CUDA 12 needs {})",
            least_driver(12)
        ),
    ))
}

/// A driver, and GPUs that this process does not get at.
fn reach_trouble(facts: &Facts) -> Option<(String, String)> {
    let driver = facts.driver.as_deref().unwrap_or_default();
    let how = match (facts.container, facts.is_slurm) {
        (Some(container), _) => handed_in(container).to_owned(),
        (None, true) => "ask Slurm for one: --gres=gpu:1".to_owned(),
        (None, false) => {
            "as root: nvidia-modprobe -u -c 0; in a container, begin it with --gpus all (Docker) or --nv (Apptainer)".to_owned()
        }
    };
    if facts.nodes.is_empty() {
        let found = format!("driver {driver}, and no /dev/nvidia0 within reach");
        return Some((found, how));
    }
    if !facts.opens {
        let found = format!(
            "{}, driver {driver}: this process may not open /dev/{}",
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
        return Some((found, how));
    }
    None
}

/// How GPUs are handed to a container.
fn handed_in(container: Container) -> &'static str {
    match container {
        Container::Kubernetes => {
            "give the pod resources.limits 'nvidia.com/gpu: 1', as scripts/k8s/overlays/gpu does; the node needs NVIDIA's device plugin"
        }
        Container::Docker => {
            "begin the container with --gpus all; the host needs nvidia-container-toolkit"
        }
        Container::Podman => {
            "begin the container with --device nvidia.com/gpu=all; the host needs nvidia-container-toolkit"
        }
        Container::Apptainer => "apptainer run --nv",
    }
}
