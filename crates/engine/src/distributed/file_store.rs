//! Broadcast of a few bytes, such as an NCCL unique id, between processes that share only a folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctseg_base::atomic_file::{create_folder, write_bytes_atomically};
use ctseg_base::process::id::ProcessId;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};

/// How long the other processes may take to join.
const TIMEOUT: Duration = Duration::from_secs(600);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Broadcasts the `bytes` of rank 0 to all `size` processes through files in the shared `folder`. Files of an earlier
/// rendezvous are ignored: the answer names the processes that asked for it.
///
/// # Errors
/// Files that cannot be written, and processes that do not join within ten minutes.
pub fn broadcast_bytes(
    folder: &Path,
    (rank, size): (usize, usize),
    bytes: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    create_folder(folder)?;
    let own = ProcessId::current().to_string();
    let path = |rank: usize| folder.join(format!("rank-{rank}"));
    let answer = folder.join("answer");
    if rank > 0 {
        return poll(folder, size, || {
            if !path(rank).exists() {
                write_bytes_atomically(&path(rank), own.as_bytes())?;
            }
            Ok(read_answer(&answer, rank, &own))
        });
    }
    // Requests may be left from an earlier rendezvous; waiting processes ask again.
    clear(folder, size);
    let requests = poll(folder, size, || {
        let names = (1..size).map(|rank| read_text(&path(rank)).ok());
        Ok(names.collect::<Option<Vec<String>>>())
    })?;
    let bytes = bytes()?;
    write_bytes_atomically(&answer, &encode_answer(&requests, &bytes))?;
    Ok(bytes)
}

/// Removes the files of [`broadcast_bytes`]; rank 0 calls it once all have joined.
pub fn remove(folder: &Path, size: usize) {
    clear(folder, size);
    let _ = std::fs::remove_dir(folder); // a leftover empty folder does no harm
}

fn clear(folder: &Path, size: usize) {
    let ranks = (1..size).map(|rank| folder.join(format!("rank-{rank}")));
    let left: Vec<PathBuf> = ranks.chain([folder.join("answer")]).collect();
    for path in left {
        let _ = std::fs::remove_file(path); // most do not exist
    }
}

/// The requesting processes, one per line, an empty line, then the bytes.
fn encode_answer(requests: &[String], bytes: &[u8]) -> Vec<u8> {
    let mut answer = requests.join("\n").into_bytes();
    answer.extend_from_slice(b"\n\n");
    answer.extend_from_slice(bytes);
    answer
}

/// The bytes, if the answer is for this process.
fn read_answer(path: &Path, rank: usize, own: &str) -> Option<Vec<u8>> {
    let answer = regular_file::read(path).ok()?;
    let end = answer.windows(2).position(|two| two == b"\n\n")?;
    let requests = std::str::from_utf8(&answer[..end]).ok()?;
    (requests.lines().nth(rank - 1) == Some(own)).then(|| answer[end + 2..].to_vec())
}

fn poll<T>(folder: &Path, size: usize, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if started.elapsed() > TIMEOUT {
            return Err(Error::invalid(format!(
                "{}: only some of {size} ranks joined within {} minutes; start all ranks together, with access to this folder",
                folder.display(),
                TIMEOUT.as_secs() / 60
            )));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_for_other_processes_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answer");
        let requests = ["one-1-1".to_owned(), "two-2-2".to_owned()];
        std::fs::write(&path, encode_answer(&requests, b"\n\nbytes\n\n")).unwrap();
        assert_eq!(read_answer(&path, 2, "two-2-2").unwrap(), b"\n\nbytes\n\n");
        assert_eq!(read_answer(&path, 1, "two-2-2"), None);
        assert_eq!(read_answer(&path, 3, "two-2-2"), None);
        std::fs::write(&path, b"one-1-1").unwrap();
        assert_eq!(read_answer(&path, 1, "one-1-1"), None);
    }

    #[test]
    fn stale_files_do_not_disturb_a_broadcast() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("rendezvous");
        std::fs::create_dir(&folder).unwrap();
        let stale = encode_answer(&["other-1-1".to_owned()], b"old");
        std::fs::write(folder.join("answer"), stale).unwrap();
        std::fs::write(folder.join("rank-1"), "other-1-1").unwrap();
        let met = |rank| broadcast_bytes(&folder, (rank, 2), || Ok(b"new".to_vec())).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| met(1));
            assert_eq!(met(0), b"new");
            assert_eq!(other.join().unwrap(), b"new");
        });
        remove(&folder, 2);
        assert!(!folder.exists());
    }
}
