//! `converted.jsonl`: which cases are done, from which files and to which, so that they are kept by the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::outputs::sidecar::Written;

pub(super) const JOURNAL: &str = "converted.jsonl";

/// A case that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its name in the converted dataset.
    pub case: String,
    /// In the source.
    pub id: String,
    pub test: bool,
    /// Label values that occur.
    pub present: BTreeSet<u16>,
    /// Whether SimpleITK cannot read the image.
    pub needs_nibabel: bool,
    pub sources: Vec<SourceFile>,
    /// Paths relative to the dataset's folder.
    pub written: BTreeMap<PathBuf, Written>,
}

/// A file of the source as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    #[serde(with = "os_text::path")]
    pub path: PathBuf,
    pub bytes: u64,
    /// Since 1970.
    pub modified_ns: u64,
}

impl SourceFile {
    pub fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        let modified = metadata
            .modified()
            .map_err(Error::io(path, "ask for the age of"))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            path: path.canonicalize().map_err(Error::io(path, "find"))?,
            bytes: metadata.len(),
            modified_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

impl Record {
    /// Whether its files below `folder` are those that were written, to the last byte.
    pub fn is_whole(&self, folder: &Path) -> bool {
        let mut files = self.written.iter();
        !self.written.is_empty() && files.all(|(path, written)| written.is_at(&folder.join(path)))
    }
}

/// The file, open for more.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// What an earlier run has noted, by the cases' names; a line that a kill has cut off is left out.
    pub fn read(folder: &Path) -> BTreeMap<String, Record> {
        let text = read_text(&folder.join(JOURNAL)).unwrap_or_default();
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        records
            .map(|record: Record| (record.case.clone(), record))
            .collect()
    }

    /// Begins the file anew with these records.
    pub fn begin<'a>(folder: &Path, records: impl Iterator<Item = &'a Record>) -> Result<Self> {
        let path = folder.join(JOURNAL);
        let mut text = String::new();
        for record in records {
            text += &line(&path, record)?;
        }
        write_bytes_atomically(&path, text.as_bytes())?;
        let file = regular_file::append_to(&path);
        let file = Mutex::new(file.map_err(Error::io(&path, "write"))?);
        Ok(Self { path, file })
    }

    /// Notes that a case is done.
    pub fn note(&self, record: &Record) -> Result<()> {
        let line = line(&self.path, record)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(Error::io(&self.path, "write"))
    }
}

fn line(path: &Path, record: &Record) -> Result<String> {
    let text = serde_json::to_string(record)
        .map_err(|error| Error::file(path, format!("cannot note a case: {error}")))?;
    Ok(text + "\n")
}
