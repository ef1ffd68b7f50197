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
//! gives to files just touched. Not every file system has a clock of its own, and the clocks of machines may differ:
//! where such a time lies in the future or long ago, the process is watched for a sign of life before it counts as dead.
//!
//! That a case is done, a mark says only while processes of the same batch live. Later on it is remembered, and its files
//! decide.

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
use ctseg_base::temp_files::remove_leftovers;
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::sidecar::sidecar_path;

use processes::Processes;

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
    /// A process that has ended marked it as done: its files decide whether it still is, see [`Claims::take_anew`].
    Remembered,
}

/// This process's part in a shared batch.
pub struct Claims {
    folder: PathBuf,
    /// Hash of all that decides, beside the input, what a label map is like.
    way: String,
    cases: Vec<Claimed>,
    /// Cases that processes have marked which ended before this one began.
    marked_before: BTreeMap<usize, String>,
    /// The number of this process's claim, by case.
    held: Mutex<BTreeMap<usize, u32>>,
    processes: Processes,
}

struct Claimed {
    input: PathBuf,
    output: PathBuf,
    /// Files that are there if the case is done.
    files: Vec<PathBuf>,
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
    /// `has_label_map`: whether a case that is done has a label map.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(
        claiming: &Claiming,
        output: &Path,
        cases: &[PredictCase],
        (way, has_label_map): (&str, bool),
    ) -> Result<Self> {
        let folder = claiming.folder.as_path();
        create_folder(folder)?;
        remove_leftovers(folder)?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = format!("{}.{count}", ProcessId::own());
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
            way: way.to_owned(),
            cases: cases.collect(),
            marked_before: BTreeMap::new(),
            held: Mutex::default(),
        };
        claims.marked_before = claims.marked_in_the_past()?;
        Ok(claims)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// See [`Claiming::expiry`].
    pub fn expiry(&self) -> Duration {
        self.processes.expiry
    }

    /// What marks of these cases must say to count.
    pub fn way(&self) -> &str {
        &self.way
    }

    /// How long to wait before asking again for cases that are busy.
    pub fn pause(&self) -> Duration {
        (self.expiry() / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    fn marked_in_the_past(&self) -> Result<BTreeMap<usize, String>> {
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

    /// Takes a case, if no other process has it and nothing is known of it.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn take(&self, index: usize) -> Result<Taking> {
        let known = self.mark(index);
        if known
            .as_ref()
            .is_some_and(|mark| self.is_of_now(index, mark))
        {
            return Ok(Taking::Settled);
        }
        let number = match self.next_number(index)? {
            Some(number) => number,
            None => return Ok(Taking::Busy),
        };
        if known.is_some_and(|mark| !matches!(mark.state, CaseState::Failed { .. })) {
            return Ok(Taking::Remembered);
        }
        self.taken(index, number)
    }

    /// Takes a case that was [remembered](Taking::Remembered) and is to be made again; false if another process has it,
    /// or has made it by now.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn take_anew(&self, index: usize) -> Result<bool> {
        match self.next_number(index)? {
            Some(number) => Ok(self.taken(index, number)? == Taking::Ours),
            None => Ok(false),
        }
    }

    /// The number that the next claim of a case has; none while a process has the case.
    fn next_number(&self, index: usize) -> Result<Option<u32>> {
        let mut number = 0;
        let mut owner = None;
        while let Some(next) = self.claim(index, number + 1)? {
            number += 1;
            owner = Some(next);
        }
        match owner {
            Some(owner) if self.processes.is_at_work(&owner)? => Ok(None),
            _ => Ok(Some(number + 1)),
        }
    }

    fn taken(&self, index: usize, number: u32) -> Result<Taking> {
        if !self.make_claim(index, number)? {
            return Ok(Taking::Busy);
        }
        // The one before may have ended with the case done after all.
        if self.is_settled(index) {
            let _ = fs::remove_file(self.claim_file(index, number)); // means nothing
            return Ok(Taking::Settled);
        }
        self.held().insert(index, number);
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
            process: self.processes.own.clone(),
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
        self.processes.leave();
    }

    fn is_settled(&self, index: usize) -> bool {
        self.mark(index)
            .is_some_and(|mark| self.is_of_now(index, &mark))
    }

    /// Whether a mark is of this batch, and not of an earlier one.
    fn is_of_now(&self, index: usize, mark: &Mark) -> bool {
        self.marked_before.get(&index) != Some(&mark.process)
    }

    /// What is known of a case, unless its input or the way is not what it was, or its files are gone.
    fn mark(&self, index: usize) -> Option<Mark> {
        let case = &self.cases[index];
        let text = regular_file::read(&self.mark_file(index)).ok()?;
        let mark: Mark = serde_json::from_slice(&text).ok()?;
        let failed = matches!(mark.state, CaseState::Failed { .. });
        let same = mark.way == self.way && mark.file == InputFile::at(&case.input);
        (same && (failed || case.files.iter().all(|file| file.exists()))).then_some(mark)
    }

    /// The process that has made a case's claim of this number.
    fn claim(&self, index: usize, number: u32) -> Result<Option<String>> {
        let path = self.claim_file(index, number);
        match read_text(&path) {
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
            .write_all(format!("{}\n", self.processes.own).as_bytes())
            .map_err(Error::io(&path, "write"))?;
        match fs::hard_link(temporary.path(), &path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Over NFS the answer to a link that was made can get lost, and the second try finds it there.
                Ok(self.claim(index, number)?.as_ref() == Some(&self.processes.own))
            }
            // File systems without links.
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
