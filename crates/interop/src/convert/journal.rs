//! `converted.jsonl`: which cases are done, from which files and to which, so that they are kept by the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use ctseg_base::atomic_file::write_bytes_atomically;
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
    file: Mutex<Appended>,
}

struct Appended {
    file: File,
    /// Whether it may end within a line, which a full disk has cut off.
    is_torn: bool,
}

impl Journal {
    /// What an earlier run has noted, by the cases' names; a line that a kill has cut off is left out.
    pub fn read(folder: &Path) -> BTreeMap<String, Record> {
        // A line may be cut off within a character, too.
        let text = regular_file::read(&folder.join(JOURNAL)).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n');
        let records = lines.filter_map(|line| serde_json::from_slice(line).ok());
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
        let file = regular_file::append_to(&path).map_err(Error::io(&path, "write"))?;
        let is_torn = false;
        let file = Mutex::new(Appended { file, is_torn });
        Ok(Self { path, file })
    }

    /// Notes that a case is done.
    pub fn note(&self, record: &Record) -> Result<()> {
        let mut line = line(&self.path, record)?;
        let mut to = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if to.is_torn {
            line.insert(0, '\n');
        }
        let written = to.file.write_all(line.as_bytes());
        to.is_torn = written.is_err();
        written
            .and_then(|()| to.file.sync_data())
            .map_err(Error::io(&self.path, "write"))
    }
}

fn line(path: &Path, record: &Record) -> Result<String> {
    let text = serde_json::to_string(record)
        .map_err(|error| Error::file(path, format!("cannot note a case: {error}")))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_full_disk_cut_off_costs_its_case_alone() {
        let folder = tempfile::tempdir().unwrap();
        let record = |case: &str| Record {
            case: case.to_owned(),
            id: String::new(),
            test: false,
            present: BTreeSet::new(),
            needs_nibabel: false,
            sources: Vec::new(),
            written: BTreeMap::new(),
        };
        let journal = Journal::begin(folder.path(), [record("a")].iter()).unwrap();
        let put = |file| std::mem::replace(&mut journal.file.lock().unwrap().file, file);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let own = put(full);
        assert!(journal.note(&record("größe")).is_err());
        drop(put(own));
        // What came to the disk before it was full ends within a character.
        let torn = line(Path::new(JOURNAL), &record("größe")).unwrap();
        let end = torn.find('ö').unwrap() + 1;
        let torn = &torn.as_bytes()[..end];
        journal.file.lock().unwrap().file.write_all(torn).unwrap();
        journal.note(&record("b")).unwrap();
        let found = Journal::read(folder.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
    }
}
