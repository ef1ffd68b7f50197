//! `converted.jsonl`: finished cases with their source and output files, so that the next run keeps them.

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

/// A finished case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Case name in the converted dataset.
    pub case: String,
    /// Case id in the source dataset.
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

/// A source file as it was when read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    #[serde(with = "os_text::path")]
    pub path: PathBuf,
    pub bytes: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: u64,
}

impl SourceFile {
    pub fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        let modified = metadata
            .modified()
            .map_err(Error::io(path, "read the modification time of"))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            path: path.canonicalize().map_err(Error::io(path, "find"))?,
            bytes: metadata.len(),
            modified_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        })
    }
}

impl Record {
    /// Whether its files below `folder` are unchanged since they were written.
    pub fn is_intact(&self, folder: &Path) -> bool {
        let mut files = self.written.iter();
        !self.written.is_empty() && files.all(|(path, written)| written.matches(&folder.join(path)))
    }
}

/// The journal, open for appending.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<Appended>,
}

struct Appended {
    file: File,
    /// Whether the file may end in a partial line, after a failed write.
    is_torn: bool,
}

impl Journal {
    /// Records of an earlier run, by case name; a truncated line is ignored.
    pub fn read(folder: &Path) -> BTreeMap<String, Record> {
        // Bytes, not text: a line may be truncated within a character.
        let text = regular_file::read(&folder.join(JOURNAL)).unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n');
        let records = lines.filter_map(|line| serde_json::from_slice(line).ok());
        records
            .map(|record: Record| (record.case.clone(), record))
            .collect()
    }

    /// Writes a new file with these records and keeps it open.
    pub fn create<'a>(folder: &Path, records: impl Iterator<Item = &'a Record>) -> Result<Self> {
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

    /// Appends a finished case.
    pub fn append(&self, record: &Record) -> Result<()> {
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
        .map_err(|error| Error::file(path, format!("cannot record a case: {error}")))?;
    Ok(text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_truncated_by_a_full_disk_loses_only_its_case() {
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
        let journal = Journal::create(folder.path(), [record("a")].iter()).unwrap();
        let put = |file| std::mem::replace(&mut journal.file.lock().unwrap().file, file);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let own = put(full);
        assert!(journal.append(&record("größe")).is_err());
        drop(put(own));
        // The part written before the disk was full ends within a character.
        let torn = line(Path::new(JOURNAL), &record("größe")).unwrap();
        let end = torn.find('ö').unwrap() + 1;
        let torn = &torn.as_bytes()[..end];
        journal.file.lock().unwrap().file.write_all(torn).unwrap();
        journal.append(&record("b")).unwrap();
        let found = Journal::read(folder.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
    }
}
