//! Cores: of the machine, available to this process and why, and requested threads beyond that.

use serde_json::json;

use super::Finding;
use ctseg_base::limits::cores::{CoreSource, Cores};
use ctseg_base::limits::host::Host;
use ctseg_base::text::words::counted;

const CHECK: &str = "cores";

/// `threads` is the value of `--threads` or its variable; `used` is the number of threads otherwise used.
pub fn findings(host: &Host, threads: Option<usize>, used: usize) -> Vec<Finding> {
    let cores = Cores::of(host);
    let usable = cores.usable().unwrap_or(used);
    let machine = cores.machine.unwrap_or(usable);
    let tightest = cores.tightest().filter(|limit| limit.cores < machine);
    let facts = json!({
        "machine": cores.machine, "usable": usable, "threads": threads,
        "limits": cores.limits.iter().map(|limit| {
            json!({"cores": limit.cores, "source": limit.source.to_string()})
        }).collect::<Vec<_>>(),
    });
    let found = match tightest {
        None => Finding::ok(CHECK, format!("{usable} of {machine}")),
        Some(limit) => Finding::note(CHECK, format!("{usable} of {machine}: {}", limit.source)),
    };
    let mut findings = vec![found.with(facts)];
    if let Some(threads) = threads.filter(|threads| *threads > usable) {
        findings.push(Finding::warning(
            "threads",
            format!(
                "--threads or CTSEG_THREADS is {threads}, but the limit is {}",
                counted(usable, "core")
            ),
            format!(
                "more threads than cores slow each other down{}; unset both, or use {usable}",
                match tightest.map(|limit| &limit.source) {
                    Some(CoreSource::Quota { .. }) => ", and the CPU quota throttles all of them",
                    _ => "",
                }
            ),
        ));
    }
    findings.extend(loader(host, usable));
    findings
}

/// `CTSEG_LOADER_THREADS`, in addition to the compute threads.
fn loader(host: &Host, usable: usize) -> Option<Finding> {
    let threads: usize = host.variable("CTSEG_LOADER_THREADS")?.parse().ok()?;
    let found = format!(
        "CTSEG_LOADER_THREADS is {threads}, but the limit is {}",
        counted(usable, "core")
    );
    let advice = format!("use {usable} or fewer, or unset it");
    (threads > usable).then(|| Finding::warning("threads", found, advice))
}
