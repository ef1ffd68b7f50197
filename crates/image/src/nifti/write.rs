//! Writing label maps and masks on the grid of their source, and volumes.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use ndarray::{Array3, Axis};

use super::geometry::is_finite;
use super::gzip::{Content, GzipWriter, PIECE_BYTES, write_gzip, write_plain};
use super::header::NiftiHeader;
use super::label_names::extensions;
use super::names::is_nifti_name;
use super::raw::{AUX_FILE_BYTES, ByteOrder, DESCRIP_BYTES, INTENT_NAME_BYTES, RawHeader};
use crate::formats::{LabelNames, MaskPiece, VoxelType};
use crate::space::{Grid, LabelMap, Volume};
use ctseg_base::atomic_file::write_atomically;
use ctseg_base::{Error, Result};

const DESCRIPTION: &str = concat!("ctseg ", env!("CARGO_PKG_VERSION"));

/// Writes a label map with its source's header: uint8 if no label is above 255, else uint16.
///
/// Version, byte order, sform, qform, their codes, pixdim and units are copied from `source` bit for bit, so that every
/// program places the labels where it places the image. Scaling, display range, intent, extensions and texts of the
/// source are dropped; `descrip` names ctseg. Compressed with all threads if the name ends in `.gz`; the bytes do not
/// depend on the number of threads. The file appears under `path` only once complete. Without a source, use
/// [`NiftiHeader::for_grid`].
///
/// Fails if the labels are on another grid than the source, and on file system errors.
pub fn write_labels(path: &Path, labels: &LabelMap, source: &NiftiHeader) -> Result<()> {
    write_named_labels(path, labels, source, &LabelNames::new())
}

/// [`write_labels`] with the labels' names and colours embedded as by TotalSegmentator.
pub fn write_named_labels(
    path: &Path,
    labels: &LabelMap,
    source: &NiftiHeader,
    names: &LabelNames,
) -> Result<()> {
    check_name(path)?;
    check_shape(path, labels.data.shape(), &labels.grid)?;
    check_grid(path, &labels.grid, &source.grid())?;
    let largest = labels.data.iter().copied().max().unwrap_or(0);
    let voxel_type = if largest <= 255 {
        VoxelType::U8
    } else {
        VoxelType::U16
    };
    let mut raw = labels_header(&source.raw, voxel_type);
    let extensions = extensions(names, raw.order());
    raw.set_extension_bytes(extensions.len());
    let head = [raw.bytes(), &extensions].concat();
    match (voxel_type, raw.order()) {
        (VoxelType::U8, _) => write_array(path, &head, &labels.data, |label| [label as u8]),
        (_, ByteOrder::Little) => write_array(path, &head, &labels.data, u16::to_le_bytes),
        (_, ByteOrder::Big) => write_array(path, &head, &labels.data, u16::to_be_bytes),
    }
}

/// Writes a uint8 mask of 0 and 1 on its source's grid, as [`write_labels`]. Several threads call `mask` for pieces of
/// it, so that the mask need not be in memory as a whole.
pub fn write_mask(path: &Path, source: &NiftiHeader, mask: &MaskPiece) -> Result<()> {
    check_name(path)?;
    let mut raw = labels_header(&source.raw, VoxelType::U8);
    raw.set_extension_bytes(4);
    let head = [raw.bytes(), &[0; 4]].concat();
    let voxels = source.grid().voxels();
    write_content(path, &head, voxels, PIECE_BYTES, &|range, bytes| {
        bytes.resize(range.len(), 0);
        mask(range, bytes);
    })
}

/// Writes a new NIfTI file with a header as by [`NiftiHeader::for_grid`], unscaled and little-endian.
///
/// For integer types, values are rounded to the nearest integer (ties to even, as in nibabel); the error names the
/// first value that does not fit and its voxel. Compressed if the name ends in `.gz`. The file appears under `path`
/// only once complete.
pub fn write_volume(path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()> {
    check_name(path)?;
    check_shape(path, volume.data.shape(), &volume.grid)?;
    check_range(path, volume, voxel_type)?;
    let mut raw = NiftiHeader::for_grid(&volume.grid)?.raw;
    set_voxel_type(&mut raw, voxel_type);
    raw.set_text(raw.layout().descrip, DESCRIP_BYTES, DESCRIPTION);
    let head = [raw.bytes(), &[0; 4]].concat();
    macro_rules! integers {
        ($number:ty) => {
            write_array(path, &head, &volume.data, |value| {
                (value.round_ties_even() as $number).to_le_bytes()
            })
        };
    }
    match voxel_type {
        VoxelType::U8 => integers!(u8),
        VoxelType::I8 => integers!(i8),
        VoxelType::U16 => integers!(u16),
        VoxelType::I16 => integers!(i16),
        VoxelType::U32 => integers!(u32),
        VoxelType::I32 => integers!(i32),
        VoxelType::U64 => integers!(u64),
        VoxelType::I64 => integers!(i64),
        VoxelType::F32 => write_array(path, &head, &volume.data, f32::to_le_bytes),
        VoxelType::F64 => write_array(path, &head, &volume.data, |value| {
            f64::from(value).to_le_bytes()
        }),
    }
}

/// The source's header with only the fields changed that describe voxel values.
fn labels_header(source: &RawHeader, voxel_type: VoxelType) -> RawHeader {
    let mut raw = source.clone();
    let layout = raw.layout();
    let real_bytes = raw.version().real_bytes();
    set_voxel_type(&mut raw, voxel_type);
    // A 2-D image keeps its two dimensions: the guessed affine of a third could differ.
    raw.set_dim(0, source.dim(0).min(3));
    for axis in 1 + source.dim(0).min(3) as usize..8 {
        raw.set_dim(axis, 1);
    }
    raw.set_real(layout.scl_slope, 0, 1.0);
    raw.set_real(layout.scl_inter, 0, 0.0);
    raw.clear(layout.cal_max, real_bytes);
    raw.clear(layout.cal_min, real_bytes);
    raw.clear(layout.intent_p, 3 * real_bytes);
    raw.set_code(layout.intent_code, 0);
    raw.clear(layout.intent_name, INTENT_NAME_BYTES);
    raw.clear(layout.aux_file, AUX_FILE_BYTES);
    if let Some(gl) = layout.gl {
        raw.clear(gl, 8);
    }
    raw.set_text(layout.descrip, DESCRIP_BYTES, DESCRIPTION);
    raw
}

pub(super) fn set_voxel_type(raw: &mut RawHeader, voxel_type: VoxelType) {
    let layout = raw.layout();
    raw.set_short(layout.datatype, voxel_type.code());
    raw.set_short(layout.bitpix, 8 * i16::from(voxel_type.bytes()));
}

pub(super) fn check_name(path: &Path) -> Result<()> {
    if is_nifti_name(path) {
        return Ok(());
    }
    Err(Error::file(
        path,
        "not the name of a NIfTI file; expected it to end in .nii or .nii.gz",
    ))
}

fn check_shape(path: &Path, found: &[usize], grid: &Grid) -> Result<()> {
    if found == grid.shape_zyx() {
        return Ok(());
    }
    Err(Error::file(
        path,
        format!(
            "cannot write an array of shape {found:?} (z, y, x) on a grid of shape {:?} (x, y, z)",
            grid.shape
        ),
    ))
}

/// Refuses labels on another grid, which would silently be shown in the wrong place.
fn check_grid(path: &Path, labels: &Grid, source: &Grid) -> Result<()> {
    if labels.shape != source.shape {
        return Err(Error::file(
            path,
            format!(
                "cannot write labels of shape {:?} (x, y, z) with the header of an image of shape {:?}; \
                 resample them onto the image's grid first",
                labels.shape, source.shape
            ),
        ));
    }
    // A hundredth of a voxel, plus the 32-bit rounding of a distant origin.
    let origin_mm = (0..3).map(|row| source.affine[row][3].abs());
    let smallest_mm = source
        .spacing_mm()
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    let tolerance_mm = smallest_mm / 100.0 + origin_mm.fold(0.0, f64::max) * 1e-6;
    let shift_mm = match is_finite(&labels.affine) {
        true => labels.largest_shift_mm(source),
        false => f64::INFINITY,
    };
    if shift_mm <= tolerance_mm {
        return Ok(());
    }
    Err(Error::file(
        path,
        format!(
            "cannot write labels that lie up to {shift_mm:.3} mm off the image whose header they take; \
             resample them onto the image's grid first"
        ),
    ))
}

fn check_range(path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()> {
    let Some((low, end)) = voxel_type.integer_range() else {
        return Ok(());
    };
    let fits = |value: f32| (low..end).contains(&f64::from(value).round_ties_even());
    match volume.data.indexed_iter().find(|(_, value)| !fits(**value)) {
        None => Ok(()),
        Some(((z, y, x), value)) => Err(Error::file(
            path,
            format!(
                "cannot write {value} at voxel [{x}, {y}, {z}] (x, y, z) as {}, which holds {low} to {}; \
                 write float32 or clip first",
                voxel_type.name(),
                end - 1.0
            ),
        )),
    }
}

/// Writes a uint8 map on the source's grid with its header, as [`write_labels`]; `step` is the value of one unit (the
/// header's slope).
///
/// `voxels` are bytes, x fastest. Compressed if the name ends in `.gz`. The file appears under `path` only once
/// complete.
pub fn write_map(path: &Path, source: &NiftiHeader, step: f64, voxels: impl Read) -> Result<()> {
    check_name(path)?;
    let raw = labels_header(&source.raw, VoxelType::U8);
    write_steps(path, raw, step, source.grid().voxels(), voxels)
}

/// Writes `maps` maps, each as by [`write_map`], as the volumes of one file; in `voxels` the map index is slowest.
pub fn write_maps(
    path: &Path,
    source: &NiftiHeader,
    maps: usize,
    step: f64,
    voxels: impl Read,
) -> Result<()> {
    check_name(path)?;
    let count = i16::try_from(maps).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| {
        Error::file(
            path,
            format!("cannot hold {maps} maps; expected 1 to {}", i16::MAX),
        )
    })?;
    let mut raw = labels_header(&source.raw, VoxelType::U8);
    raw.set_dim(0, 4);
    raw.set_dim(4, count.into());
    write_steps(path, raw, step, maps * source.grid().voxels(), voxels)
}

/// Writes the header, then the bytes of `voxels`.
fn write_steps(
    path: &Path,
    mut raw: RawHeader,
    step: f64,
    expected: usize,
    mut voxels: impl Read,
) -> Result<()> {
    let layout = raw.layout();
    raw.set_extension_bytes(4);
    raw.set_real(layout.scl_slope, 0, step);
    let mut fill = |out: &mut dyn Write| {
        out.write_all(raw.bytes())?;
        out.write_all(&[0; 4])?;
        match io::copy(&mut voxels, out)? {
            written if written == expected as u64 => Ok(()),
            written => Err(io::Error::other(format!(
                "received {written} voxels; expected {expected}"
            ))),
        }
    };
    let gzipped = is_gzip_name(path);
    write_atomically(path, |file| {
        if !gzipped {
            return fill(file);
        }
        let mut gzip = GzipWriter::new(file)?;
        fill(&mut gzip)?;
        gzip.finish().map(|_| ())
    })
}

/// Writes `head`, then the array's voxels in file order.
fn write_array<T: Copy + Sync, const N: usize>(
    path: &Path,
    head: &[u8],
    array: &Array3<T>,
    encode: impl Fn(T) -> [u8; N] + Sync,
) -> Result<()> {
    let per_piece = PIECE_BYTES / N;
    write_content(path, head, array.len(), per_piece, &|range, bytes| {
        let voxels = in_file_order(array, range);
        bytes.resize(N * voxels.len(), 0);
        for (target, voxel) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(&*voxels) {
            *target = encode(*voxel);
        }
    })
}

/// A range of the array's voxels, x fastest, whatever its layout in memory.
fn in_file_order<T: Copy>(array: &Array3<T>, range: Range<usize>) -> Cow<'_, [T]> {
    if let Some(all) = array.as_slice() {
        return Cow::Borrowed(&all[range]);
    }
    let plane = array.dim().1 * array.dim().2;
    let mut voxels = Vec::with_capacity(range.len());
    for z in range.start / plane..range.end.div_ceil(plane) {
        let from = range.start.saturating_sub(z * plane);
        let to = (range.end - z * plane).min(plane);
        let slice = array.index_axis(Axis(0), z);
        voxels.extend(slice.iter().skip(from).take(to - from).copied());
    }
    Cow::Owned(voxels)
}

/// Writes `head` and all voxels, `per_piece` at a time, through a temporary file.
fn write_content(
    path: &Path,
    head: &[u8],
    voxels: usize,
    per_piece: usize,
    encoded: &(dyn Fn(Range<usize>, &mut Vec<u8>) + Sync),
) -> Result<()> {
    let content = Content {
        head,
        pieces: voxels.div_ceil(per_piece),
        piece: &|index, bytes| {
            let first = index * per_piece;
            encoded(first..voxels.min(first + per_piece), bytes);
        },
    };
    let gzipped = is_gzip_name(path);
    write_atomically(path, |file| match gzipped {
        true => write_gzip(file, &content),
        false => write_plain(file, &content),
    })
}

pub(super) fn is_gzip_name(path: &Path) -> bool {
    let name = path.as_os_str().to_string_lossy().to_ascii_lowercase();
    name.ends_with(".gz")
}
