//! System metrics under the names of MLflow's own client (`mlflow/system_metrics/metrics/*.py`), so that MLflow shows
//! them on its system metrics page.
//!
//! Two differ from MLflow's: in a cgroup with a memory limit, memory is the group's; if the process may use only some
//! of the cores, CPU utilisation is that of this process on those cores. MLflow's client shows the whole machine, which
//! says nothing about a job on part of a node.

mod gpus;

use std::fs;

use ctseg_base::limits::host::Host;
use ctseg_base::limits::memory::used_and_total;
use ctseg_base::limits::threads::available_cores;

use gpus::Gpus;

const MB: f64 = 1e6;

/// Clock ticks in a second, as proc_pid_stat(5) counts them: USER_HZ, which is 100 wherever ctseg runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Samples the machine's counters; those that cannot be read are left out.
pub struct Sampler {
    cpu: Option<CpuTime>,
    /// Bytes received and sent at the start.
    network: Option<[u64; 2]>,
    gpus: Gpus,
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Sampler {
    /// Starts counting CPU time and network traffic.
    pub fn new() -> Self {
        Self {
            cpu: CpuTime::now(),
            network: network_bytes(),
            gpus: Gpus::default(),
        }
    }

    /// Values by name, in percent, MB (1e6 bytes) and watts. CPU utilisation is the mean since the previous call.
    ///
    /// Takes well below a millisecond; with NVIDIA GPUs as long as `nvidia-smi`: some tenths of a second, at most 5 s.
    pub fn sample(&mut self) -> Vec<(String, f64)> {
        let mut values = Vec::new();
        let mut add = |name: &str, value: f64| {
            let rounded = (value * 10.0).round() / 10.0; // as MLflow's client does
            if rounded.is_finite() {
                values.push((format!("system/{name}"), rounded));
            }
        };
        let now = CpuTime::now();
        if let (Some(before), Some(now)) = (&self.cpu, &now) {
            add("cpu_utilization_percentage", now.percentage_since(before));
        }
        self.cpu = now.or(self.cpu.take());
        if let Some([used, all]) = used_and_total(&Host::local()) {
            add("system_memory_usage_megabytes", used as f64 / MB);
            let percentage = 100.0 * used as f64 / all as f64;
            add("system_memory_usage_percentage", percentage);
        }
        if let Some([used, free]) = disk_bytes() {
            add("disk_usage_percentage", 100.0 * used / (used + free));
            add("disk_usage_megabytes", used / MB);
            add("disk_available_megabytes", free / MB);
        }
        if let (Some(before), Some(now)) = (self.network, network_bytes()) {
            let mb = |index: usize| now[index].saturating_sub(before[index]) as f64 / MB;
            add("network_receive_megabytes", mb(0));
            add("network_transmit_megabytes", mb(1));
        }
        for (name, value) in self.gpus.sample() {
            add(&name, value);
        }
        values
    }
}

/// Used and total CPU time, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTime {
    used: f64,
    all: f64,
}

impl CpuTime {
    fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let (whole, cores) = machine_cpu(&machine)?;
        let own_cores = available_cores();
        if own_cores >= cores {
            return Some(whole);
        }
        let used = process_ticks(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let all = seconds * TICKS_PER_SECOND * own_cores as f64;
        Some(Self { used, all })
    }

    /// Not finite if no time has passed.
    fn percentage_since(&self, before: &Self) -> f64 {
        let percentage = 100.0 * (self.used - before.used) / (self.all - before.all);
        percentage.clamp(0.0, 100.0)
    }
}

/// CPU time and number of cores, from `/proc/stat` (proc_stat(5)). As in psutil, I/O wait counts as idle, and user time
/// includes guest time.
fn machine_cpu(stat: &str) -> Option<(CpuTime, usize)> {
    let first = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = first.split_whitespace().take(8);
    let ticks: Vec<f64> = ticks.map_while(|text| text.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0.0);
    let is_core = |line: &&str| line.starts_with("cpu");
    let cores = stat.lines().skip(1).take_while(is_core).count();
    let used = all - idle;
    Some((CpuTime { used, all }, cores))
}

/// Ticks used by all threads of this process, from `/proc/self/stat` (proc_pid_stat(5)).
fn process_ticks(stat: &str) -> Option<f64> {
    // The name, in parentheses, may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some(ticks()? + ticks()?)
}

/// Used bytes, and bytes free for this user, on the working folder's file system.
fn disk_bytes() -> Option<[f64; 2]> {
    let known = rustix::fs::statvfs(".").ok()?;
    let bytes = |blocks: u64| blocks as f64 * known.f_frsize as f64;
    let used = known.f_blocks.saturating_sub(known.f_bfree);
    (known.f_blocks > 0).then(|| [bytes(used), bytes(known.f_bavail)])
}

fn network_bytes() -> Option<[u64; 2]> {
    Some(bytes_of_all(&fs::read_to_string("/proc/net/dev").ok()?))
}

/// Bytes received and sent over all interfaces, from `/proc/net/dev` (proc_pid_net(5)).
fn bytes_of_all(dev: &str) -> [u64; 2] {
    let interface = |line: &str| {
        let (_, counts) = line.split_once(':')?;
        let counts = counts.split_whitespace().map(str::parse::<u64>);
        let mut counts = counts.map_while(|count| count.ok());
        Some([counts.next()?, counts.nth(7)?])
    };
    let all = dev.lines().filter_map(interface);
    all.fold([0u64; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_counted_as_in_psutil() {
        // psutil: busy = all − idle − iowait, without guest times.
        let stat = |user: u64, idle: u64| {
            format!("cpu  {user} 10 20 {idle} 40 5 6 7 1000 2000\ncpu0 1 2 3\ncpu1 1 2 3\nintr 9\n")
        };
        let (before, cores) = machine_cpu(&stat(100, 300)).unwrap();
        let (after, _) = machine_cpu(&stat(130, 370)).unwrap();
        assert_eq!((before.used, before.all, cores), (148.0, 488.0, 2));
        assert_eq!(after.percentage_since(&before), 30.0);
        assert!(!before.percentage_since(&before).is_finite());
        assert_eq!(machine_cpu("intr 9\n"), None);
    }

    #[test]
    fn a_processes_ticks_follow_its_name() {
        let stat = "42 (a ) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 700 33 5 6 20 0 3 0 999 1";
        assert_eq!(process_ticks(stat), Some(733.0));
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(process_ticks(&own).is_some());
    }

    #[test]
    fn bytes_of_all_interfaces_are_added() {
        let dev = "Inter-|   Receive                    |  Transmit\n face |bytes    packets errs\n    \
            lo:    9579      87    0    0    0     0          0         0     9580      87    0    0    0     0       0          0\n  \
            eth0:1000000 1 0 0 0 0 0 0 2000000 1 0 0 0 0 0 0\n";
        assert_eq!(bytes_of_all(dev), [1_009_579, 2_009_580]);
    }

    #[test]
    fn this_machine_is_sampled() {
        let mut sampler = Sampler::new();
        // Some ticks of work, so that CPU time passes.
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_millis(150) {
            std::hint::black_box(started.elapsed());
        }
        let values = sampler.sample();
        let of = |name: &str| {
            let mut found = values.iter().filter(|(own, _)| own == name);
            let value = found.next().unwrap_or_else(|| panic!("{name}")).1;
            assert!(found.next().is_none(), "{name}");
            value
        };
        let cpu = of("system/cpu_utilization_percentage");
        assert!(cpu > 0.0 && cpu <= 100.0, "{cpu}");
        let memory = of("system/system_memory_usage_percentage");
        assert!(memory > 0.0 && memory <= 100.0, "{memory}");
        let own = ctseg_base::limits::threads::resident_bytes() as f64 / MB;
        let used = of("system/system_memory_usage_megabytes");
        assert!(used > own / 2.0, "{used} MB with {own} MB of this process");
        assert!(of("system/disk_usage_percentage") <= 100.0);
        assert!(of("system/disk_available_megabytes") >= 0.0);
        assert!(of("system/network_receive_megabytes") >= 0.0);
    }
}
