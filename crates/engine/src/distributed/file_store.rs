//! How processes that have nothing but a folder in common hand on a few bytes, such as NCCL's name of a meeting.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ctseg_base::atomic_file::{create_folder, write_bytes_atomically};
use ctseg_base::process::id::ProcessId;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, regular_file};

/// How long the others may take to begin.
const PATIENCE: Duration = Duration::from_secs(600);

const EVERY: Duration = Duration::from_millis(50);

/// Gives all `size` processes the `bytes` of process 0, by files in `folder`, which all see. What an earlier meeting
/// left there does not count: the bytes are handed out to those who asked for them just now.
///
/// # Errors
/// Files that cannot be written, and processes that do not come within ten minutes.
pub fn handed_on(
    folder: &Path,
    (rank, size): (usize, usize),
    bytes: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    create_folder(folder)?;
    let own = ProcessId::own().to_string();
    let path = |rank: usize| folder.join(format!("rank-{rank}"));
    let answer = folder.join("answer");
    if rank > 0 {
        return waited_for(folder, size, || {
            if !path(rank).exists() {
                write_bytes_atomically(&path(rank), own.as_bytes())?;
            }
            Ok(answered(&answer, rank, &own))
        });
    }
    // Who asked before may be of an earlier meeting; who still wants to know asks again.
    clear(folder, size);
    let asked = waited_for(folder, size, || {
        let names = (1..size).map(|rank| read_text(&path(rank)).ok());
        Ok(names.collect::<Option<Vec<String>>>())
    })?;
    let bytes = bytes()?;
    write_bytes_atomically(&answer, &answer_of(&asked, &bytes))?;
    Ok(bytes)
}

/// Removes what [`handed_on`] left; for process 0, once all have met.
pub fn forget(folder: &Path, size: usize) {
    clear(folder, size);
    let _ = std::fs::remove_dir(folder); // an empty folder more does no harm
}

fn clear(folder: &Path, size: usize) {
    let ranks = (1..size).map(|rank| folder.join(format!("rank-{rank}")));
    let left: Vec<PathBuf> = ranks.chain([folder.join("answer")]).collect();
    for path in left {
        let _ = std::fs::remove_file(path); // most are not there
    }
}

/// Who asked, line by line, an empty line, and the bytes.
fn answer_of(asked: &[String], bytes: &[u8]) -> Vec<u8> {
    let mut answer = asked.join("\n").into_bytes();
    answer.extend_from_slice(b"\n\n");
    answer.extend_from_slice(bytes);
    answer
}

/// The bytes, where the answer is for this process.
fn answered(path: &Path, rank: usize, own: &str) -> Option<Vec<u8>> {
    let answer = regular_file::read(path).ok()?;
    let end = answer.windows(2).position(|two| two == b"\n\n")?;
    let asked = std::str::from_utf8(&answer[..end]).ok()?;
    (asked.lines().nth(rank - 1) == Some(own)).then(|| answer[end + 2..].to_vec())
}

fn waited_for<T>(
    folder: &Path,
    size: usize,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::invalid(format!(
                "{}: not all of {size} processes came within {} minutes; they must be begun together and see this folder",
                folder.display(),
                PATIENCE.as_secs() / 60
            )));
        }
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_others_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answer");
        let asked = ["one-1-1".to_owned(), "two-2-2".to_owned()];
        std::fs::write(&path, answer_of(&asked, b"\n\nbytes\n\n")).unwrap();
        assert_eq!(answered(&path, 2, "two-2-2").unwrap(), b"\n\nbytes\n\n");
        assert_eq!(answered(&path, 1, "two-2-2"), None);
        assert_eq!(answered(&path, 3, "two-2-2"), None);
        std::fs::write(&path, b"one-1-1").unwrap();
        assert_eq!(answered(&path, 1, "one-1-1"), None);
    }

    #[test]
    fn bytes_are_handed_on_whatever_was_left_there() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("meeting");
        std::fs::create_dir(&folder).unwrap();
        let stale = answer_of(&["other-1-1".to_owned()], b"old");
        std::fs::write(folder.join("answer"), stale).unwrap();
        std::fs::write(folder.join("rank-1"), "other-1-1").unwrap();
        let met = |rank| handed_on(&folder, (rank, 2), || Ok(b"new".to_vec())).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| met(1));
            assert_eq!(met(0), b"new");
            assert_eq!(other.join().unwrap(), b"new");
        });
        forget(&folder, 2);
        assert!(!folder.exists());
    }
}
