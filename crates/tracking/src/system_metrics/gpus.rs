//! NVIDIA GPUs, asked through `nvidia-smi`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is asked for, in this order.
const QUERY: &str =
    "--query-gpu=index,memory.used,memory.total,utilization.gpu,power.draw,enforced.power.limit";

/// A driver in trouble may never answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `nvidia-smi` counts memory in MiB, MLflow in MB.
const MB_PER_MIB: f64 = 1.048_576;

/// Asks until `nvidia-smi` is found missing, fails or hangs; it is not asked again then.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    given_up: bool,
}

impl Gpus {
    /// Values by name; none without GPUs.
    pub(super) fn sample(&mut self) -> Vec<(String, f64)> {
        if self.given_up {
            return Vec::new();
        }
        match asked() {
            Some(text) => text.lines().flat_map(values).collect(),
            None => {
                self.given_up = true;
                Vec::new()
            }
        }
    }
}

fn asked() -> Option<String> {
    let mut child = Command::new("nvidia-smi")
        .args([QUERY, "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = String::new();
    // A line per GPU: the pipe holds the answer until it is read.
    let answered = ended_well(&mut child)
        && child
            .stdout
            .take()
            .is_some_and(|mut out| out.read_to_string(&mut text).is_ok());
    answered.then_some(text)
}

fn ended_well(child: &mut Child) -> bool {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => {
                // What cannot be killed is left to itself: waiting for it could last for ever.
                let _ = child.kill();
                let _ = child.try_wait();
                return false;
            }
        }
    }
}

/// The values in a line of the answer; what a GPU does not know (`[N/A]`) is left out.
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
    fn answers_of_nvidia_smi_are_read() {
        let expected = [
            ("gpu_1_memory_usage_percentage", 25.0),
            ("gpu_1_memory_usage_megabytes", 20_000.0 * MB_PER_MIB),
            ("gpu_1_utilization_percentage", 37.0),
            ("gpu_1_power_usage_watts", 350.0),
            ("gpu_1_power_usage_percentage", 50.0),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(values("1, 20000, 80000, 37, 350.00, 700.00"), expected);
        // Of a part of a GPU (MIG) only some is known.
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
    fn without_nvidia_smi_nobody_is_asked_again() {
        let mut gpus = Gpus::default();
        if gpus.sample().is_empty() && gpus.given_up {
            assert!(gpus.sample().is_empty());
        }
    }
}
