//! Reading a run's events.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::event::{Begun, Event, Line};
use ctseg_base::{Error, Result, regular_file};

/// In the run folder.
pub const FOLDER: &str = "tracking";
const FILE: &str = "events.jsonl";

/// A longer line is none of ours.
const LONGEST_LINE: u64 = 4 << 20;

pub fn path_in(run: &Path) -> PathBuf {
    run.join(FOLDER).join(FILE)
}

/// Reads events from a place on, one at a time.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    /// Bytes from the beginning to what is read next.
    at: u64,
}

/// A whole line, and where it ends.
#[derive(Debug)]
pub struct Placed {
    /// None for one that a kill or a power cut tore.
    pub line: Option<Line>,
    pub end: u64,
}

impl Lines {
    pub fn open(run: &Path, at: u64) -> Result<Self> {
        let path = path_in(run);
        let mut file = regular_file::open(&path).map_err(Error::io(&path, "read"))?;
        file.seek(SeekFrom::Start(at))
            .map_err(Error::io(&path, "read"))?;
        Ok(Self {
            path,
            file: BufReader::with_capacity(64 << 10, file),
            at,
        })
    }

    /// The next line; none where no whole one is there yet.
    pub fn next(&mut self) -> Result<Option<Placed>> {
        let mut bytes = Vec::new();
        let mut within = self.file.by_ref().take(LONGEST_LINE);
        let read = within.read_until(b'\n', &mut bytes);
        read.map_err(Error::io(&self.path, "read"))?;
        let whole = bytes.last() == Some(&b'\n') || bytes.len() as u64 == LONGEST_LINE;
        if !whole {
            // The rest may be under way: the next reader begins here.
            return Ok(None);
        }
        self.at += bytes.len() as u64;
        Ok(Some(Placed {
            line: serde_json::from_slice(&bytes).ok(),
            end: self.at,
        }))
    }
}

/// Bytes of the whole lines that there are. What a kill or a full disk tore at the end is none, and never sent.
///
/// # Errors
/// It cannot be read.
pub fn whole_bytes(run: &Path) -> Result<u64> {
    let path = path_in(run);
    let io = |error| Error::io(&path, "read")(error);
    let mut file = regular_file::open(&path).map_err(io)?;
    let mut end = file.metadata().map_err(io)?.len();
    let mut piece = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(64 << 10);
        piece.clear();
        file.seek(SeekFrom::Start(begin)).map_err(io)?;
        let read = file.by_ref().take(end - begin).read_to_end(&mut piece);
        read.map_err(io)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// The event that the run began with, if it has one.
pub fn beginning(run: &Path) -> Result<Option<(i64, Begun)>> {
    let mut lines = Lines::open(run, 0)?;
    while let Some(placed) = lines.next()? {
        if let Some(Line {
            at,
            event: Event::Begun(begun),
        }) = placed.line
        {
            return Ok(Some((at, begun)));
        }
    }
    Ok(None)
}
