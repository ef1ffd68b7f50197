//! Copies of a dataset's files that are read in their stead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctseg_base::Result;

/// For each file that has one, where its copy lies.
#[derive(Debug, Clone, Default)]
pub struct Copies(Arc<HashMap<PathBuf, PathBuf>>);

impl From<HashMap<PathBuf, PathBuf>> for Copies {
    fn from(copies: HashMap<PathBuf, PathBuf>) -> Self {
        Self(Arc::new(copies))
    }
}

impl Copies {
    /// Reads a file's copy, and the file itself where it has none or the copy cannot be used (it was cleared away,
    /// its disk fails): errors are always about the file.
    pub fn read<T>(&self, file: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<T> {
        match self.0.get(file) {
            Some(copy) => read(copy).or_else(|_| read(file)),
            None => read(file),
        }
    }

    /// How many files have one.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no file has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
