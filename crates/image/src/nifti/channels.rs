//! Multi-channel images, copied with their voxels as stored: a 4-D file into one 3-D file per channel, and vice versa.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::datatype::VoxelSink;
use super::gzip::GzipWriter;
use super::header::NiftiHeader;
use super::maps::volumes;
use super::names::ENDINGS;
use super::raw::{ByteOrder, RawHeader};
use super::read::Intensities;
use super::read_header::raw_header;
use super::write::{check_name, is_gzip_name, set_voxel_type};
use crate::formats::{Source, VoxelType};
use crate::space::Volume;
use crate::statistics::hounsfield::ValueCounts;
use ctseg_base::atomic_file::{parent_of, persist, temporary_file};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result, regular_file};

/// Bytes handled at a time; a multiple of every voxel size.
const PIECE_BYTES: u64 = 1 << 20;

/// The header of an image's first channel, and the number of channels: volumes along the fourth axis.
///
/// # Errors
/// Those of [`super::read_header`], and more than one axis after the third with more than one voxel.
pub fn read_channels(path: &Path) -> Result<(NiftiHeader, usize)> {
    let stored = Stored::open(path)?;
    Ok((stored.header, stored.channels))
}

/// The result of [`check_channels`].
#[derive(Debug)]
pub struct ChannelsRead {
    /// Number of NaN or infinite voxels in all channels.
    pub non_finite: u64,
    /// Counts of each channel's scaled values.
    pub counts: Vec<ValueCounts>,
    /// Warning about zero bytes after the content, if any.
    pub padding: Option<String>,
}

/// Reads an image with any number of channels to the end, including checksums.
///
/// # Errors
/// Those of [`super::read_volume`].
pub fn check_channels(path: &Path) -> Result<ChannelsRead> {
    let mut stored = Stored::open(path)?;
    let (voxel_type, order) = (stored.header.voxel_type, stored.header.raw.order());
    let scaling = stored.header.scaling();
    let mut found = ChannelsRead {
        non_finite: 0,
        counts: Vec::new(),
        padding: None,
    };
    for _ in 0..stored.channels {
        found.counts.push(ValueCounts::new(None));
        stored.each_piece(&mut |piece| {
            voxel_type.decode(piece, order, scaling, &mut found);
            Ok(())
        })?;
    }
    found.padding = stored.end()?;
    Ok(found)
}

/// Passes the channels of an image to `take` one by one, each as read by [`super::read_volume`]; only one is in memory
/// at a time. Returns the header of the first channel, with the warnings for the whole file.
///
/// # Errors
/// Those of [`read_channels`] and [`super::read_volume`]; an error of `take` ends the reading.
pub fn each_channel(
    path: &Path,
    mut take: impl FnMut(usize, &Volume) -> Result<()>,
) -> Result<NiftiHeader> {
    let mut stored = Stored::open(path)?;
    let header = stored.header.clone();
    let (grid, order) = (header.grid(), header.raw.order());
    for channel in 0..stored.channels {
        let mut sink = Intensities::default();
        stored.each_piece(&mut |piece| {
            let scaling = header.scaling();
            header.voxel_type.decode(piece, order, scaling, &mut sink);
            Ok(())
        })?;
        let data = ndarray::Array3::from_shape_vec(grid.shape_zyx(), sink.voxels)
            .map_err(|error| stored.problem(format!("voxels do not fill the grid: {error}")))?;
        take(channel, &Volume { grid, data })?;
    }
    let mut header = header;
    header.warnings.extend(stored.end()?);
    Ok(header)
}

/// Writes each channel of `source` to one of `targets` as a 3-D image. The header (except its dimensions), extensions
/// and voxels are copied byte for byte; a source that is already 3-D is copied whole. NIfTI-2 is written as NIfTI-1
/// where that is lossless ([`NiftiHeader::as_nifti1`]), because ITK reads no NIfTI-2.
///
/// A target is compressed if its name ends in `.gz`, and appears only once complete. To verify the source first, use
/// [`check_channels`].
///
/// # Errors
/// A number of channels that differs from the number of targets, and errors of reading and writing.
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
    let raw = stored.written_header();
    for target in targets {
        written(target, |out| {
            let mut write = |piece: &[u8]| out.write_all(piece).map_err(Error::io(target, "write"));
            stored.each_piece_before(&raw, &mut write)?;
            stored.each_piece(&mut write)
        })?;
    }
    stored.end().map(drop)
}

/// Concatenates the channels of all sources along the fourth dimension of one image; a single channel is written as by
/// [`write_split`]. The header is that of the first source except for its dimensions, in NIfTI-1 where possible.
///
/// If all sources share voxel type, byte order and scaling, voxels are copied byte for byte. Otherwise they are
/// converted to float32 if it holds all values exactly (unscaled integers of up to 16 bits and float32), else to
/// float64.
///
/// # Errors
/// No sources, and errors of reading and writing.
pub fn write_joined(sources: &[PathBuf], target: &Path) -> Result<()> {
    let stored = sources.iter().map(|source| Stored::open(source));
    let mut stored = stored.collect::<Result<Vec<_>>>()?;
    let channels: usize = stored.iter().map(|one| one.channels).sum();
    match stored.as_slice() {
        [] => return Err(Error::file(target, "has no channels")),
        [one] if one.channels == 1 => {
            return write_split(&one.path, &[target.to_path_buf()]);
        }
        [one]
            if one.dimensions == 4
                && one.source.is_gzip() == is_gzip_name(target)
                && !one.changes_version() =>
        {
            return copy(&one.path, target);
        }
        _ => {}
    }
    let common = common_type(&stored);
    let raw = joined_header(&stored[0], channels, common);
    written(target, |out| {
        let mut write = |piece: &[u8]| out.write_all(piece).map_err(Error::io(target, "write"));
        stored[0].each_piece_before(&raw, &mut write)?;
        for one in &mut stored {
            for _ in 0..one.channels {
                match common {
                    None => one.each_piece(&mut write)?,
                    Some(voxel_type) => one.each_converted(voxel_type, raw.order(), &mut write)?,
                }
            }
            one.end()?;
        }
        Ok(())
    })
}

/// A 4-D header; with `common`, for unscaled voxels of that type.
fn joined_header(first: &Stored, channels: usize, common: Option<VoxelType>) -> RawHeader {
    let mut raw = first.written_header();
    raw.set_dim(0, 4);
    for (axis, size) in (1..).zip(first.header.grid().shape) {
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

/// The type to convert files of different types or scalings to; `None` if all are alike.
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

/// An open file of one or more channels, read channel by channel.
struct Stored {
    path: PathBuf,
    source: Source<'static>,
    /// The header of one channel.
    header: NiftiHeader,
    /// `dim[0]` as stored in the file.
    dimensions: i64,
    channels: usize,
    /// Bytes between header and voxels: the extensions.
    between: u64,
}

impl Stored {
    fn open(path: &Path) -> Result<Self> {
        let mut source = Source::open(path, &ENDINGS)?;
        let opened = volumes(&mut source).map_err(|problem| Error::file(path, problem))?;
        let (header, channels, dimensions) = opened;
        let mut stored = Self {
            path: path.to_path_buf(),
            between: header.data_offset - source.position(),
            source,
            header,
            dimensions,
            channels,
        };
        stored.each_of(stored.between, &mut |_| Ok(()))?;
        Ok(stored)
    }

    /// Whether the file is NIfTI-2 and is written as NIfTI-1.
    fn changes_version(&self) -> bool {
        self.header.raw.as_nifti1().is_some()
    }

    /// The header of one channel for the files written.
    fn written_header(&self) -> RawHeader {
        let raw = &self.header.raw;
        raw.as_nifti1().unwrap_or_else(|| raw.clone())
    }

    /// Whether the file can be copied whole to `target` as a single channel.
    fn is_plain_volume(&self, target: &Path) -> bool {
        self.dimensions <= 3
            && self.source.is_gzip() == is_gzip_name(target)
            && !self.changes_version()
    }

    /// Everything before the voxels: the header `raw`, then the file's extensions, which are read again so that they
    /// may have any length.
    fn each_piece_before(
        &self,
        raw: &RawHeader,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        take(raw.bytes())?;
        let mut again = Self {
            path: self.path.clone(),
            source: Source::open(&self.path, &ENDINGS)?,
            header: self.header.clone(),
            ..*self
        };
        raw_header(&mut again.source).map_err(|problem| self.problem(problem))?;
        again.each_of(self.between, take)
    }

    /// The next channel's bytes in chunks.
    fn each_piece(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.each_of(self.header.data_bytes(), take)
    }

    /// The next `left` bytes in chunks.
    fn each_of(&mut self, mut left: u64, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = Vec::new();
        while left > 0 {
            piece.resize(left.min(PIECE_BYTES) as usize, 0);
            self.fill(&mut piece)?;
            left -= piece.len() as u64;
            take(&piece)?;
        }
        Ok(())
    }

    /// The next channel's scaled values, converted to another type.
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

    /// Checks that only zero bytes follow; reading to the end also verifies the gzip checksum.
    fn end(&mut self) -> Result<Option<String>> {
        let end = self.source.end();
        end.map_err(|problem| self.problem(problem))
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
    persist(temporary, target)
}

/// Copies a file byte for byte, atomically.
pub fn copy(source: &Path, target: &Path) -> Result<()> {
    let mut from = regular_file::open(source).map_err(Error::io(source, "read"))?;
    let mut temporary = temporary_file(parent_of(target))?;
    io::copy(&mut from, temporary.as_file_mut()).map_err(Error::io(target, "write"))?;
    persist(temporary, target)
}

impl VoxelSink for ChannelsRead {
    /// Counts the values of the last channel.
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
