//! Cores: the machine's, what this process may use and why, and whether it is told to use more.

use serde_json::json;

use super::Finding;
use ctseg_base::limits::cores::{CoreSource, Cores};
use ctseg_base::limits::host::Host;
use ctseg_base::text::words::counted;

const CHECK: &str = "cores";

/// `threads` is what `--threads` or its variable say; `used` is what computes without them.
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
                "--threads or CTSEG_THREADS is {threads}, and {} may be used",
                counted(usable, "core")
            ),
            format!(
                "more threads than cores wait for each other{}; leave both out, or say {usable}",
                match tightest.map(|limit| &limit.source) {
                    Some(CoreSource::Quota { .. }) =>
                        ", and a quota stops them all when it is used up",
                    _ => "",
                }
            ),
        ));
    }
    findings.extend(loader(host, usable));
    findings
}

/// `CTSEG_LOADER_THREADS`, which is beside what computes.
fn loader(host: &Host, usable: usize) -> Option<Finding> {
    let threads: usize = host.variable("CTSEG_LOADER_THREADS")?.parse().ok()?;
    let found = format!(
        "CTSEG_LOADER_THREADS is {threads}, and {} may be used",
        counted(usable, "core")
    );
    let advice = format!("expected {usable} or fewer, or none at all");
    (threads > usable).then(|| Finding::warning("threads", found, advice))
}
