//! Cases that any number of processes on shared storage take from one list, each case by one of them.
//!
//! All that they know of each other lies in one folder:
//!
//! - `process-<process>`: touched every so often while the process lives, removed when it ends in order;
//! - `<case>.claim-<n>`: who has taken the case; numbered, because the case of a process that died is taken anew: of
//!   several that see it dead only one can make the next number;
//! - `<case>.json`: what came of the case.
//!
//! Names come to be by `link`, which is atomic on NFS too. Times are compared with those that the same file system
//! gives to files just touched: the clocks of machines may differ.

mod heartbeat;
pub mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::CaseState;
use crate::shard::output_name;
use ctseg_base::atomic_file::{create_folder, temporary_file, write_bytes_atomically};
use ctseg_base::process::id::ProcessId;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::sidecar::sidecar_path;

use heartbeat::Heartbeat;

/// Characters of a case's name that its files in the folder begin with.
const NAME_CHARACTERS: usize = 60;

/// Where and how cases are claimed.
#[derive(Debug, Clone)]
pub struct Claiming {
    pub folder: PathBuf,
    /// A process on another machine that was not heard of for so long is taken for dead; a dead one on the same
    /// machine is seen at once.
    pub expiry: Duration,
}

/// What came of asking for a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    Ours,
    /// Another process has it.
    Busy,
    /// It is done, or has failed in a run that is going on.
    Settled,
}

/// This process's part in a shared batch.
pub struct Claims {
    folder: PathBuf,
    expiry: Duration,
    /// This process's name in the folder.
    process: String,
    /// Hash of all that decides, beside the input, what a label map is like.
    way: String,
    cases: Vec<Claimed>,
    /// Cases that failed before this process began, in processes that have ended: they are tried again.
    failed_before: BTreeMap<usize, String>,
    /// The number of this process's claim, by case.
    held: Mutex<BTreeMap<usize, u32>>,
    heartbeat: Heartbeat,
}

struct Claimed {
    input: PathBuf,
    output: PathBuf,
    /// What its files in the folder begin with.
    key: String,
}

/// `<case>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    #[serde(with = "os_text::path")]
    input: PathBuf,
    #[serde(with = "os_text::path")]
    output: PathBuf,
    #[serde(flatten)]
    state: CaseState,
    process: String,
    way: String,
    file: Option<InputFile>,
}

/// Enough to see that a volume was replaced, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct InputFile {
    bytes: u64,
    modified_ns: u64,
}

impl InputFile {
    fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let modified = metadata.modified().ok()?;
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Self {
            bytes: metadata.len(),
            modified_ns: u64::try_from(since.as_nanos()).ok()?,
        })
    }
}

impl Claims {
    /// Joins the processes that share `cases` (whose label maps go to `output`) and make them in the same `way`.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(
        claiming: &Claiming,
        output: &Path,
        cases: &[PredictCase],
        way: &str,
    ) -> Result<Self> {
        let folder = claiming.folder.as_path();
        create_folder(folder)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = format!("{}.{count}", ProcessId::own());
        let cases = cases.iter().map(|case| Claimed {
            input: case.input.clone(),
            output: case.output.clone(),
            key: key(&output_name(output, case)),
        });
        let mut claims = Self {
            heartbeat: Heartbeat::begin(&process_file(folder, &process), claiming.expiry)?,
            folder: folder.to_path_buf(),
            expiry: claiming.expiry,
            process,
            way: way.to_owned(),
            cases: cases.collect(),
            failed_before: BTreeMap::new(),
            held: Mutex::default(),
        };
        claims.failed_before = claims.failed_in_the_past()?;
        Ok(claims)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// See [`Claiming::expiry`].
    pub fn expiry(&self) -> Duration {
        self.expiry
    }

    /// What marks of these cases must say to count.
    pub fn way(&self) -> &str {
        &self.way
    }

    /// How long to wait before asking again for cases that are busy.
    pub fn pause(&self) -> Duration {
        (self.expiry / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn failed_in_the_past(&self) -> Result<BTreeMap<usize, String>> {
        let mut failed = BTreeMap::new();
        let mut now = None;
        for index in 0..self.cases.len() {
            let Some(mark) = self.mark(index) else {
                continue;
            };
            if matches!(mark.state, CaseState::Failed { .. })
                && !self.is_alive(&mark.process, &mut now)?
            {
                failed.insert(index, mark.process);
            }
        }
        Ok(failed)
    }

    /// Takes a case, if no other process has it and nothing is known of it.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn take(&self, index: usize) -> Result<Taking> {
        if self.is_settled(index) {
            return Ok(Taking::Settled);
        }
        let mut number = 0;
        let mut owner = None;
        while let Some(next) = self.claim(index, number + 1)? {
            number += 1;
            owner = Some(next);
        }
        if let Some(owner) = owner
            && self.is_alive(&owner, &mut None)?
        {
            return Ok(Taking::Busy);
        }
        if !self.make_claim(index, number + 1)? {
            return Ok(Taking::Busy);
        }
        // The one before may have ended with the case done after all.
        if self.is_settled(index) {
            let _ = fs::remove_file(self.claim_file(index, number + 1)); // means nothing
            return Ok(Taking::Settled);
        }
        self.held().insert(index, number + 1);
        Ok(Taking::Ours)
    }

    /// Whether a case that was taken still belongs to this process: one that was silent for too long (suspended,
    /// cut off from the storage) may have lost it.
    pub fn holds(&self, index: usize) -> bool {
        let number = self.held().get(&index).copied();
        number.is_some_and(|number| !self.claim_file(index, number + 1).exists())
    }

    /// Lets the others know what came of a case.
    pub fn settle(&self, index: usize, state: &CaseState) -> Result<()> {
        let case = &self.cases[index];
        let mark = Mark {
            input: case.input.clone(),
            output: case.output.clone(),
            state: state.clone(),
            process: self.process.clone(),
            way: self.way.clone(),
            file: InputFile::at(&case.input),
        };
        let path = self.mark_file(index);
        let text = serde_json::to_string_pretty(&mark)
            .map_err(|error| Error::file(&path, format!("cannot describe the case: {error}")))?;
        write_bytes_atomically(&path, text.as_bytes())
    }

    /// What came of a case, as far as any process has said.
    pub fn known(&self, index: usize) -> Option<CaseState> {
        self.mark(index).map(|mark| mark.state)
    }

    /// Gives up what is still held.
    pub fn leave(&self) {
        self.heartbeat.end();
    }

    fn is_settled(&self, index: usize) -> bool {
        self.mark(index).is_some_and(|mark| match mark.state {
            CaseState::Failed { .. } => self.failed_before.get(&index) != Some(&mark.process),
            _ => true,
        })
    }

    /// What is known of a case, unless its input or the way is not what it was, or its sidecar is gone.
    fn mark(&self, index: usize) -> Option<Mark> {
        let case = &self.cases[index];
        let text = fs::read(self.mark_file(index)).ok()?;
        let mark: Mark = serde_json::from_slice(&text).ok()?;
        let failed = matches!(mark.state, CaseState::Failed { .. });
        let same = mark.way == self.way && mark.file == InputFile::at(&case.input);
        (same && (failed || sidecar_path(&case.output).exists())).then_some(mark)
    }

    /// The process that has made a case's claim of this number.
    fn claim(&self, index: usize, number: u32) -> Result<Option<String>> {
        let path = self.claim_file(index, number);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.lines().next().unwrap_or_default().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// False if another process was faster.
    fn make_claim(&self, index: usize, number: u32) -> Result<bool> {
        let path = self.claim_file(index, number);
        let mut temporary = temporary_file(&self.folder)?;
        temporary
            .write_all(format!("{}\n", self.process).as_bytes())
            .map_err(Error::io(&path, "write"))?;
        match fs::hard_link(temporary.path(), &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Over NFS the answer to a link that was made can get lost, and the second try finds it there.
                Ok(self.claim(index, number)?.as_ref() == Some(&self.process))
            }
            // File systems without links.
            Err(_) => match fs::File::create_new(&path) {
                Ok(mut file) => file
                    .write_all(format!("{}\n", self.process).as_bytes())
                    .map(|()| true)
                    .map_err(Error::io(&path, "write")),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(Error::io(&path, "create")(error)),
            },
        }
    }

    /// Whether a process of the folder still works; `now` keeps the file system's time once it was asked for.
    fn is_alive(&self, process: &str, now: &mut Option<SystemTime>) -> Result<bool> {
        if process == self.process {
            return Ok(true);
        }
        let Ok(metadata) = fs::metadata(process_file(&self.folder, process)) else {
            return Ok(false); // it has ended in order
        };
        let id = process.rsplit_once('.');
        let id = id.and_then(|(id, _)| ProcessId::parse(id));
        if id.and_then(|id| id.is_alive(metadata.uid())) == Some(false) {
            return Ok(false);
        }
        let now = match *now {
            Some(now) => now,
            None => *now.insert(self.heartbeat.touch()?),
        };
        let touched = metadata.modified().unwrap_or(now);
        let silent = now.duration_since(touched).unwrap_or_default();
        Ok(silent <= self.expiry)
    }

    fn claim_file(&self, index: usize, number: u32) -> PathBuf {
        let key = &self.cases[index].key;
        self.folder.join(format!("{key}.claim-{number}"))
    }

    fn mark_file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("{}.json", self.cases[index].key))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, u32>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn process_file(folder: &Path, process: &str) -> PathBuf {
    folder.join(format!("process-{process}"))
}

/// Readable, short, and of one case only.
fn key(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    let start: String = name.chars().take(NAME_CHARACTERS).map(plain).collect();
    let hash = format!("{:x}", Sha256::digest(name));
    format!("{start}.{}", &hash[..12])
}
