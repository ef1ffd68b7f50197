//! Engines: which are in this build, and whether they work.

use std::time::Duration;

use serde_json::json;

use super::libtorch::LibTorch;
use super::timeout::within;
use super::{Finding, State};
use ctseg_base::Error;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;
use ctseg_engine::self_test::check_convolutions;

const CHECK: &str = "engines";

/// A GPU starts within seconds; a broken one may hang.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Settings requested by flags, environment and settings file.
#[derive(Debug, Clone)]
pub struct Requested {
    pub devices: Vec<DeviceChoice>,
    pub precision: PrecisionChoice,
    pub threads: usize,
    /// Skip the self-test.
    pub quick: bool,
}

impl Requested {
    /// Whether a device other than `auto` was requested.
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

/// The number of GPUs that libtorch sees; `None` in a build without it. This call initialises the driver, so that later
/// ones are fast.
///
/// # Errors
/// The driver does not respond in time.
pub fn gpus_seen() -> Result<Option<usize>, Box<Finding>> {
    let seen = within(TIMEOUT, || {
        let _initialised = DeviceChoice::Auto.resolved();
        DeviceChoice::gpu_count()
    });
    seen.ok_or_else(|| {
        let found = format!("libtorch did not count the GPUs within {} s", TIMEOUT.as_secs());
        let advice = "the driver hangs: see nvidia-smi and 'dmesg'; hide the GPUs with CUDA_VISIBLE_DEVICES=-1, or use \
                      --device libtorch or flex";
        Box::new(Finding::fault(CHECK, found, advice))
    })
}

pub fn findings(requested: &Requested, libtorch: Option<&LibTorch>) -> Vec<Finding> {
    let mut findings = vec![built(libtorch)];
    if requested.names_devices() {
        let named = requested.devices.iter().map(|device| device.resolved());
        findings.extend(named.map(|device| check(device, requested.precision, requested)));
        return findings;
    }
    let auto = DeviceChoice::Auto.resolved();
    if let Err(error) = requested.precision.on(auto) {
        let advice = "unset --precision and CTSEG_PRECISION, or use auto";
        findings.push(Finding::fault("precision", error.to_string(), advice));
    }
    if !requested.quick {
        let all = DeviceChoice::available().into_iter();
        findings.extend(all.map(|device| check(device, PrecisionChoice::Auto, requested)));
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

/// Checks one device, with a self-test unless `quick`.
fn check(device: DeviceChoice, precision: PrecisionChoice, requested: &Requested) -> Finding {
    let check = format!("engine {device}");
    let (threads, quick) = (requested.threads, requested.quick);
    let done = within(TIMEOUT, move || {
        let compute = Compute::open(device, precision, threads)?;
        let took = match quick {
            true => None,
            false => Some(check_convolutions(&compute)?),
        };
        Ok::<_, Error>((compute.precision, took))
    });
    match done {
        Some(Ok((precision, took))) => {
            let took = took.map(|took| format!(", self-test passed in {:.1} s", took.as_secs_f64()));
            let found = format!("{precision}{}", took.unwrap_or_default());
            Finding::ok(&check, found)
        }
        Some(Err(error)) => Finding::fault(&check, error.to_string(), advice(device, &error)),
        None => Finding::fault(
            &check,
            format!("no result within {} s, or crashed", TIMEOUT.as_secs()),
            "see the output above, nvidia-smi and 'dmesg'; --device flex needs neither GPU nor libtorch",
        )
        .but(State::Fault),
    }
}

fn advice(device: DeviceChoice, error: &Error) -> &'static str {
    match error {
        Error::Usage(_) => "unset --precision and CTSEG_PRECISION, or use auto",
        Error::Unsupported(_) if !device.is_in_build() => {
            "run scripts/setup-libtorch.sh, then cargo build --release --features libtorch (docs/engines.md); or use --device \
             auto"
        }
        Error::Unsupported(_) => {
            "this libtorch does not support this GPU (too old or too new); use --device libtorch or flex"
        }
        Error::OutOfMemory(_) => "other processes use the GPU's memory: see nvidia-smi",
        _ if matches!(device, DeviceChoice::LibTorchCuda(_)) => {
            "see the line 'GPU' and nvidia-smi; or use --device libtorch or flex"
        }
        _ => "rebuild ctseg on this machine; scripts/setup-libtorch.sh finds or installs libtorch",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_engine::precision::Precision;

    /// The advice for the error that `device` gives when it is opened with `precision`.
    fn opened(device: DeviceChoice, precision: PrecisionChoice) -> &'static str {
        let error = Compute::open(device, precision, 1).unwrap_err();
        advice(device, &error)
    }

    #[test]
    fn advice_follows_the_kind_of_the_error() {
        let gpu = DeviceChoice::LibTorchCuda(0);
        let flex = DeviceChoice::Flex;
        let of = |error: Error| advice(gpu, &error);
        assert!(of(Error::out_of_memory("libtorch: no")).contains("other processes"));
        // The words of a message decide nothing.
        let other = of(Error::invalid(
            "libtorch: not out of memory, --precision f32",
        ));
        assert!(other.contains("the line 'GPU'"), "{other}");
        if flex.is_in_build() {
            let precision = opened(flex, PrecisionChoice::Fixed(Precision::Bf16));
            assert!(precision.contains("--precision"), "{precision}");
            let kernel = advice(flex, &Error::unsupported("no kernel image"));
            assert!(kernel.contains("this GPU"), "{kernel}");
        }
        if !gpu.is_in_build() {
            let missing = opened(gpu, PrecisionChoice::Auto);
            assert!(missing.contains("setup-libtorch.sh"), "{missing}");
        }
    }
}
