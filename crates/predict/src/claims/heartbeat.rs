//! A file that is touched while a process lives, and says which it is.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ctseg_base::atomic_file::touch;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::process::owner::Worker;
use ctseg_base::{Error, Result, regular_file};

/// Seldom enough for any file server.
const LONGEST: Duration = Duration::from_secs(60);

/// Touches its file from a thread of its own; ends, with the file, when it is dropped.
pub(super) struct Heartbeat {
    path: PathBuf,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Heartbeat {
    /// Beats several times within `expiry`.
    ///
    /// # Errors
    /// The file cannot be made; no thread can be started, without which others would take this process for dead.
    pub(super) fn begin(path: &Path, expiry: Duration) -> Result<Self> {
        named(path).map_err(Error::io(path, "create"))?;
        let heartbeat = Self {
            path: path.to_path_buf(),
            ended: Arc::default(),
        };
        let ended = Arc::clone(&heartbeat.ended);
        let path = path.to_path_buf();
        let every = interval(expiry);
        let beats = move || {
            let (flag, woken) = &*ended;
            let mut flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
            while !*flag {
                let waited = woken.wait_timeout(flag, every);
                flag = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !*flag {
                    let _ = touched(&path); // storage that is away for a while comes back
                }
            }
        };
        spawn("heartbeat", beats)?;
        Ok(heartbeat)
    }

    /// Beats now; the time that the file system gives to it.
    pub(super) fn touch(&self) -> Result<SystemTime> {
        touched(&self.path).map_err(Error::io(&self.path, "touch"))
    }

    /// The file is gone, and stays so.
    pub(super) fn end(&self) {
        let (flag, woken) = &*self.ended;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        woken.notify_all();
        let _ = fs::remove_file(&self.path); // it gets old all the same
    }
}

/// How often a process gives a sign.
pub(super) fn interval(expiry: Duration) -> Duration {
    (expiry / 8).min(LONGEST)
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes the file, with what people know this process by.
fn named(path: &Path) -> std::io::Result<()> {
    let text = serde_json::to_vec(&Worker::own())?;
    regular_file::create(path)?.write_all(&text)
}

/// The time is the file server's, not this machine's.
fn touched(path: &Path) -> std::io::Result<SystemTime> {
    match touch(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => named(path)?,
        result => result?,
    }
    fs::metadata(path)?.modified()
}
