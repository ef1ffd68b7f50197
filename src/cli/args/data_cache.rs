//! Flags for training data on local storage: the cache of preprocessed cases, the copy of the dataset.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::bytes::parse_bytes;
use crate::cli::config::Config;
use crate::cli::env::{TMPDIR, is_variable};
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::scratch_copy::staged;
use ctseg_train::data::preprocessed_cache::PreprocessedCache;

/// Default size of the case cache: 50 GiB.
const CASE_CACHE_BYTES: u64 = 50 << 30;

#[derive(Args)]
pub(crate) struct StorageArgs {
    /// Cache preprocessed cases in this folder, shared by folds, runs and processes
    #[arg(long, env = "CTSEG_CASE_CACHE", value_name = "DIR")]
    case_cache: Option<PathBuf>,
    /// Maximum size of the case cache; the least recently used cases are evicted [default: 50G]
    #[arg(long, env = "CTSEG_CASE_CACHE_SIZE", value_name = "SIZE", value_parser = parse_bytes)]
    case_cache_size: Option<u64>,
    /// Copy the training cases to this local folder first and read them there [without a value: $TMPDIR]
    #[arg(long, env = "CTSEG_SCRATCH", value_name = "DIR", num_args = 0..=1, default_missing_value = TMPDIR)]
    scratch: Option<PathBuf>,
}

/// Storage settings from flags, environment and settings file.
pub(crate) struct Storage {
    /// The cache of preprocessed cases, if enabled.
    pub(crate) preprocessed_cache: Option<PreprocessedCache>,
    scratch: Option<PathBuf>,
}

impl StorageArgs {
    /// # Errors
    /// The size is invalid, or TMPDIR is requested and not set.
    pub(crate) fn storage(&self, config: &Config) -> Result<Storage> {
        let folder = self.case_cache.as_ref().or(config.case_cache.as_ref());
        let most_bytes = match (self.case_cache_size, &config.case_cache_size) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => parse_bytes(text)?,
            (None, None) => CASE_CACHE_BYTES,
        };
        let scratch = self.scratch.as_ref().or(config.scratch.as_ref());
        Ok(Storage {
            preprocessed_cache: folder.map(|folder| PreprocessedCache::new(folder, most_bytes)),
            scratch: scratch.map(|folder| resolved(folder)).transpose()?,
        })
    }
}

impl Storage {
    /// The dataset, copied to the scratch folder if one is set, see [`staged`].
    pub(crate) fn staged(
        &self,
        dataset: Dataset,
        stop: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<Dataset> {
        match &self.scratch {
            Some(scratch) => staged(dataset, scratch, stop, observer),
            None => Ok(dataset),
        }
    }
}

fn resolved(folder: &Path) -> Result<PathBuf> {
    if !is_variable(folder) {
        return Ok(folder.to_path_buf());
    }
    let set = std::env::var_os("TMPDIR").filter(|value| !value.is_empty());
    set.map(PathBuf::from).ok_or_else(|| {
        Error::usage("--scratch: TMPDIR is not set; pass a folder on a local disk: --scratch DIR")
    })
}
