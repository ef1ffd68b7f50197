//! How memory is kept below a limit, and which volumes need more than there is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::batching::Frugality;
use super::cascade::Cascade;
use super::memory::{Beside, Demand};
use super::stage::check_extent;
use ctseg_base::limits::memory::reachable;
use ctseg_base::limits::threads::resident_bytes;
use ctseg_base::{Error, Result};
use ctseg_image::formats::read_header;
use ctseg_image::space::Grid;

/// A network's grid of so many times the file's voxels is worth a word.
const FINER: usize = 8;

/// Most memory that the segmentation of volumes may take.
#[derive(Debug)]
pub struct Limit {
    pub bytes: u64,
    /// Whether somebody hears the probabilities.
    pub telling: bool,
    /// Of the volumes; what cannot be read or be true fails later, by itself.
    headers: Vec<(PathBuf, Grid)>,
    /// The most that volumes need at least, where that is more, and what there is to say about it.
    refused: RefCell<BTreeMap<PathBuf, (u64, String)>>,
}

impl Limit {
    /// For these volumes, whose headers are read.
    pub fn new(bytes: u64, inputs: &[PathBuf], telling: bool) -> Self {
        let headers = inputs.iter().filter_map(|input| {
            let grid = read_header(input).ok()?.grid;
            check_extent(&grid).ok()?;
            Some((input.clone(), grid))
        });
        Self {
            bytes,
            telling,
            headers: headers.collect(),
            refused: RefCell::default(),
        }
    }

    /// The volumes that some of the models which were asked about cannot segment within the limit, and why.
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

/// What a volume takes, with the process and its models.
struct Needed {
    resident: u64,
    demand: Demand,
    source: Grid,
}

impl Needed {
    fn bytes(&self) -> u64 {
        self.resident.saturating_add(self.demand.peak())
    }

    /// `than` says how much there is, `instead` what to do.
    fn is_more(&self, than: &str, instead: &str) -> String {
        let demand = &self.demand;
        let [own, network] = [self.source.shape, demand.network_shape];
        let voxels = |[x, y, z]: [usize; 3]| format!("{x} × {y} × {z}");
        let finer = match network.iter().product::<usize>() / FINER > self.source.voxels() {
            true => format!(
                " ({} voxels become {} in the network's spacing)",
                voxels(own),
                voxels(network)
            ),
            false => String::new(),
        };
        format!(
            "needs {} of memory at least, and {than}: {} for the process with its model, {} for the volume, up to {} beside it{finer}; {instead}",
            megabytes(self.bytes()),
            megabytes(self.resident),
            megabytes(demand.volume),
            megabytes(demand.peak().saturating_sub(demand.volume)),
        )
    }
}

impl Cascade {
    /// Refuses a volume on `source` that takes more than this process can hold, its region of interest being the whole
    /// volume, before any memory is sized by its header; `resident` is what the process with its models holds.
    ///
    /// # Errors
    /// How much it takes, how much there is, and what to do.
    pub fn check_memory(
        &self,
        source: &Grid,
        telling: bool,
        beside: Beside,
        resident: u64,
    ) -> Result<()> {
        let least = Frugality::LEAST;
        let demand = self.demand(source, &least, telling)?.beside(beside, source);
        let needed = Needed {
            resident,
            demand,
            source: *source,
        };
        let Some(limit) = reachable().filter(|limit| limit.bytes < needed.bytes()) else {
            return Ok(());
        };
        let than = format!(
            "this process can take {} ({})",
            megabytes(limit.bytes),
            limit.source
        );
        let instead = format!(
            "check the spacing in its header, use a machine with more memory, or try all the same with --max-ram {}",
            megabytes(needed.bytes())
        );
        Err(Error::invalid(needed.is_more(&than, &instead)))
    }
}

/// The cascade, frugal enough for every volume to be segmented within the limit if it can be, see
/// [`frugality_within`].
pub fn within(cascade: Cascade, limit: &Limit) -> Cascade {
    let frugality = frugality_within(&cascade, limit, Beside::default());
    cascade.frugal(&frugality)
}

/// How a cascade keeps to a limit of memory with every volume, and with what lies beside it; volumes that need more
/// in any case are [refused](Limit::refused) and count no further.
pub fn frugality_within(cascade: &Cascade, limit: &Limit, beside: Beside) -> Frugality {
    let resident = resident_bytes();
    let needed = |source: &Grid, frugality: &Frugality| {
        let demand = cascade.demand(source, frugality, limit.telling)?;
        Ok::<_, Error>(Needed {
            resident,
            demand: demand.beside(beside, source),
            source: *source,
        })
    };
    let mut fitting = Vec::new();
    for (input, source) in &limit.headers {
        match needed(source, &Frugality::LEAST) {
            Ok(needed) if needed.bytes() <= limit.bytes => fitting.push(source),
            Ok(needed) => {
                let than = format!("--max-ram is {}", megabytes(limit.bytes));
                let why = needed.is_more(&than, "raise --max-ram, or leave this volume out");
                limit.refuse(input, needed.bytes(), why);
            }
            Err(error) => limit.refuse(input, u64::MAX, error.to_string()),
        }
    }
    let keeps = |frugality: &&Frugality| {
        fitting.iter().all(|source| {
            let needed = needed(source, frugality);
            needed.is_ok_and(|needed| needed.bytes() <= limit.bytes)
        })
    };
    let first = Frugality::STEPS.iter().find(keeps);
    first.copied().unwrap_or(Frugality::LEAST)
}

/// In whole MB (of 2^20 bytes, as limits are given), rounded up.
fn megabytes(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}
