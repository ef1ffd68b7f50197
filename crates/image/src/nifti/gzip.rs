//! Multithreaded gzip: pieces of a file are deflated in parallel and concatenated into one stream, as pigz does
//! (<https://zlib.net/pigz>).
//!
//! The result is a single member (RFC 1952) rather than one per piece, because some readers stop after the first. Each
//! piece ends with a sync flush, an empty stored block that aligns it to a byte (RFC 1951, 3.2.4), and starts without a
//! dictionary. A piece's bytes therefore depend on its content alone, and the file's on the voxels alone, whatever the
//! number of threads.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use flate2::{Compress, Compression, Crc, FlushCompress};
use rayon::prelude::*;

/// Label maps shrink to about 1 % at any level; higher levels only take longer.
const LEVEL: u32 = 3;

/// Maximum bytes per piece. Smaller pieces compress worse: each adds five bytes and cannot refer to the previous one.
pub(super) const PIECE_BYTES: usize = 1 << 19;

/// No flags, time stamp or operating system, so that the same voxels give the same bytes.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty final block, which ends a deflate stream (RFC 1951, 3.2.3: final, fixed codes, end of block).
const END: [u8; 2] = [3, 0];

/// The content of a file: `head`, then pieces in order, each produced on demand.
pub(super) struct Content<'a> {
    pub head: &'a [u8],
    pub pieces: usize,
    /// Writes the bytes of a piece, at most [`PIECE_BYTES`], to an empty vector.
    pub piece: &'a (dyn Fn(usize, &mut Vec<u8>) + Sync),
}

/// Writes the content uncompressed.
pub(super) fn write_plain(out: &mut impl Write, content: &Content) -> io::Result<()> {
    out.write_all(content.head)?;
    let mut bytes = Vec::new();
    for index in 0..content.pieces {
        bytes.clear();
        (content.piece)(index, &mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes the content as gzip, with two pieces per thread in memory.
pub(super) fn write_gzip(out: &mut impl Write, content: &Content) -> io::Result<()> {
    let mut gzip = GzipWriter::new(out)?;
    gzip.write_all(content.head)?;
    gzip.deflate_pending()?;
    for first in (0..content.pieces).step_by(pieces_at_a_time()) {
        let last = content.pieces.min(first + pieces_at_a_time());
        let deflated = (first..last)
            .into_par_iter()
            .map_init(Deflater::new, |deflater, index| {
                deflater.bytes.clear();
                (content.piece)(index, &mut deflater.bytes);
                deflater.deflated()
            })
            .collect();
        gzip.join(deflated)?;
    }
    gzip.finish().map(|_| ())
}

fn pieces_at_a_time() -> usize {
    2 * rayon::current_num_threads()
}

/// A gzip [`Write`] adapter; bytes are deflated once there are enough for all threads.
pub(super) struct GzipWriter<W: Write> {
    out: W,
    crc: Crc,
    /// Full pieces, and the one being filled.
    pending: Vec<Vec<u8>>,
}

impl<W: Write> GzipWriter<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self {
            out,
            crc: Crc::new(),
            pending: Vec::new(),
        })
    }

    /// Ends the stream and returns the writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.deflate_pending()?;
        self.out.write_all(&END)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // The length modulo 2^32, as specified.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }

    fn deflate_pending(&mut self) -> io::Result<()> {
        let deflated = std::mem::take(&mut self.pending)
            .into_par_iter()
            .map_init(Deflater::new, |deflater, bytes| {
                deflater.bytes = bytes;
                deflater.deflated()
            })
            .collect();
        self.join(deflated)
    }

    fn join(&mut self, deflated: Vec<io::Result<Arc<Deflated>>>) -> io::Result<()> {
        for piece in deflated {
            let piece = piece?;
            self.out.write_all(&piece.bytes)?;
            self.crc.combine(&piece.crc);
        }
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let has_room = |piece: &Vec<u8>| piece.len() < PIECE_BYTES;
        if !self.pending.last().is_some_and(has_room) {
            if self.pending.len() >= pieces_at_a_time() {
                self.deflate_pending()?;
            }
            self.pending.push(Vec::with_capacity(PIECE_BYTES));
        }
        let Some(piece) = self.pending.last_mut() else {
            return Ok(0);
        };
        let taken = bytes.len().min(PIECE_BYTES - piece.len());
        piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Does nothing: shorter pieces would change the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A deflated piece and the checksum of its content.
struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

/// The state of one thread.
struct Deflater {
    compress: Compress,
    /// The uncompressed piece.
    bytes: Vec<u8>,
}

impl Deflater {
    fn new() -> Self {
        Self {
            compress: Compress::new(Compression::new(LEVEL), false),
            bytes: Vec::new(),
        }
    }

    fn deflated(&mut self) -> io::Result<Arc<Deflated>> {
        // Most pieces of most masks are background: deflate it only once.
        static BACKGROUND: OnceLock<Arc<Deflated>> = OnceLock::new();
        let is_background = self.bytes.len() == PIECE_BYTES && is_zero(&self.bytes);
        if let Some(known) = BACKGROUND.get().filter(|_| is_background) {
            return Ok(Arc::clone(known));
        }
        let mut crc = Crc::new();
        crc.update(&self.bytes);
        let deflated = Arc::new(Deflated {
            bytes: deflate(&mut self.compress, &self.bytes)?,
            crc,
        });
        if is_background {
            BACKGROUND.get_or_init(|| Arc::clone(&deflated));
        }
        Ok(deflated)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    let any = |chunk: &[u8]| chunk.iter().fold(0, |any, byte| any | byte);
    bytes.chunks(256).all(|chunk| any(chunk) == 0)
}

/// `bytes` as raw deflate data that end on a byte boundary and do not end the stream.
fn deflate(compress: &mut Compress, bytes: &[u8]) -> io::Result<Vec<u8>> {
    compress.reset();
    let room = bytes.len() / 8 + 1024;
    let mut deflated = Vec::with_capacity(room);
    loop {
        let taken = compress.total_in() as usize;
        compress
            .compress_vec(&bytes[taken..], &mut deflated, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        // A flush is complete if output space is left (`deflate` in zlib.h).
        if deflated.len() < deflated.capacity() {
            return Ok(deflated);
        }
        deflated.reserve(room);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    /// Three kinds of content: background, repetitive, and incompressible noise.
    fn piece(index: usize, out: &mut Vec<u8>) {
        let mut noise = index as u32 + 1;
        let length = if index == 6 { 12_345 } else { PIECE_BYTES };
        out.extend((0..length).map(|at| match index % 3 {
            0 => 0,
            1 => (at / 700 % 5) as u8,
            _ => {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            }
        }));
    }

    fn written(threads: usize, pieces: usize) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let content = Content {
            head: b"the head",
            pieces,
            piece: &piece,
        };
        let mut file = Vec::new();
        pool.unwrap()
            .install(|| write_gzip(&mut file, &content))
            .unwrap();
        file
    }

    #[test]
    fn one_member_holds_everything_whatever_the_number_of_threads() {
        for pieces in [0, 1, 2, 7] {
            let mut expected = b"the head".to_vec();
            (0..pieces).for_each(|index| piece(index, &mut expected));
            let file = written(1, pieces);
            assert!(file == written(3, pieces), "{pieces} pieces");
            let mut found = Vec::new();
            let mut decoder = GzDecoder::new(file.as_slice());
            decoder.read_to_end(&mut found).unwrap();
            assert!(found == expected, "{pieces} pieces");
            // A single-member reader reaches the end of the file.
            assert!(decoder.into_inner().is_empty(), "{pieces} pieces");
            // Writing in other chunk sizes decodes to the same bytes.
            let mut gzip = GzipWriter::new(Vec::new()).unwrap();
            for part in expected.chunks(300_007) {
                gzip.write_all(part).unwrap();
            }
            let mut again = Vec::new();
            let file = gzip.finish().unwrap();
            GzDecoder::new(file.as_slice())
                .read_to_end(&mut again)
                .unwrap();
            assert!(again == expected, "{pieces} pieces");
        }
    }
}
