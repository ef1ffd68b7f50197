//! Images of one or several channels, copied with their voxels as they are stored: the channels of a file with four
//! dimensions into a file each, and the other way.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::datatype::VoxelSink;
use super::gzip::GzipWriter;
use super::header::NiftiHeader;
use super::label_names::MOST_BYTES;
use super::maps::volumes;
use super::names::ENDINGS;
use super::raw::{ByteOrder, RawHeader};
use super::write::{check_name, is_gzip_name, set_voxel_type};
use crate::formats::{Source, VoxelType};
use crate::statistics::hounsfield::ValueCounts;
use ctseg_base::atomic_file::{parent_of, persisted, temporary_file};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};

/// Bytes handled at a time; a multiple of every voxel size.
const PIECE_BYTES: u64 = 1 << 20;

/// The header of an image's first channel, and how many channels it has: volumes along its fourth axis.
///
/// # Errors
/// As [`super::read_header`], and more than four axes with more than one voxel.
pub fn read_channels(path: &Path) -> Result<(NiftiHeader, usize)> {
    let stored = Stored::open(path)?;
    Ok((stored.header, stored.channels))
}

/// What the voxels of an image of one or several channels are.
#[derive(Debug)]
pub struct ChannelValues {
    /// Voxels that are NaN or infinite, of all channels.
    pub non_finite: u64,
    /// The scaled values of each channel.
    pub counts: Vec<ValueCounts>,
}

/// Reads an image of any number of channels to its very end, checksums included.
///
/// # Errors
/// As [`super::read_volume`].
pub fn check_channels(path: &Path) -> Result<ChannelValues> {
    let mut stored = Stored::open(path)?;
    let (voxel_type, order) = (stored.header.voxel_type, stored.header.raw.order());
    let scaling = stored.header.scaling();
    let mut found = ChannelValues {
        non_finite: 0,
        counts: Vec::new(),
    };
    for _ in 0..stored.channels {
        found.counts.push(ValueCounts::new(None));
        stored.each_piece(&mut |piece| {
            voxel_type.decode(piece, order, scaling, &mut found);
            Ok(())
        })?;
    }
    stored.end()?;
    Ok(found)
}

/// Writes the channels of `source` into `targets`, one each, as images of three dimensions: header (but for its
/// dimensions), extensions and voxels stay as they are, byte by byte. A file that is so already is copied whole.
///
/// Compressed where a target's name ends in `.gz`. Each target appears only when whole; whether the source is whole
/// [`check_channels`] says before.
/// # Errors
/// Another number of channels than targets, and those of reading and writing.
pub fn write_split(source: &Path, targets: &[PathBuf]) -> Result<()> {
    let mut stored = Stored::open(source)?;
    if stored.channels != targets.len() {
        return Err(stored.problem(format!(
            "has {}; expected {}",
            counted(stored.channels, "channel"),
            targets.len()
        )));
    }
    if let [target] = targets
        && stored.is_plain_volume(target)
    {
        return copy(source, target);
    }
    let head = [stored.header.raw.bytes(), &stored.between].concat();
    for target in targets {
        written(target, |out| {
            out.write_all(&head).map_err(Error::io(target, "write"))?;
            stored.each_piece(&mut |piece| out.write_all(piece).map_err(Error::io(target, "write")))
        })?;
    }
    stored.end()
}

/// Writes images as one, their channels one after the other in its fourth dimension; a single channel as
/// [`write_split`] does. The header is that of the first, but for its dimensions.
///
/// Where all have one voxel type, byte order and scaling, voxels stay as they are stored, byte by byte. Others become
/// float32 if that holds all their values exactly, as it does unscaled numbers of up to 16 bits, else float64.
/// # Errors
/// No source, and those of reading and writing.
pub fn write_joined(sources: &[PathBuf], target: &Path) -> Result<()> {
    let stored = sources.iter().map(|source| Stored::open(source));
    let mut stored = stored.collect::<Result<Vec<_>>>()?;
    let channels: usize = stored.iter().map(|one| one.channels).sum();
    match stored.as_slice() {
        [] => return Err(Error::file(target, "has no channels")),
        [one] if one.channels == 1 => {
            return write_split(&one.path, &[target.to_path_buf()]);
        }
        [one] if one.dimensions == 4 && one.source.is_gzip() == is_gzip_name(target) => {
            return copy(&one.path, target);
        }
        _ => {}
    }
    let common = common_type(&stored);
    let raw = joined_header(&stored[0].header, channels, common);
    let head = [raw.bytes(), &stored[0].between].concat();
    written(target, |out| {
        let write = |out: &mut dyn Write, bytes: &[u8]| {
            out.write_all(bytes).map_err(Error::io(target, "write"))
        };
        write(out, &head)?;
        for one in &mut stored {
            for _ in 0..one.channels {
                let mut take = |piece: &[u8]| write(out, piece);
                match common {
                    None => one.each_piece(&mut take)?,
                    Some(voxel_type) => one.each_converted(voxel_type, raw.order(), &mut take)?,
                }
            }
            one.end()?;
        }
        Ok(())
    })
}

/// A header of four dimensions; with a type, of unscaled voxels of that type.
fn joined_header(first: &NiftiHeader, channels: usize, common: Option<VoxelType>) -> RawHeader {
    let mut raw = first.raw.clone();
    raw.set_dim(0, 4);
    for (axis, size) in (1..).zip(first.grid().shape) {
        raw.set_dim(axis, size as i64);
    }
    raw.set_dim(4, channels as i64);
    if let Some(voxel_type) = common {
        set_voxel_type(&mut raw, voxel_type);
        let layout = raw.layout();
        raw.set_real(layout.scl_slope, 0, 1.0);
        raw.set_real(layout.scl_inter, 0, 0.0);
    }
    raw
}

/// The type that files of different types or scalings become; none where they are all alike.
fn common_type(stored: &[Stored]) -> Option<VoxelType> {
    let kind = |one: &Stored| {
        let header = &one.header;
        (header.voxel_type, header.raw.order(), header.scaling())
    };
    let first = stored.first().map(kind);
    if stored.iter().all(|one| Some(kind(one)) == first) {
        return None;
    }
    let is_small = |one: &Stored| {
        let voxel_type = one.header.voxel_type;
        one.header.scaling().is_none() && (voxel_type.bytes() <= 2 || voxel_type == VoxelType::F32)
    };
    Some(match stored.iter().all(is_small) {
        true => VoxelType::F32,
        false => VoxelType::F64,
    })
}

/// An open file of one or several channels, read channel by channel.
struct Stored {
    path: PathBuf,
    source: Source<'static>,
    /// Of one channel.
    header: NiftiHeader,
    /// As it stands in the file.
    dimensions: i64,
    channels: usize,
    /// What lies between header and voxels: announced extensions.
    between: Vec<u8>,
}

impl Stored {
    fn open(path: &Path) -> Result<Self> {
        let mut source = Source::open(path, &ENDINGS)?;
        let opened = volumes(&mut source).map_err(|problem| Error::file(path, problem))?;
        let (header, channels, dimensions) = opened;
        let between = header.data_offset - source.position();
        if between > MOST_BYTES {
            return Err(Error::file(
                path,
                format!(
                    "has {between} bytes between header and voxels; expected at most {MOST_BYTES}; the header is damaged"
                ),
            ));
        }
        let mut stored = Self {
            path: path.to_path_buf(),
            source,
            header,
            dimensions,
            channels,
            between: vec![0; between as usize],
        };
        let mut between = std::mem::take(&mut stored.between);
        stored.fill(&mut between)?;
        stored.between = between;
        Ok(stored)
    }

    /// Whether the file is what a single channel's should be, under the name of `target`.
    fn is_plain_volume(&self, target: &Path) -> bool {
        self.dimensions <= 3 && self.source.is_gzip() == is_gzip_name(target)
    }

    /// The next channel's bytes.
    fn each_piece(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = self.header.data_bytes();
        let mut piece = Vec::new();
        while left > 0 {
            piece.resize(left.min(PIECE_BYTES) as usize, 0);
            self.fill(&mut piece)?;
            left -= piece.len() as u64;
            take(&piece)?;
        }
        Ok(())
    }

    /// The next channel's scaled values as bytes of another type.
    fn each_converted(
        &mut self,
        voxel_type: VoxelType,
        order: ByteOrder,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (from, scaling) = (self.header.voxel_type, self.header.scaling());
        let own = self.header.raw.order();
        self.each_piece(&mut |piece| {
            let mut sink = Converted {
                is_double: voxel_type == VoxelType::F64,
                order,
                bytes: Vec::new(),
            };
            from.decode(piece, own, scaling, &mut sink);
            take(&sink.bytes)
        })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let expected = self.header.data_offset + self.header.data_bytes() * self.channels as u64;
        match self.source.fill(bytes) {
            Ok(found) if found == bytes.len() => Ok(()),
            Ok(_) => Err(self.problem(format!(
                "truncated: {} bytes found, {expected} expected; copy or export it again",
                self.source.position()
            ))),
            Err(problem) => Err(self.problem(problem)),
        }
    }

    /// Makes sure that the file ends here; the end of gzip data has their checksum.
    fn end(&mut self) -> Result<()> {
        match self.source.fill(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.problem(
                "data follow the voxels that its header promises; the file is damaged, export it again"
                    .to_owned(),
            )),
            Err(problem) => Err(self.problem(problem)),
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::file(&self.path, problem)
    }
}

/// Writes `target` through a temporary file beside it, compressed if its name says so.
fn written(target: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    check_name(target)?;
    let mut temporary = temporary_file(parent_of(target))?;
    let failed = |error| Error::io(target, "write")(error);
    {
        let mut file = BufWriter::with_capacity(1 << 18, temporary.as_file_mut());
        if is_gzip_name(target) {
            let mut gzip = GzipWriter::new(&mut file).map_err(failed)?;
            fill(&mut gzip)?;
            gzip.finish().map_err(failed)?;
        } else {
            fill(&mut file)?;
        }
        file.flush().map_err(failed)?;
    }
    persisted(temporary, target)
}

/// A copy to the last byte, whole or not at all.
pub fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut from = File::open(source).map_err(Error::io(source, "read"))?;
    let mut temporary = temporary_file(parent_of(target))?;
    io::copy(&mut from, temporary.as_file_mut()).map_err(Error::io(target, "write"))?;
    persisted(temporary, target)
}

impl VoxelSink for ChannelValues {
    /// Counts values of the last channel.
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        let Some(counts) = self.counts.last_mut() else {
            return;
        };
        for value in values {
            self.non_finite += u64::from(!value.is_finite());
            counts.add(value as f32);
        }
    }
}

/// Values as bytes of float32 or float64.
struct Converted {
    is_double: bool,
    order: ByteOrder,
    bytes: Vec<u8>,
}

impl VoxelSink for Converted {
    fn take(&mut self, values: impl ExactSizeIterator<Item = f64> + Clone) {
        for value in values {
            match (self.is_double, self.order) {
                (true, ByteOrder::Little) => self.bytes.extend(value.to_le_bytes()),
                (true, ByteOrder::Big) => self.bytes.extend(value.to_be_bytes()),
                (false, ByteOrder::Little) => self.bytes.extend((value as f32).to_le_bytes()),
                (false, ByteOrder::Big) => self.bytes.extend((value as f32).to_be_bytes()),
            }
        }
    }
}
