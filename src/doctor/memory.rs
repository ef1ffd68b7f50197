//! Memory: the limit, where it comes from, and whether it is enough.

use serde_json::json;

use super::Finding;
use ctseg_base::limits::host::Host;
use ctseg_base::limits::memory::{Memory, MemoryLimit, MemorySource};
use ctseg_base::text::bytes::binary;

const CHECK: &str = "memory";

/// Below this, a CT of typical size may not fit, whatever the model.
const LOW_BYTES: u64 = 2 << 30;

/// Memory needed by the configured model for a CT of typical size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub bytes: u64,
    /// Such as `512 × 512 × 400 voxels`.
    pub volume: String,
}

pub fn findings(host: &Host, needed: Option<&Needed>) -> Vec<Finding> {
    let memory = Memory::of(host);
    let Some(limit) = memory.limit() else {
        return vec![Finding::note(CHECK, "unknown")];
    };
    let facts = json!({
        "machine_bytes": memory.machine_bytes, "limit_bytes": limit.bytes,
        "limit_source": limit.source.to_string(), "available_bytes": memory.available_bytes,
        "needed_bytes": needed.map(|needed| needed.bytes),
    });
    let mut found = binary(limit.bytes);
    if limit.source != MemorySource::Machine {
        let all = memory.machine_bytes.map(binary);
        let of_all = all.map_or_else(String::new, |all| format!(" of {all}"));
        found += &format!("{of_all}: {}", limit.source);
    }
    if let Some(bytes) = memory.available_bytes {
        found += &format!("; {} available now", binary(bytes));
    }
    let more = more(&limit);
    let finding = match needed {
        Some(needed) if needed.bytes > limit.bytes => Finding::warning(
            CHECK,
            format!(
                "{found}; the model needs about {} for a CT of {}",
                binary(needed.bytes),
                needed.volume
            ),
            format!("{more}; or predict with --max-ram {}", max_ram(limit.bytes)),
        ),
        _ if limit.bytes < LOW_BYTES => Finding::warning(
            CHECK,
            format!("{found}; whole CT volumes need more than 2 GiB"),
            more,
        ),
        _ if memory
            .available_bytes
            .is_some_and(|bytes| bytes < LOW_BYTES) =>
        {
            Finding::warning(
                CHECK,
                found,
                "other processes use the rest: stop some, or wait for them",
            )
        }
        _ => Finding::ok(CHECK, found),
    };
    vec![finding.with(facts)]
}

/// How to get more memory.
fn more(limit: &MemoryLimit) -> &'static str {
    match limit.source {
        MemorySource::Machine => "use a machine with more memory",
        MemorySource::AddressSpace => "raise the limit: ulimit -v unlimited",
        MemorySource::Slurm { .. } => "request more from Slurm: --mem=16G",
        MemorySource::Group { .. } => {
            "raise the limit: docker run --memory, resources.limits.memory in Kubernetes, sbatch --mem"
        }
    }
}

/// 90 % of it, in the format of `--max-ram`.
fn max_ram(bytes: u64) -> String {
    format!("{}M", (bytes / 10 * 9) >> 20)
}
