//! A file's bytes in order, decompressed where its content says so.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};

/// Deflate cannot expand a byte to more than this many (a match of 258 bytes in 2 bits).
pub(super) const MOST_EXPANSION: u64 = 1032;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An open file, plain or gzip.
pub(super) struct Source {
    stream: Stream,
    /// Length of the file on disk.
    pub(super) file_bytes: u64,
    /// Bytes handed out so far.
    pub(super) position: u64,
}

enum Stream {
    Plain(BufReader<File>),
    Gzip(GzipMembers),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() {
                "a folder"
            } else {
                "not a regular file"
            };
            return Err(Error::file(
                path,
                format!("{what}; expected a .nii or .nii.gz file; name the image itself"),
            ));
        }
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let start = reader.fill_buf().map_err(Error::io(path, "read"))?;
        let stream = if start.starts_with(&GZIP_MAGIC) {
            Stream::Gzip(GzipMembers {
                member: Some(Box::new(GzDecoder::new(reader))),
            })
        } else {
            Stream::Plain(reader)
        };
        Ok(Self {
            stream,
            file_bytes: metadata.len(),
            position: 0,
        })
    }

    pub(super) fn is_gzip(&self) -> bool {
        matches!(self.stream, Stream::Gzip(_))
    }

    /// Fills `buffer` as far as the content reaches; fewer bytes than asked for mean that it ended.
    ///
    /// Errors say in words what is wrong with the file; `position` tells how far reading came.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> std::result::Result<usize, String> {
        let mut filled = 0;
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
struct GzipMembers {
    /// `None` after the last member.
    member: Option<Box<GzDecoder<BufReader<File>>>>,
}

impl Read for GzipMembers {
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
            match rest.fill_buf()?.first() {
                None => break,
                Some(byte) if *byte == GZIP_MAGIC[0] => {
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
