//! A file's bytes in order, decompressed where its content says so.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;

use super::names::in_words;
use ctseg_base::{Error, Result, pointer_file, regular_file};

/// Deflate cannot expand a byte to more than this many (a match of 258 bytes in 2 bits).
pub(crate) const MOST_EXPANSION: u64 = 1032;

/// Zeros that may follow a file's content: tapes, block devices and object stores fill up their blocks.
pub(crate) const MOST_PADDING: u64 = 64 << 20;

/// Bytes from which a format is told: the length of a NIfTI-1 header.
pub const START_BYTES: usize = 348;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

type Reader<'a> = BufReader<Box<dyn Read + 'a>>;

/// An open file, or bytes from anywhere else; plain or gzip.
pub struct Source<'a> {
    name: PathBuf,
    stream: Stream<'a>,
    length: Option<u64>,
    position: u64,
    /// The first bytes, if they have been looked at before they were read.
    start: Vec<u8>,
}

enum Stream<'a> {
    Plain(Reader<'a>),
    Gzip(GzipMembers<'a>),
}

impl<'a> Source<'a> {
    /// Opens a file; `endings` are those that it could have, for the error about a folder.
    pub fn open(path: &Path, endings: &[&str]) -> Result<Self> {
        let file = regular_file::open(path).map_err(|error| {
            if path.is_dir() {
                let expected = in_words(endings);
                let problem =
                    format!("a folder; expected a {expected} file; name the image itself");
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

    /// Bytes that need lie in no file; `name` is what errors call them, `length` how many there are, if that is known.
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

    /// The file, or what errors call it.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// An error about it.
    pub fn problem(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.name, problem)
    }

    /// Bytes of the file as it is, compressed or not; `None` if nobody knows.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes of the content handed out so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The first bytes of the content, [`START_BYTES`] unless it is shorter; [`fill`](Self::fill) hands them out all the
    /// same. To be called before that.
    pub(super) fn start(&mut self) -> Result<Vec<u8>> {
        let mut start = vec![0; START_BYTES];
        let found = self.fill(&mut start);
        start.truncate(found.map_err(|problem| self.problem(problem))?);
        self.start.clone_from(&start);
        self.position = 0;
        Ok(start)
    }

    /// Whether it is gzip data, by its content and not its name.
    pub fn is_gzip(&self) -> bool {
        matches!(self.stream, Stream::Gzip(_))
    }

    /// Fills `buffer` as far as the content reaches; fewer bytes than asked for mean that it ended.
    ///
    /// Errors say in words what is wrong with the file; `position` tells how far reading came.
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

    /// Reads on to the file's end, behind content that is over; a line about zeros that follow it.
    ///
    /// # Errors
    /// Anything else that follows, and damage that shows at the end alone, in words.
    pub fn end(&mut self) -> std::result::Result<Option<String>, String> {
        let begin = self.position;
        let mut piece = [0; 1 << 12];
        loop {
            let found = self.fill(&mut piece)?;
            let surplus = self.position - begin;
            if piece[..found].iter().any(|byte| *byte != 0) || surplus > MOST_PADDING {
                return Err(
                    "data follow the voxels that its header promises; the file is damaged, export it again"
                        .to_owned(),
                );
            }
            if found < piece.len() {
                break;
            }
        }
        let behind = |bytes: u64, what: &str| match bytes {
            0 => None,
            bytes => Some(format!("{bytes} zero bytes follow {what}; ignored")),
        };
        let packed = match &self.stream {
            Stream::Plain(_) => 0,
            Stream::Gzip(members) => members.padding,
        };
        Ok(behind(self.position - begin, "the voxels").or_else(|| behind(packed, "the gzip data")))
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
/// flate2's own reader for several members cannot tell garbage behind the last one from a damaged
/// header, and that is the difference between two remedies.
struct GzipMembers<'a> {
    /// `None` after the last member.
    member: Option<Box<GzDecoder<Reader<'a>>>>,
    /// Zeros behind the last member.
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
                Some(byte) if *byte == GZIP_MAGIC[0] && self.padding <= MOST_PADDING => {
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

/// Passes over zeros, as gzip and Python do; how many there were, one more than [`MOST_PADDING`] at most.
fn skip_zeros(reader: &mut Reader) -> io::Result<u64> {
    let mut zeros = 0;
    while zeros <= MOST_PADDING {
        let bytes = reader.fill_buf()?;
        let room = (MOST_PADDING + 1 - zeros) as usize;
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
