//! Writing label maps on their source's grid, and volumes.

use std::io::{self, Read, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};

use super::datatype::VoxelType;
use super::geometry::is_finite;
use super::header::NiftiHeader;
use super::names::is_nifti_name;
use super::raw::{AUX_FILE_BYTES, ByteOrder, DESCRIP_BYTES, INTENT_NAME_BYTES, RawHeader};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::values::{Grid, LabelMap, Volume};

/// Label maps shrink to about 1 % at any level; higher ones only take longer.
const LEVEL: u32 = 3;

const CHUNK_BYTES: usize = 1 << 20;

const DESCRIPTION: &str = concat!("ctseg ", env!("CARGO_PKG_VERSION"));

/// Writes a label map with its source's header: uint8 if no label is above 255, else uint16.
///
/// Version, byte order, sform, qform, their codes, pixdim and units stay as in `source` to the last bit,
/// so that every program puts the labels where it puts the image. Scaling, display range, intent,
/// extensions and texts of the source are dropped; `descrip` names ctseg. Compressed if the name ends in
/// `.gz`. Appears under `path` only when whole. Use [`NiftiHeader::for_grid`] where there is no source.
/// Fails if the labels lie on another grid than the source, or on the file system's errors.
pub fn write_labels(path: &Path, labels: &LabelMap, source: &NiftiHeader) -> Result<()> {
    check_name(path)?;
    check_shape(path, labels.data.shape(), &labels.grid)?;
    check_grid(path, &labels.grid, &source.grid())?;
    let largest = labels.data.iter().copied().max().unwrap_or(0);
    let voxel_type = if largest <= 255 {
        VoxelType::U8
    } else {
        VoxelType::U16
    };
    let raw = labels_header(&source.raw, voxel_type);
    let voxels = labels.data.iter().copied();
    match (voxel_type, raw.order()) {
        (VoxelType::U8, _) => write_image(path, &raw, voxels, |label| [label as u8]),
        (_, ByteOrder::Little) => write_image(path, &raw, voxels, u16::to_le_bytes),
        (_, ByteOrder::Big) => write_image(path, &raw, voxels, u16::to_be_bytes),
    }
}

/// Writes a new NIfTI-1 file as [`NiftiHeader::for_grid`] describes it, unscaled and little-endian.
///
/// Integer types take values rounded to the nearest whole number (ties to even, as nibabel); the error
/// names the first that does not fit and its voxel. Compressed if the name ends in `.gz`. Appears under
/// `path` only when whole.
pub fn write_volume(path: &Path, volume: &Volume, voxel_type: VoxelType) -> Result<()> {
    check_name(path)?;
    check_shape(path, volume.data.shape(), &volume.grid)?;
    check_range(path, volume, voxel_type)?;
    let mut raw = NiftiHeader::for_grid(&volume.grid)?.raw;
    set_voxel_type(&mut raw, voxel_type);
    raw.set_text(raw.layout().descrip, DESCRIP_BYTES, DESCRIPTION);
    let voxels = volume.data.iter().copied();
    macro_rules! integers {
        ($number:ty) => {
            write_image(path, &raw, voxels, |value| {
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
        VoxelType::F32 => write_image(path, &raw, voxels, f32::to_le_bytes),
        VoxelType::F64 => write_image(path, &raw, voxels, |value| f64::from(value).to_le_bytes()),
    }
}

/// The source's header with only those fields changed that say something about voxels.
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
    raw.set_first_vox_offset();
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

fn set_voxel_type(raw: &mut RawHeader, voxel_type: VoxelType) {
    let layout = raw.layout();
    raw.set_short(layout.datatype, voxel_type.code());
    raw.set_short(layout.bitpix, 8 * i16::from(voxel_type.bytes()));
}

fn check_name(path: &Path) -> Result<()> {
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

/// Labels on another grid would be shown in the wrong place without anyone noticing.
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
    // A hundredth of a voxel, and what 32-bit reals lose of an origin far away.
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
            "cannot write labels that lie up to {shift_mm:.3} mm off the image whose header they get; \
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

/// Writes maps of numbers from 0 to 255 as one file with `maps` volumes, each on the source's grid and with its
/// header as [`write_labels`]; `step` is what a number stands for (the header's slope).
///
/// `voxels` are bytes, x fastest and maps slowest. Compressed if the name ends in `.gz`. Appears under `path` only
/// when whole.
pub fn write_maps(
    path: &Path,
    source: &NiftiHeader,
    maps: usize,
    step: f64,
    mut voxels: impl Read,
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
    let layout = raw.layout();
    raw.set_dim(0, 4);
    raw.set_dim(4, count.into());
    raw.set_real(layout.scl_slope, 0, step);
    write_whole(path, |out| {
        out.write_all(raw.bytes())?;
        out.write_all(&[0; 4])?;
        let expected = maps as u64 * source.grid().voxels() as u64;
        match io::copy(&mut voxels, out)? {
            written if written == expected => Ok(()),
            written => Err(io::Error::other(format!(
                "{written} voxels came for {maps} maps; expected {expected}"
            ))),
        }
    })
}

/// Header, four zeros (no extensions) and voxels, through a temporary file.
fn write_image<T, const N: usize>(
    path: &Path,
    raw: &RawHeader,
    voxels: impl Iterator<Item = T>,
    encode: impl Fn(T) -> [u8; N],
) -> Result<()> {
    write_whole(path, |out| write_content(out, raw, voxels, encode))
}

/// A file that appears under `path` only when whole; compressed if the name ends in `.gz`.
fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let name = path.as_os_str().to_string_lossy().to_ascii_lowercase();
    write_atomically(path, |file| {
        if !name.ends_with(".gz") {
            return fill(file);
        }
        // No time stamp and no operating system: the same labels give the same bytes.
        let mut gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(file, Compression::new(LEVEL));
        fill(&mut gzip)?;
        gzip.finish().map(|_| ())
    })
}

fn write_content<T, const N: usize>(
    out: &mut dyn Write,
    raw: &RawHeader,
    mut voxels: impl Iterator<Item = T>,
    encode: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    out.write_all(raw.bytes())?;
    out.write_all(&[0; 4])?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        chunk.clear();
        for voxel in voxels.by_ref().take(CHUNK_BYTES / N) {
            chunk.extend_from_slice(&encode(voxel));
        }
        if chunk.is_empty() {
            return Ok(());
        }
        out.write_all(&chunk)?;
    }
}
