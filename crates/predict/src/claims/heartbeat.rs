//! A heartbeat file: touched while a process is alive, with the process's identity.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ctseg_base::atomic_file::touch;
use ctseg_base::limits::spawn::spawn;
use ctseg_base::process::owner::Worker;
use ctseg_base::{Error, Result, regular_file};

/// Longest interval; low load for any file server.
const LONGEST: Duration = Duration::from_secs(60);

/// Touches its file from its own thread; removes it when dropped.
pub(super) struct Heartbeat {
    path: PathBuf,
    ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Heartbeat {
    /// Starts a heartbeat with several beats per `expiry`.
    ///
    /// # Errors
    /// The file cannot be created, or the thread cannot be started; other processes would then consider this one dead.
    pub(super) fn start(path: &Path, expiry: Duration) -> Result<Self> {
        create(path).map_err(Error::io(path, "create"))?;
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
                    let _ = touched(&path); // storage may be unavailable for a while
                }
            }
        };
        spawn("heartbeat", beats)?;
        Ok(heartbeat)
    }

    /// Beats now; returns the time stamp of the file system.
    pub(super) fn touch(&self) -> Result<SystemTime> {
        touched(&self.path).map_err(Error::io(&self.path, "touch"))
    }

    /// Stops the heartbeat and removes the file.
    pub(super) fn end(&self) {
        let (flag, woken) = &*self.ended;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        woken.notify_all();
        let _ = fs::remove_file(&self.path); // otherwise it expires
    }
}

/// Interval between heartbeats.
pub(super) fn interval(expiry: Duration) -> Duration {
    (expiry / 8).min(LONGEST)
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.end();
    }
}

/// Creates the file, with the identity of this process.
fn create(path: &Path) -> std::io::Result<()> {
    let text = serde_json::to_vec(&Worker::current())?;
    regular_file::create(path)?.write_all(&text)
}

/// Touches the file; the time is the file server's, not this machine's.
fn touched(path: &Path) -> std::io::Result<SystemTime> {
    match touch(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => create(path)?,
        result => result?,
    }
    fs::metadata(path)?.modified()
}
