//! NVIDIA GPUs, queried with `nvidia-smi`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The queried fields, in order.
const QUERY: &str =
    "--query-gpu=index,memory.used,memory.total,utilization.gpu,power.draw,enforced.power.limit";

/// Limit for `nvidia-smi`, which hangs if the driver is in trouble.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `nvidia-smi` reports memory in MiB, MLflow uses MB.
const MB_PER_MIB: f64 = 1.048_576;

/// Queries `nvidia-smi` until it is missing, fails or hangs.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    given_up: bool,
}

impl Gpus {
    /// Values by name; empty without GPUs.
    pub(super) fn sample(&mut self) -> Vec<(String, f64)> {
        if self.given_up {
            return Vec::new();
        }
        match query() {
            Some(text) => text.lines().flat_map(values).collect(),
            None => {
                self.given_up = true;
                Vec::new()
            }
        }
    }
}

fn query() -> Option<String> {
    let mut child = Command::new("nvidia-smi")
        .args([QUERY, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = String::new();
    // One line per GPU fits into the pipe's buffer.
    let answered = succeeded(&mut child)
        && child
            .stdout
            .take()
            .is_some_and(|mut out| out.read_to_string(&mut text).is_ok());
    answered.then_some(text)
}

fn succeeded(child: &mut Child) -> bool {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if started.elapsed() < TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                // A process that cannot be killed is not waited for.
                let _ = child.kill();
                let _ = child.try_wait();
                return false;
            }
        }
    }
}

/// Parses a line of output; unsupported values (`[N/A]`) are left out.
fn values(line: &str) -> Vec<(String, f64)> {
    let mut fields = line.split(',').map(str::trim);
    let Some(index) = fields.next().and_then(|text| text.parse::<u32>().ok()) else {
        return Vec::new();
    };
    let mut number = || fields.next().and_then(|text| text.parse::<f64>().ok());
    let (used, all, busy) = (number(), number(), number());
    let (watts, limit) = (number(), number());
    let share = |part: Option<f64>, whole: Option<f64>| Some(100.0 * part? / whole?);
    let known = [
        ("memory_usage_percentage", share(used, all)),
        ("memory_usage_megabytes", used.map(|mib| mib * MB_PER_MIB)),
        ("utilization_percentage", busy),
        ("power_usage_watts", watts),
        ("power_usage_percentage", share(watts, limit)),
    ];
    known
        .into_iter()
        .filter_map(|(name, value)| Some((format!("gpu_{index}_{name}"), value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_nvidia_smi_is_parsed() {
        let expected = [
            ("gpu_1_memory_usage_percentage", 25.0),
            ("gpu_1_memory_usage_megabytes", 20_000.0 * MB_PER_MIB),
            ("gpu_1_utilization_percentage", 37.0),
            ("gpu_1_power_usage_watts", 350.0),
            ("gpu_1_power_usage_percentage", 50.0),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(values("1, 20000, 80000, 37, 350.00, 700.00"), expected);
        // A MIG instance reports only some values.
        let some = values("0, 300, 1000, [N/A], 50.00, [N/A]");
        let names: Vec<&str> = some.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "gpu_0_memory_usage_percentage",
                "gpu_0_memory_usage_megabytes",
                "gpu_0_power_usage_watts"
            ]
        );
        assert!(values("No devices were found").is_empty());
    }

    #[test]
    fn a_missing_nvidia_smi_is_not_queried_again() {
        let mut gpus = Gpus::default();
        if gpus.sample().is_empty() && gpus.given_up {
            assert!(gpus.sample().is_empty());
        }
    }
}
