//! A file's bytes in order, decompressed if the content is gzip.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use super::names::in_words;
use ctseg_base::{Error, Result, pointer_file, regular_file};

/// Deflate cannot expand a byte to more than this many (a match of 258 bytes in 2 bits).
pub(crate) const MAX_EXPANSION: u64 = 1032;

/// Zero bytes that may follow a file's content: tapes, block devices and object stores pad their blocks.
pub(crate) const MAX_PADDING: u64 = 64 << 20;

/// Bytes used to detect a format: the length of a NIfTI-1 header.
pub const START_BYTES: usize = 348;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

type Reader<'a> = BufReader<Box<dyn Read + 'a>>;

/// An open file or any other byte stream, plain or gzip.
pub struct Source<'a> {
    name: PathBuf,
    stream: Stream<'a>,
    length: Option<u64>,
    position: u64,
    /// The first bytes, if they were peeked at before reading.
    start: Vec<u8>,
}

enum Stream<'a> {
    Plain(Reader<'a>),
    Gzip(GzipMembers<'a>),
}

impl<'a> Source<'a> {
    /// Opens a file; `endings` are the expected file endings, for the error about a folder.
    pub fn open(path: &Path, endings: &[&str]) -> Result<Self> {
        let file = regular_file::open(path).map_err(|error| {
            if path.is_dir() {
                let expected = in_words(endings);
                let problem =
                    format!("a folder; expected a {expected} file; pass the image itself");
                return Error::file(path, problem);
            }
            match pointer_file::problem(path) {
                Some(problem) => Error::file(path, problem),
                None => Error::io(path, "open")(error),
            }
        })?;
        let metadata = file.metadata().map_err(Error::io(path, "read"))?;
        Self::from_reader(file, path, Some(metadata.len()))
    }

    /// Wraps a stream of bytes: errors call it `name`; `length` is its size in bytes, if known.
    pub fn from_reader(
        mut reader: impl Read + 'a,
        name: &Path,
        length: Option<u64>,
    ) -> Result<Self> {
        // A reader may hand out its first two bytes one by one.
        let mut magic = Vec::new();
        let mut first = reader.by_ref().take(GZIP_MAGIC.len() as u64);
        first
            .read_to_end(&mut magic)
            .map_err(Error::io(name, "read"))?;
        let is_gzip = magic == GZIP_MAGIC;
        let whole: Box<dyn Read + 'a> = Box::new(Cursor::new(magic).chain(reader));
        let reader = BufReader::with_capacity(1 << 16, whole);
        let stream = if is_gzip {
            Stream::Gzip(GzipMembers {
                member: Some(Box::new(GzDecoder::new(reader))),
                padding: 0,
            })
        } else {
            Stream::Plain(reader)
        };
        Ok(Self {
            name: name.to_path_buf(),
            stream,
            length,
            position: 0,
            start: Vec::new(),
        })
    }

    /// The file, or the name that errors use.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// An error about this source.
    pub fn problem(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.name, problem)
    }

    /// Size in bytes as stored (compressed if gzip); `None` if unknown.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes of content read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Peeks at the first bytes of the content: [`START_BYTES`], or fewer if it is shorter. Call it before
    /// [`fill`](Self::fill), which still returns them.
    pub(super) fn start(&mut self) -> Result<Vec<u8>> {
        let mut start = vec![0; START_BYTES];
        let found = self.fill(&mut start);
        start.truncate(found.map_err(|problem| self.problem(problem))?);
        self.start.clone_from(&start);
        self.position = 0;
        Ok(start)
    }

    /// Whether the data are gzip, judged by content, not by name.
    pub fn is_gzip(&self) -> bool {
        matches!(self.stream, Stream::Gzip(_))
    }

    /// Fills `buffer` and returns the number of bytes read; fewer than requested means end of content.
    ///
    /// Errors describe what is wrong with the file; `position` is where reading stopped.
    pub fn fill(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, String> {
        let seen = self.start.get(self.position as usize..).unwrap_or_default();
        let mut filled = seen.len().min(buffer.len());
        buffer[..filled].copy_from_slice(&seen[..filled]);
        self.position += filled as u64;
        while filled < buffer.len() {
            let result = match &mut self.stream {
                Stream::Plain(file) => file.read(&mut buffer[filled..]),
                Stream::Gzip(members) => members.read(&mut buffer[filled..]),
            };
            match result {
                Ok(0) => break,
                Ok(bytes) => {
                    filled += bytes;
                    self.position += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.describe(&error)),
            }
        }
        Ok(filled)
    }

    /// Reads to the end of the file after the content; returns a warning if zero bytes follow it.
    ///
    /// # Errors
    /// Any other trailing data, and damage that only shows at the end, such as a wrong checksum.
    pub fn end(&mut self) -> std::result::Result<Option<String>, String> {
        let begin = self.position;
        let mut piece = [0; 1 << 12];
        loop {
            let found = self.fill(&mut piece)?;
            let surplus = self.position - begin;
            if piece[..found].iter().any(|byte| *byte != 0) || surplus > MAX_PADDING {
                return Err(
                    "extra data follow the voxels that its header declares; the file is damaged, export it again"
                        .to_owned(),
                );
            }
            if found < piece.len() {
                break;
            }
        }
        let trailing = |bytes: u64, what: &str| match bytes {
            0 => None,
            bytes => Some(format!("{bytes} zero bytes follow {what}; ignored")),
        };
        let packed = match &self.stream {
            Stream::Plain(_) => 0,
            Stream::Gzip(members) => members.padding,
        };
        Ok(trailing(self.position - begin, "the voxels")
            .or_else(|| trailing(packed, "the gzip data")))
    }

    fn describe(&self, error: &io::Error) -> String {
        let Stream::Gzip(_) = self.stream else {
            return format!("cannot be read beyond byte {}: {error}", self.position);
        };
        match error.kind() {
            io::ErrorKind::UnexpectedEof => format!(
                "truncated gzip data: ends after {} decompressed bytes; copy or export it again",
                self.position
            ),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => format!(
                "corrupt gzip data after {} decompressed bytes ({error}); copy or export it again",
                self.position
            ),
            _ => format!("cannot be read: {error}"),
        }
    }
}

/// The members of a gzip file, one after the other (RFC 1952, section 2.2).
///
/// flate2's own multi-member reader cannot tell garbage after the last member from a damaged header, and the two
/// need different remedies.
struct GzipMembers<'a> {
    /// `None` after the last member.
    member: Option<Box<GzDecoder<Reader<'a>>>>,
    /// Zero bytes after the last member.
    padding: u64,
}

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let bytes = member.read(buffer)?;
            if bytes > 0 || buffer.is_empty() {
                return Ok(bytes);
            }
            // The end of a member, checksum included, has been reached.
            let Some(member) = self.member.take() else {
                break;
            };
            let mut rest = member.into_inner();
            self.padding = skip_zeros(&mut rest)?;
            match rest.fill_buf()?.first() {
                None => break,
                Some(byte) if *byte == GZIP_MAGIC[0] && self.padding <= MAX_PADDING => {
                    self.member = Some(Box::new(GzDecoder::new(rest)));
                }
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "bytes that are not gzip follow its end",
                    ));
                }
            }
        }
        Ok(0)
    }
}

/// Skips zero bytes, as gzip and Python do, and returns how many; at most one more than [`MAX_PADDING`].
fn skip_zeros(reader: &mut Reader) -> io::Result<u64> {
    let mut zeros = 0;
    while zeros <= MAX_PADDING {
        let bytes = reader.fill_buf()?;
        let room = (MAX_PADDING + 1 - zeros) as usize;
        let found = bytes
            .iter()
            .take(room)
            .take_while(|byte| **byte == 0)
            .count();
        if found == 0 {
            break;
        }
        reader.consume(found);
        zeros += found as u64;
    }
    Ok(zeros)
}
