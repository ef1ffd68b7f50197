//! Reads a run's events.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::event::{Event, Line, RunStart};
use ctseg_base::{Error, Result, regular_file};

/// The folder of the event file in a run folder.
pub const FOLDER: &str = "tracking";
const FILE: &str = "events.jsonl";

/// Longest valid line.
const MAX_LINE_BYTES: u64 = 4 << 20;

pub fn path_in(run: &Path) -> PathBuf {
    run.join(FOLDER).join(FILE)
}

/// Reads events one at a time.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    /// Byte offset of the next line.
    at: u64,
}

/// A complete line and the byte offset of its end.
#[derive(Debug)]
pub struct PositionedLine {
    /// `None` if a kill or a power cut left the line incomplete.
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

    /// The next line; `None` if no complete line is there yet.
    pub fn next(&mut self) -> Result<Option<PositionedLine>> {
        let mut bytes = Vec::new();
        let mut within = self.file.by_ref().take(MAX_LINE_BYTES);
        let read = within.read_until(b'\n', &mut bytes);
        read.map_err(Error::io(&self.path, "read"))?;
        let is_complete = bytes.last() == Some(&b'\n') || bytes.len() as u64 == MAX_LINE_BYTES;
        if !is_complete {
            // The rest may still be written: the next reader starts here.
            return Ok(None);
        }
        self.at += bytes.len() as u64;
        Ok(Some(PositionedLine {
            line: serde_json::from_slice(&bytes).ok(),
            end: self.at,
        }))
    }
}

/// Bytes of complete lines. An incomplete last line, left by a kill or a full disk, is never uploaded.
///
/// # Errors
/// The file cannot be read.
pub fn complete_bytes(run: &Path) -> Result<u64> {
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

/// The first start event and its time, if any.
pub fn run_start(run: &Path) -> Result<Option<(i64, RunStart)>> {
    let mut lines = Lines::open(run, 0)?;
    while let Some(positioned) = lines.next()? {
        if let Some(Line {
            at,
            event: Event::Started(start),
        }) = positioned.line
        {
            return Ok(Some((at, start)));
        }
    }
    Ok(None)
}
