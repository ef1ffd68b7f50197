//! Memory limits: the batching that keeps within one, and the volumes that do not fit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::batching::Batching;
use super::cascade::Cascade;
use super::memory::{MemoryUse, Overhead};
use super::stage::check_extent;
use ctseg_base::limits::memory::usable;
use ctseg_base::limits::threads::resident_bytes;
use ctseg_base::{Error, Result};
use ctseg_image::formats::read_header;
use ctseg_image::space::Grid;

/// Error messages mention a network's grid that has more than this many times the file's voxels.
const FINER: usize = 8;

/// The memory limit of a batch of volumes.
#[derive(Debug)]
pub struct BatchMemoryLimit {
    pub bytes: u64,
    /// Whether probabilities are exported too.
    pub with_probabilities: bool,
    /// The volumes' grids; unreadable and implausible headers fail later, case by case.
    headers: Vec<(PathBuf, Grid)>,
    /// Volumes that do not fit: the largest minimum over the models, in bytes, and the message.
    refused: RefCell<BTreeMap<PathBuf, (u64, String)>>,
}

impl BatchMemoryLimit {
    /// Reads the headers of `inputs`.
    pub fn new(bytes: u64, inputs: &[PathBuf], with_probabilities: bool) -> Self {
        let headers = inputs.iter().filter_map(|input| {
            let grid = read_header(input).ok()?.grid;
            check_extent(&grid).ok()?;
            Some((input.clone(), grid))
        });
        Self {
            bytes,
            with_probabilities,
            headers: headers.collect(),
            refused: RefCell::default(),
        }
    }

    /// The volumes that at least one model cannot segment within the limit, and why.
    pub fn refused(self) -> BTreeMap<PathBuf, String> {
        let refused = self.refused.into_inner().into_iter();
        refused.map(|(input, (_, why))| (input, why)).collect()
    }

    fn refuse(&self, input: &Path, bytes: u64, why: String) {
        let mut refused = self.refused.borrow_mut();
        if refused.get(input).is_none_or(|(known, _)| bytes > *known) {
            refused.insert(input.to_path_buf(), (bytes, why));
        }
    }
}

/// The memory that a volume needs, including the process and its models.
struct Needed {
    resident: u64,
    usage: MemoryUse,
    source: Grid,
}

impl Needed {
    fn bytes(&self) -> u64 {
        self.resident.saturating_add(self.usage.peak())
    }

    /// The error message; `available` states the limit, `advice` what to do.
    fn message(&self, available: &str, advice: &str) -> String {
        let usage = &self.usage;
        let [own, network] = [self.source.shape, usage.network_shape];
        let voxels = |[x, y, z]: [usize; 3]| format!("{x} × {y} × {z}");
        let finer = match network.iter().product::<usize>() / FINER > self.source.voxels() {
            true => format!(
                " ({} voxels become {} at the network's spacing)",
                voxels(own),
                voxels(network)
            ),
            false => String::new(),
        };
        format!(
            "needs at least {} of memory, but {available}: {} for the process and its model, {} for the volume, up to {} of working memory{finer}; {advice}",
            megabytes(self.bytes()),
            megabytes(self.resident),
            megabytes(usage.volume),
            megabytes(usage.peak().saturating_sub(usage.volume)),
        )
    }
}

impl Cascade {
    /// Refuses a volume on `source` that needs more memory than this process can use, before anything is allocated by
    /// its header. The region of interest counts as the whole volume; `resident` are the bytes of the process and its
    /// models.
    ///
    /// # Errors
    /// The volume does not fit; the message names both sizes and what to do.
    pub fn check_memory(
        &self,
        source: &Grid,
        with_probabilities: bool,
        overhead: Overhead,
        resident: u64,
    ) -> Result<()> {
        let least = Batching::LEAST;
        let usage = self
            .memory_use(source, &least, with_probabilities)?
            .with_overhead(overhead, source);
        let needed = Needed {
            resident,
            usage,
            source: *source,
        };
        let Some(limit) = usable().filter(|limit| limit.bytes < needed.bytes()) else {
            return Ok(());
        };
        let available = format!(
            "this process can use {} ({})",
            megabytes(limit.bytes),
            limit.source
        );
        let advice = format!(
            "check the spacing in its header, use a machine with more memory, or pass --max-ram {} to try anyway",
            megabytes(needed.bytes())
        );
        Err(Error::out_of_memory(needed.message(&available, &advice)))
    }
}

/// The cascade with the largest batching that keeps within the limit, see [`batching_within`].
pub fn within(cascade: Cascade, limit: &BatchMemoryLimit) -> Cascade {
    let batching = batching_within(&cascade, limit, Overhead::default());
    cascade.with_batching(&batching)
}

/// The largest batching with which every volume, and the overhead, fits within the limit. Volumes that do not fit with
/// any batching are [refused](BatchMemoryLimit::refused) and ignored.
pub fn batching_within(
    cascade: &Cascade,
    limit: &BatchMemoryLimit,
    overhead: Overhead,
) -> Batching {
    let resident = resident_bytes();
    let needed = |source: &Grid, batching: &Batching| {
        let usage = cascade.memory_use(source, batching, limit.with_probabilities)?;
        Ok::<_, Error>(Needed {
            resident,
            usage: usage.with_overhead(overhead, source),
            source: *source,
        })
    };
    let mut fitting = Vec::new();
    for (input, source) in &limit.headers {
        match needed(source, &Batching::LEAST) {
            Ok(needed) if needed.bytes() <= limit.bytes => fitting.push(source),
            Ok(needed) => {
                let available = format!("--max-ram is {}", megabytes(limit.bytes));
                let why = needed.message(&available, "raise --max-ram, or leave this volume out");
                limit.refuse(input, needed.bytes(), why);
            }
            Err(error) => limit.refuse(input, u64::MAX, error.to_string()),
        }
    }
    let fits = |batching: &&Batching| {
        fitting.iter().all(|source| {
            let needed = needed(source, batching);
            needed.is_ok_and(|needed| needed.bytes() <= limit.bytes)
        })
    };
    let first = Batching::LEVELS.iter().find(fits);
    first.copied().unwrap_or(Batching::LEAST)
}

/// In MiB, rounded up, in the notation of `--max-ram`.
fn megabytes(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}
