//! Copies of a dataset's files, read instead of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ctseg_base::Result;

/// The path of each file's copy.
#[derive(Debug, Clone, Default)]
pub struct Copies(Arc<HashMap<PathBuf, PathBuf>>);

impl From<HashMap<PathBuf, PathBuf>> for Copies {
    fn from(copies: HashMap<PathBuf, PathBuf>) -> Self {
        Self(Arc::new(copies))
    }
}

impl Copies {
    /// Reads a file's copy, or the file itself if there is no copy or it cannot be read (it was deleted, its disk
    /// fails). Errors always name the file.
    pub fn read<T>(&self, file: &Path, read: impl Fn(&Path) -> Result<T>) -> Result<T> {
        match self.0.get(file) {
            Some(copy) => read(copy).or_else(|_| read(file)),
            None => read(file),
        }
    }

    /// Number of files with a copy.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no file has a copy.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
