//! Claims: any number of processes on shared storage take cases from one list, each case by exactly one of them.
//!
//! They coordinate through one folder:
//!
//! - `process-<process>`: the heartbeat of a process, touched regularly while it is alive and removed when it ends;
//! - `<case>.claim-<n>`: the process that has claimed the case; numbered, so that when its process dies, only one of
//!   the others can create the next number and take over;
//! - `<case>.json`: the mark of a settled case, with its outcome.
//!
//! Files are created with `link`, which is atomic on NFS too. Heartbeats are compared with the time stamp that the
//! same file system gives to a file touched just now. Not every file system has its own clock, and the clocks of
//! machines may differ: if a heartbeat lies in the future or long ago, the process is observed for a new one before
//! it counts as dead.
//!
//! A mark settles a case only while processes of the same batch are alive. Later, the case counts as marked done, and
//! its files decide.

mod heartbeat;
mod processes;
pub mod survey;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
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
use ctseg_base::temp_files::remove_stale_temp_files;
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::sidecar::sidecar_path;

use processes::Processes;

/// Characters of a case's name in the names of its files.
const NAME_CHARACTERS: usize = 60;

#[derive(Debug, Clone)]
pub struct Claiming {
    pub folder: PathBuf,
    /// A process on another machine counts as dead this long after its last heartbeat; on the same machine at once.
    pub expiry: Duration,
}

/// The result of claiming a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    Ours,
    /// Another process has it.
    Busy,
    /// It is done, or has failed in a run that is still active.
    Settled,
    /// A process that has ended marked it as done: its files decide whether it still is, see [`Claims::take_again`].
    MarkedDone,
}

/// The claims of this process in a shared batch.
pub struct Claims {
    folder: PathBuf,
    /// Hash of everything except the input that determines a label map.
    settings: String,
    cases: Vec<Claimed>,
    /// Cases that were marked by processes that ended before this one started.
    marked_before: BTreeMap<usize, String>,
    /// The number of this process's claim, by case.
    held: Mutex<BTreeMap<usize, u32>>,
    processes: Processes,
}

struct Claimed {
    input: PathBuf,
    output: PathBuf,
    /// Files that exist if the case is done.
    files: Vec<PathBuf>,
    /// Prefix of its files in the claims folder.
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
    #[serde(rename = "way")]
    settings: String,
    file: Option<InputFile>,
}

/// Detects that a volume was replaced, without reading it.
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
    /// Joins the processes that share `cases` (whose label maps go to `output`) with the same `settings` (a hash).
    /// `has_label_map`: whether a finished case has a label map.
    ///
    /// # Errors
    /// The folder cannot be created, read or written.
    pub fn open(
        claiming: &Claiming,
        output: &Path,
        cases: &[PredictCase],
        (settings, has_label_map): (&str, bool),
    ) -> Result<Self> {
        let folder = claiming.folder.as_path();
        create_folder(folder)?;
        remove_stale_temp_files(folder)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = format!("{}.{count}", ProcessId::current());
        let cases = cases.iter().map(|case| Claimed {
            input: case.input.clone(),
            output: case.output.clone(),
            files: std::iter::once(sidecar_path(&case.output))
                .chain(has_label_map.then(|| case.output.clone()))
                .collect(),
            key: key(&output_name(output, case)),
        });
        let mut claims = Self {
            processes: Processes::join(folder, process, claiming.expiry)?,
            folder: folder.to_path_buf(),
            settings: settings.to_owned(),
            cases: cases.collect(),
            marked_before: BTreeMap::new(),
            held: Mutex::default(),
        };
        claims.marked_before = claims.marks_of_ended_processes()?;
        Ok(claims)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// See [`Claiming::expiry`].
    pub fn expiry(&self) -> Duration {
        self.processes.expiry
    }

    /// The hash of settings that marks must have to count.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// How long to wait before trying busy cases again.
    pub fn pause(&self) -> Duration {
        (self.expiry() / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn marks_of_ended_processes(&self) -> Result<BTreeMap<usize, String>> {
        let mut marked = BTreeMap::new();
        let mut lives = BTreeMap::new();
        let mut now = None;
        for index in 0..self.cases.len() {
            let Some(mark) = self.mark(index) else {
                continue;
            };
            let alive = match lives.get(&mark.process) {
                Some(alive) => *alive,
                None => {
                    let alive = self.processes.is_known_alive(&mark.process, &mut now)?;
                    lives.insert(mark.process.clone(), alive);
                    alive
                }
            };
            if !alive {
                marked.insert(index, mark.process);
            }
        }
        Ok(marked)
    }

    /// Claims a case, unless another process has it or it is settled.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn take(&self, index: usize) -> Result<ClaimOutcome> {
        let known = self.mark(index);
        if known
            .as_ref()
            .is_some_and(|mark| self.is_of_this_batch(index, mark))
        {
            return Ok(ClaimOutcome::Settled);
        }
        let number = match self.next_number(index)? {
            Some(number) => number,
            None => return Ok(ClaimOutcome::Busy),
        };
        if known.is_some_and(|mark| !matches!(mark.state, CaseState::Failed { .. })) {
            return Ok(ClaimOutcome::MarkedDone);
        }
        self.taken(index, number)
    }

    /// Claims a case that was [marked as done](ClaimOutcome::MarkedDone) and is to be made again; false if another
    /// process has it, or has made it in the meantime.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn take_again(&self, index: usize) -> Result<bool> {
        match self.next_number(index)? {
            Some(number) => Ok(self.taken(index, number)? == ClaimOutcome::Ours),
            None => Ok(false),
        }
    }

    /// The number of the next claim of a case; `None` while a process has the case.
    fn next_number(&self, index: usize) -> Result<Option<u32>> {
        let mut number = 0;
        let mut owner = None;
        while let Some(next) = self.claim(index, number + 1)? {
            number += 1;
            owner = Some(next);
        }
        match owner {
            Some(owner) if self.processes.may_be_alive(&owner)? => Ok(None),
            _ => Ok(Some(number + 1)),
        }
    }

    fn taken(&self, index: usize, number: u32) -> Result<ClaimOutcome> {
        if !self.make_claim(index, number)? {
            return Ok(ClaimOutcome::Busy);
        }
        // The previous owner may have finished the case after all.
        if self.is_settled(index) {
            let _ = fs::remove_file(self.claim_file(index, number)); // harmless if it stays
            return Ok(ClaimOutcome::Settled);
        }
        self.held().insert(index, number);
        Ok(ClaimOutcome::Ours)
    }

    /// Whether this process still holds a case that it claimed. A process without heartbeats for too long (suspended,
    /// or disconnected from the storage) may have lost it.
    pub fn holds(&self, index: usize) -> bool {
        let number = self.held().get(&index).copied();
        number.is_some_and(|number| !self.claim_file(index, number + 1).exists())
    }

    /// Marks a case with its outcome, for the other processes.
    pub fn settle(&self, index: usize, state: &CaseState) -> Result<()> {
        let case = &self.cases[index];
        let mark = Mark {
            input: case.input.clone(),
            output: case.output.clone(),
            state: state.clone(),
            process: self.processes.own.clone(),
            settings: self.settings.clone(),
            file: InputFile::at(&case.input),
        };
        let path = self.mark_file(index);
        let text = serde_json::to_string_pretty(&mark).map_err(|error| {
            Error::file(&path, format!("cannot write the case as JSON: {error}"))
        })?;
        write_bytes_atomically(&path, text.as_bytes())
    }

    /// The outcome of a case, if any process has marked it.
    pub fn known(&self, index: usize) -> Option<CaseState> {
        self.mark(index).map(|mark| mark.state)
    }

    /// Releases all cases that are still held.
    pub fn leave(&self) {
        self.processes.leave();
    }

    fn is_settled(&self, index: usize) -> bool {
        self.mark(index)
            .is_some_and(|mark| self.is_of_this_batch(index, &mark))
    }

    /// Whether a mark belongs to this batch and not to an earlier one.
    fn is_of_this_batch(&self, index: usize, mark: &Mark) -> bool {
        self.marked_before.get(&index) != Some(&mark.process)
    }

    /// The mark of a case, unless its input or the settings have changed, or its files are missing.
    fn mark(&self, index: usize) -> Option<Mark> {
        let case = &self.cases[index];
        let text = regular_file::read(&self.mark_file(index)).ok()?;
        let mark: Mark = serde_json::from_slice(&text).ok()?;
        let failed = matches!(mark.state, CaseState::Failed { .. });
        let same = mark.settings == self.settings && mark.file == InputFile::at(&case.input);
        (same && (failed || case.files.iter().all(|file| file.exists()))).then_some(mark)
    }

    /// The process of a case's claim with this number.
    fn claim(&self, index: usize, number: u32) -> Result<Option<String>> {
        let path = self.claim_file(index, number);
        match read_text(&path) {
            Ok(text) => Ok(Some(text.lines().next().unwrap_or_default().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// Creates a claim; false if another process was faster.
    fn make_claim(&self, index: usize, number: u32) -> Result<bool> {
        let path = self.claim_file(index, number);
        let mut temporary = temporary_file(&self.folder)?;
        temporary
            .write_all(format!("{}\n", self.processes.own).as_bytes())
            .map_err(Error::io(&path, "write"))?;
        match fs::hard_link(temporary.path(), &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Over NFS the reply to a successful link can get lost, and the retry then fails.
                Ok(self.claim(index, number)?.as_ref() == Some(&self.processes.own))
            }
            // File systems without hard links.
            Err(_) => match fs::File::create_new(&path) {
                Ok(mut file) => file
                    .write_all(format!("{}\n", self.processes.own).as_bytes())
                    .map(|()| true)
                    .map_err(Error::io(&path, "write")),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(Error::io(&path, "create")(error)),
            },
        }
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

/// A readable, short and unique prefix for a case's files.
fn key(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || c == '-' => c,
        _ => '_',
    };
    let start: String = name.chars().take(NAME_CHARACTERS).map(plain).collect();
    let hash = format!("{:x}", Sha256::digest(name));
    format!("{start}.{}", &hash[..12])
}
