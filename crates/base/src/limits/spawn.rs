//! Starts threads. The system may refuse one: `ulimit -u`, a cgroup's `pids.max`, too little memory.

use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use super::cgroup::{self, Hierarchy};
use super::host::Host;
use crate::{Error, Result};

/// Starts a thread.
///
/// # Errors
/// The system refuses it; the message names the known limits.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let started = Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|error| spawn_error(name, &error, &Host::local()))
}

/// Starts a thread that ends before `scope` does.
///
/// # Errors
/// Same as [`spawn`].
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let started = Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, work);
    started.map_err(|error| spawn_error(name, &error, &Host::local()))
}

/// Number of threads of this process, from the kernel. A joined thread may count a moment longer.
pub fn thread_count() -> Option<usize> {
    let status = Host::local().read("/proc/self/status")?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))?;
    count.trim().parse().ok()
}

fn spawn_error(name: &str, error: &io::Error, host: &Host) -> Error {
    let limits = limits(host);
    let known = match limits.is_empty() {
        true => String::new(),
        false => format!(" (limits: {})", limits.join(", ")),
    };
    Error::invalid(format!(
        "cannot start a thread ({name}): {error}{known}; raise the limit on processes and threads of this user or container, \
         or lower --threads"
    ))
}

/// The limits on processes and threads that apply here.
fn limits(host: &Host) -> Vec<String> {
    let own = host.read("/proc/self/limits").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("Max processes"));
    let soft = own.and_then(|line| line.split_whitespace().next());
    let soft = soft.filter(|soft| *soft != "unlimited");
    let mut limits: Vec<String> = soft
        .map(|soft| format!("ulimit -u {soft}"))
        .into_iter()
        .collect();
    for hierarchy in [Hierarchy::Unified, Hierarchy::Controller("pids")] {
        for folder in cgroup::folders(host, hierarchy) {
            let file = folder.join("pids.max");
            let most = std::fs::read_to_string(&file).unwrap_or_default();
            if most.trim().parse::<u64>().is_ok() {
                limits.push(format!("{} {}", host.shown(&file).display(), most.trim()));
            }
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::super::host::fake_host;
    use super::*;

    #[test]
    fn a_refusal_names_the_limits() {
        let (_root, host) = fake_host(&[
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max processes             4                    8                    processes\n",
            ),
            ("proc/self/cgroup", "0::/box\n"),
            (
                "proc/self/mountinfo",
                "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/box/pids.max", "32\n"),
            ("sys/fs/cgroup/pids.max", "max\n"),
        ]);
        let error = io::Error::from_raw_os_error(11);
        let message = spawn_error("loader", &error, &host).to_string();
        assert!(
            message.contains("a thread (loader)")
                && message.contains("ulimit -u 4, /sys/fs/cgroup/box/pids.max 32)"),
            "{message}"
        );
        assert!(
            !message.contains('\n') && !message.contains("max max"),
            "{message}"
        );
        let (_root, none) = fake_host(&[]);
        assert!(
            !spawn_error("loader", &error, &none)
                .to_string()
                .contains("limits")
        );
    }

    #[test]
    fn threads_start_and_are_counted() {
        let before = thread_count().unwrap();
        assert!(before >= 1);
        assert_eq!(spawn("seven", || 7).unwrap().join().unwrap(), 7);
        let eight = std::thread::scope(|scope| {
            let thread = spawn_scoped(scope, "eight", || before.min(8)).unwrap();
            thread.join().unwrap()
        });
        assert_eq!(eight, before.min(8));
    }
}
