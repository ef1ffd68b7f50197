//! Engines: which this build has, and whether they compute.

use std::time::Duration;

use serde_json::json;

use super::libtorch::LibTorch;
use super::patience::within;
use super::{Finding, State};
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;
use ctseg_engine::self_test::computes;

const CHECK: &str = "engines";

/// A GPU begins in a few seconds, one in trouble never.
const PATIENCE: Duration = Duration::from_secs(120);

/// What flags, environment and settings file ask for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub devices: Vec<DeviceChoice>,
    pub precision: PrecisionChoice,
    pub threads: usize,
    /// Nothing is computed.
    pub quick: bool,
}

impl Asked {
    /// Whether a device was named, not `auto`.
    pub fn names_devices(&self) -> bool {
        self.devices
            .iter()
            .any(|device| *device != DeviceChoice::Auto)
    }

    pub fn names_gpu(&self) -> bool {
        let is_gpu = |device: &DeviceChoice| matches!(device, DeviceChoice::LibTorchCuda(_));
        self.devices.iter().any(is_gpu)
    }
}

/// How many GPUs libtorch sees, none in a build without it. The driver begins here: what is asked of it later is
/// answered at once.
///
/// # Errors
/// It never answers.
pub fn gpus_seen() -> Result<Option<usize>, Box<Finding>> {
    let seen = within(PATIENCE, || {
        let _begun = DeviceChoice::Auto.resolved();
        DeviceChoice::gpus_seen()
    });
    seen.ok_or_else(|| {
        let found = format!("libtorch has not counted the GPUs within {} s", PATIENCE.as_secs());
        let advice = "the driver hangs: see nvidia-smi and 'dmesg'; CUDA_VISIBLE_DEVICES=-1 hides its GPUs, and --device \
                      libtorch or flex computes without";
        Box::new(Finding::fault(CHECK, found, advice))
    })
}

pub fn findings(asked: &Asked, libtorch: Option<&LibTorch>) -> Vec<Finding> {
    let mut findings = vec![built(libtorch)];
    if asked.names_devices() {
        let named = asked.devices.iter().map(|device| device.resolved());
        findings.extend(named.map(|device| looked_at(device, asked.precision, asked)));
        return findings;
    }
    let auto = DeviceChoice::Auto.resolved();
    if let Err(error) = asked.precision.on(auto) {
        let advice = "leave --precision and CTSEG_PRECISION out, or say auto";
        findings.push(Finding::fault("precision", error.to_string(), advice));
    }
    if !asked.quick {
        let all = DeviceChoice::present().into_iter();
        findings.extend(all.map(|device| looked_at(device, PrecisionChoice::Auto, asked)));
    }
    findings
}

fn built(libtorch: Option<&LibTorch>) -> Finding {
    let mut names = Vec::new();
    let built_in = DeviceChoice::built_in();
    if built_in.contains(&"flex") {
        names.push("flex".to_owned());
    }
    if built_in.contains(&"libtorch") {
        let version = libtorch.and_then(|libtorch| libtorch.version.clone());
        let version = version.map_or_else(String::new, |version| format!(" {version}"));
        let place = libtorch.map(|libtorch| format!(" in {}", libtorch.folder.display()));
        names.push(format!("libtorch{version}{}", place.unwrap_or_default()));
    }
    let chosen = DeviceChoice::Auto.resolved();
    let found = format!("{}; auto is {chosen}", names.join(", "));
    let facts = json!({
        "built_in": built_in, "auto": chosen.to_string(),
        "libtorch_version": libtorch.and_then(|libtorch| libtorch.version.clone()),
        "libtorch_folder": libtorch.map(|libtorch| libtorch.folder.display().to_string()),
    });
    Finding::ok(CHECK, found).with(facts)
}

/// One device, put to work unless it shall be quick.
fn looked_at(device: DeviceChoice, precision: PrecisionChoice, asked: &Asked) -> Finding {
    let check = format!("engine {device}");
    let (threads, quick) = (asked.threads, asked.quick);
    let done = within(PATIENCE, move || {
        let compute = Compute::open(device, precision, threads)?;
        let took = match quick {
            true => None,
            false => Some(computes(&compute)?),
        };
        Ok::<_, ctseg_base::Error>((compute.precision, took))
    });
    match done {
        Some(Ok((precision, took))) => {
            let took = took.map(|took| format!(", convolutions as by hand in {:.1} s", took.as_secs_f64()));
            let found = format!("{precision}{}", took.unwrap_or_default());
            Finding::ok(&check, found)
        }
        Some(Err(error)) => Finding::fault(&check, error.to_string(), advice(device, &error.to_string())),
        None => Finding::fault(
            &check,
            format!("gave no result within {} s, or broke down", PATIENCE.as_secs()),
            "see what it says above, nvidia-smi and 'dmesg'; --device flex needs neither GPU nor libtorch",
        )
        .but(State::Fault),
    }
}

fn advice(device: DeviceChoice, error: &str) -> &'static str {
    if error.contains("--precision") {
        "leave --precision and CTSEG_PRECISION out, or say auto"
    } else if error.contains("not in this build") {
        "scripts/setup-libtorch.sh, then cargo build --release --features libtorch (README, Engines); or --device auto, \
         which takes what there is"
    } else if error.contains("no kernel image") {
        "this libtorch has no code for this GPU, which is too old or too new for it; use --device libtorch or flex"
    } else if error.contains("out of memory") {
        "other processes have taken the GPU's memory: nvidia-smi shows them"
    } else if matches!(device, DeviceChoice::LibTorchCuda(_)) {
        "see the line 'GPU', and what nvidia-smi says; --device libtorch or flex do without"
    } else {
        "build ctseg again on this machine; scripts/setup-libtorch.sh finds or installs libtorch"
    }
}
