//! Checks whether the partitions and nodes of a cluster can run a job.

use std::time::Duration;

use super::output_of;
use super::script::Job;
use super::span::{Span, written};
use ctseg_base::Result;

/// A partition, from `scontrol show partition`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Partition {
    name: String,
    is_default: bool,
    is_up: bool,
    longest: Option<Span>,
}

/// Resources of a node, or requested by a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Node {
    cpus: u64,
    memory_mib: u64,
    gpus: u64,
}

/// Problems of the jobs, one per line; empty if all can run.
///
/// # Errors
/// A Slurm command fails.
pub fn problems(jobs: &[Job]) -> Result<Vec<String>> {
    let arguments =
        |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    // -a includes hidden partitions, which jobs may use.
    let shown = output_of("scontrol", &arguments(&["-a", "show", "partition", "-o"]))?;
    let partitions: Vec<Partition> = shown.lines().filter_map(partition_of).collect();
    let config = output_of("scontrol", &arguments(&["show", "config"]))?;
    let max_array_size = max_array_size(&config);
    // sinfo takes -a or -p, not both.
    let nodes = output_of(
        "sinfo",
        &arguments(&["-h", "-N", "-a", "-o", "%R|%c|%m|%G"]),
    )?;
    let mut found = Vec::new();
    for job in jobs {
        let mut add = |problem: String| {
            let line = format!("{}: {problem}", job.name());
            if !found.contains(&line) {
                found.push(line);
            }
        };
        array_problem(job, max_array_size).map(&mut add);
        time_problem(job).map(&mut add);
        let partition = match chosen(job, &partitions) {
            Ok(partition) => partition,
            Err(problem) => {
                add(problem);
                continue;
            }
        };
        partition_problem(job, partition).map(&mut add);
        let own = nodes.lines().filter_map(node_of);
        let own = own.filter(|(name, _)| *name == partition.name);
        let own: Vec<Node> = own.map(|(_, node)| node).collect();
        node_problem(job, partition, &own).map(&mut add);
    }
    Ok(found)
}

fn partition_of(line: &str) -> Option<Partition> {
    let of = |name: &str| {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    Some(Partition {
        name: of("PartitionName")?.to_owned(),
        is_default: of("Default") == Some("YES"),
        is_up: of("State") == Some("UP"),
        longest: of("MaxTime").and_then(Span::parse),
    })
}

/// A node and its partition from `work|8|64000|gpu:a100:4(S:0-1)`; numbers may end with `+`.
fn node_of(line: &str) -> Option<(&str, Node)> {
    let mut parts = line.split('|');
    let partition = parts.next()?.trim();
    let mut number = || parts.next()?.trim().trim_end_matches('+').parse().ok();
    let (cpus, memory_mib) = (number()?, number()?);
    let resources = parts.next().unwrap_or_default().split(',');
    let gpus = resources.filter_map(|resource| {
        let resource = resource.trim().split('(').next()?;
        let (kind, count) = resource.rsplit_once(':')?;
        (kind == "gpu" || kind.starts_with("gpu:")).then(|| count.parse::<u64>().ok())?
    });
    let node = Node {
        cpus,
        memory_mib,
        gpus: gpus.sum(),
    };
    Some((partition, node))
}

/// Task IDs of an array are below this.
fn max_array_size(config: &str) -> Option<u64> {
    let mut lines = config.lines();
    lines.find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "MaxArraySize").then(|| value.trim().parse().ok())?
    })
}

fn chosen<'a>(job: &Job, partitions: &'a [Partition]) -> Result<&'a Partition, String> {
    let names = || {
        let names: Vec<&str> = partitions.iter().map(|p| p.name.as_str()).collect();
        names.join(", ")
    };
    // sbatch uses it if the script sets no partition.
    let variable = std::env::var("SBATCH_PARTITION").ok();
    let variable = variable.as_deref().filter(|name| !name.is_empty());
    match job.option("partition").or(variable) {
        // Of several partitions, Slurm takes the first free one; check only the first in the list.
        Some(named) => {
            let first = named.split(',').next().unwrap_or(named);
            let known = partitions.iter().find(|p| p.name == first);
            known.ok_or_else(|| format!("unknown partition '{first}'; expected one of {}", names()))
        }
        None => {
            let default = partitions.iter().find(|p| p.is_default);
            default.ok_or_else(|| {
                format!(
                    "the cluster has no default partition; choose one of {} with --partition",
                    names()
                )
            })
        }
    }
}

fn array_problem(job: &Job, max_array_size: Option<u64>) -> Option<String> {
    let array = job.option("array")?;
    let numbers = array.split('%').next()?.split([',', '-', ':']);
    let last: u64 = numbers.filter_map(|n| n.parse().ok()).max()?;
    let limit = max_array_size?;
    (last >= limit).then(|| {
        format!(
            "array task {last} exceeds the largest task ID of the cluster, {} (MaxArraySize)",
            limit - 1
        )
    })
}

fn time_of(job: &Job) -> Option<Duration> {
    match Span::parse(job.option("time")?) {
        Some(Span::Of(time)) => Some(time),
        _ => None,
    }
}

/// With a stop signal due before the job starts, the job would stop at once and be requeued forever.
fn time_problem(job: &Job) -> Option<String> {
    let (_, before) = job.option("signal")?.rsplit_once('@')?;
    let before = Duration::from_secs(before.parse().ok()?);
    let time = time_of(job).filter(|time| *time <= before)?;
    Some(format!(
        "time limit {} does not exceed the lead of the stop signal, {}; request more time, or set \
         --sbatch-arg=--signal=B:USR1@SECONDS",
        written(time),
        written(before)
    ))
}

fn partition_problem(job: &Job, partition: &Partition) -> Option<String> {
    let name = &partition.name;
    if !partition.is_up {
        return Some(format!(
            "partition '{name}' accepts no jobs (state is not UP)"
        ));
    }
    let time = time_of(job).map(Span::Of)?;
    match (time, partition.longest?) {
        (Span::Of(asked), Span::Of(longest)) if asked > longest => Some(format!(
            "time limit {}; partition '{name}' allows at most {}: lower --time",
            written(asked),
            written(longest)
        )),
        _ => None,
    }
}

/// Memory in MiB from `16G`, `512M` or a number of MiB.
fn memory_mib(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" => Some(number.div_ceil(1024)),
        "" | "M" | "MB" => Some(number),
        "G" | "GB" => number.checked_mul(1 << 10),
        "T" | "TB" => number.checked_mul(1 << 20),
        _ => None,
    }
}

fn node_problem(job: &Job, partition: &Partition, nodes: &[Node]) -> Option<String> {
    let gpus = job.option("gres").and_then(|resource| {
        let (kind, count) = resource.rsplit_once(':')?;
        (kind == "gpu" || kind.starts_with("gpu:")).then(|| count.parse().ok())?
    });
    let requested = Node {
        cpus: job
            .option("cpus-per-task")
            .and_then(|n| n.parse().ok())
            .unwrap_or(1),
        memory_mib: job.option("mem").and_then(memory_mib).unwrap_or(0),
        gpus: gpus.unwrap_or(0),
    };
    let fits = |node: &Node| {
        node.cpus >= requested.cpus
            && node.memory_mib >= requested.memory_mib
            && node.gpus >= requested.gpus
    };
    if nodes.iter().any(fits) {
        return None;
    }
    let most = |of: fn(&Node) -> u64| nodes.iter().map(of).max().unwrap_or(0);
    Some(format!(
        "no node of partition '{}' has {} CPUs, {} MiB of memory and {} GPUs; its {} nodes have up to {}, {} and {}: \
         lower --cpus, --mem or --gpus",
        partition.name,
        requested.cpus,
        requested.memory_mib,
        requested.gpus,
        nodes.len(),
        most(|node| node.cpus),
        most(|node| node.memory_mib),
        most(|node| node.gpus),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_slurm_is_parsed() {
        let line =
            "PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=2-00:00:00 State=UP TotalCPUs=2";
        let found = partition_of(line).unwrap();
        assert_eq!(found.longest, Some(Span::Of(Duration::from_secs(172_800))));
        assert!(found.name == "gpu" && found.is_up && !found.is_default);
        let node = |cpus, memory_mib, gpus| {
            let node = Node {
                cpus,
                memory_mib,
                gpus,
            };
            Some(("work", node))
        };
        assert_eq!(node_of("work|1|65536|(null)"), node(1, 65536, 0));
        assert_eq!(
            node_of("work|64+|515000+|gpu:a100:4(S:0-1),gpu:v100:2"),
            node(64, 515_000, 6)
        );
        assert_eq!(node_of("work|8|32000|gpu:2,shard:8"), node(8, 32000, 2));
        assert_eq!(node_of("what"), None);
        assert_eq!(
            max_array_size("MaxJobCount = 10\nMaxArraySize            = 1001\n"),
            Some(1001)
        );
        assert_eq!(memory_mib("16G"), Some(16384));
        assert_eq!((memory_mib("512"), memory_mib("x")), (Some(512), None));
    }
}
