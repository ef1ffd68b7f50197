//! The parsed header, checked before anything is allocated.

use super::geometry;
use super::raw::{ByteOrder, DESCRIP_BYTES, RawHeader, Version};
use crate::formats::VoxelType;
use crate::space::Grid;
use ctseg_base::{Error, Result};

/// A checked header. It keeps the source's bytes, so that label maps can be written on exactly the same grid.
#[derive(Debug, Clone)]
pub struct NiftiHeader {
    pub(super) raw: RawHeader,
    pub(super) voxel_type: VoxelType,
    pub(super) data_offset: u64,
    pub(super) compressed: bool,
    pub(super) warnings: Vec<String>,
    grid: Grid,
    scaling: Option<(f64, f64)>,
}

impl NiftiHeader {
    /// Checks every field that determines how voxels are read.
    pub(super) fn parse(raw: RawHeader, compressed: bool) -> std::result::Result<Self, String> {
        let layout = raw.layout();
        let voxel_type = VoxelType::from_code(raw.short(layout.datatype))?;
        let (shape, axes) = shape(&raw)?;
        let mut warnings = Vec::new();
        let bits = raw.short(layout.bitpix);
        if i32::from(bits) != 8 * i32::from(voxel_type.bytes()) {
            warnings.push(format!(
                "bitpix is {bits} although {} has {} bits; bitpix is ignored",
                voxel_type.name(),
                8 * voxel_type.bytes()
            ));
        }
        let data_offset = data_offset(&raw)?;
        let voxels = shape.iter().map(|n| *n as u64).product::<u64>();
        if (voxels * u64::from(voxel_type.bytes()))
            .checked_add(data_offset)
            .is_none()
        {
            return Err(format!(
                "vox_offset {data_offset} is impossible; the header is damaged"
            ));
        }
        let affine = geometry::affine(&raw, axes, shape, &mut warnings)?;
        let scaling = scaling(&raw)?;
        let header = Self {
            voxel_type,
            data_offset,
            compressed,
            grid: Grid { shape, affine },
            scaling,
            warnings,
            raw,
        };
        Ok(header.with_unit_warning())
    }

    /// The header of a new NIfTI-1 file on `grid` (NIfTI-2 if an axis has more than 32767 voxels).
    ///
    /// sform and qform have code 1 and units are mm; the qform is omitted (code 0) if the axes are not orthogonal.
    /// NIfTI-1 rounds the affine to 32-bit floats: [`NiftiHeader::grid`] is what readers will see. Fails if the grid is
    /// empty or its affine singular.
    pub fn for_grid(grid: &Grid) -> Result<Self> {
        let version = match grid.shape.iter().all(|n| i16::try_from(*n).is_ok()) {
            true => Version::Nifti1,
            false => Version::Nifti2,
        };
        let mut raw = RawHeader::blank(version, ByteOrder::Little);
        let layout = raw.layout();
        raw.set_dim(0, 3);
        for axis in 1..8 {
            let size = grid.shape.get(axis - 1).map_or(1, |n| *n as i64);
            raw.set_dim(axis, size);
            let spacing = grid.spacing_mm().get(axis - 1).copied().unwrap_or(1.0);
            raw.set_real(layout.pixdim, axis, spacing);
        }
        let (bcd, qfac) = geometry::quaternion(grid);
        raw.set_real(layout.pixdim, 0, qfac);
        raw.set_xyzt_units(2);
        raw.set_code(layout.sform_code, 1);
        for row in 0..3 {
            for col in 0..4 {
                raw.set_real(layout.srow, 4 * row + col, grid.affine[row][col]);
            }
        }
        if grid.is_orthogonal(1e-5) {
            raw.set_code(layout.qform_code, 1);
            for (axis, component) in bcd.into_iter().enumerate() {
                raw.set_real(layout.quatern, axis, component);
                raw.set_real(layout.quatern, 3 + axis, grid.affine[axis][3]);
            }
        }
        raw.set_extension_bytes(4);
        raw.set_real(layout.scl_slope, 0, 1.0);
        raw.set_short(layout.datatype, VoxelType::U8.code());
        raw.set_short(layout.bitpix, 8);
        Self::parse(raw, false)
            .map_err(|problem| Error::invalid(format!("cannot write a NIfTI file: {problem}")))
    }

    /// A NIfTI-2 header as NIfTI-1, with affine and spacing rounded to 32 bits. `None` for NIfTI-1 headers, and for
    /// what NIfTI-1 cannot represent: axes of more than 32767 voxels, scalings that need 64 bits, extensions of 16 MiB.
    pub fn as_nifti1(&self) -> Option<Self> {
        Self::parse(self.raw.as_nifti1()?, self.compressed).ok()
    }

    /// Shape (x, y, z) and affine, as nibabel's `img.shape[:3]` and `img.affine`.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// The stored voxel type by its NumPy name.
    pub fn datatype_name(&self) -> &'static str {
        self.voxel_type.name()
    }

    /// The free text in `descrip`.
    pub fn description(&self) -> String {
        self.raw.text(self.raw.layout().descrip, DESCRIP_BYTES)
    }

    /// NIfTI-1 or NIfTI-2.
    pub fn version(&self) -> Version {
        self.raw.version()
    }

    /// Whether the file is gzip data, judged by content, not by name.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The header's unit of length; ignored, lengths are read as mm, as in nibabel.
    pub fn units(&self) -> &'static str {
        match self.raw.xyzt_units() & 7 {
            1 => "m",
            2 => "mm",
            3 => "micron",
            _ => "unknown",
        }
    }

    /// The header's `qform_code`, as written.
    pub fn qform_code(&self) -> i32 {
        self.raw.code(self.raw.layout().qform_code)
    }

    /// The header's `sform_code`, as written.
    pub fn sform_code(&self) -> i32 {
        self.raw.code(self.raw.layout().sform_code)
    }

    /// Slope and intercept applied to stored values; `None` if unscaled.
    pub fn scaling(&self) -> Option<(f64, f64)> {
        self.scaling
    }

    /// Whether every program places both images identically, whichever transform it uses: qform, sform, their codes,
    /// voxel sizes and units are equal.
    pub fn same_placement(&self, other: &Self) -> bool {
        self.grid().shape == other.grid().shape && geometry::same_placement(&self.raw, &other.raw)
    }

    /// Whether label values are stored directly: unscaled integers, at most three dimensions.
    pub fn holds_plain_labels(&self) -> bool {
        self.scaling().is_none()
            && self.voxel_type.integer_range().is_some()
            && self.raw.dim(0) <= 3
    }

    /// Voxel volume in mm³: the product of nibabel's `get_zooms` (`pixdim`) in the same precision; from the affine if
    /// `pixdim` disagrees with it.
    pub fn voxel_mm3(&self) -> f64 {
        geometry::voxel_mm3(&self.raw, &self.grid, self.raw.dim(0).clamp(1, 3) as usize)
    }

    /// The header as stored: 348 bytes, or 540 for NIfTI-2.
    pub fn raw_bytes(&self) -> &[u8] {
        self.raw.bytes()
    }

    /// Warnings for the user, one line each, without the file name.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Bytes of all voxels in the file; cannot overflow, as the shape was checked.
    pub(super) fn data_bytes(&self) -> u64 {
        self.grid.voxels() as u64 * u64::from(self.voxel_type.bytes())
    }

    fn with_unit_warning(mut self) -> Self {
        if let unit @ ("m" | "micron") = self.units() {
            self.warnings.push(format!(
                "states that lengths are in {unit}; read as mm, as in nibabel"
            ));
        }
        self
    }
}

/// The shape (x, y, z) and the number of dimensions of a single-volume image.
fn shape(raw: &RawHeader) -> std::result::Result<([usize; 3], usize), String> {
    let axes = match raw.dim(0) {
        axes @ 2..=7 => axes as usize,
        axes => {
            return Err(format!(
                "has {axes} dimensions; expected 3 (or 2, or more for a single volume); the header may be \
                 damaged"
            ));
        }
    };
    let dims: Vec<i64> = (1..=axes).map(|axis| raw.dim(axis)).collect();
    if let Some(problem) = surface(raw, &dims) {
        return Err(problem);
    }
    if let Some(bad) = dims.iter().find(|n| **n < 1) {
        return Err(format!(
            "has dimensions {dims:?}, one of them {bad}; expected at least 1 voxel along each; export \
             the image again"
        ));
    }
    let mut shape = [1usize; 3];
    // At most 8 bytes per voxel in the file and in memory: no product below may overflow.
    let mut room = (isize::MAX / 8) as u64;
    for (axis, n) in dims.iter().enumerate() {
        room /= n.unsigned_abs();
        if room == 0 {
            return Err(format!(
                "has dimensions {dims:?}, more voxels than any memory holds; the header is damaged"
            ));
        }
        if let Some(size) = shape.get_mut(axis) {
            *size = n.unsigned_abs() as usize;
        }
    }
    let volumes = dims.iter().skip(3).product::<i64>();
    if volumes > 1 {
        return Err(format!(
            "holds {volumes} volumes (dimensions {dims:?}); expected one 3-D volume; split it, for \
             example with nibabel.four_to_three"
        ));
    }
    Ok((shape, axes))
}

/// Vertex counts of the standard meshes of FreeSurfer and the Human Connectome Project.
const MESHES: [i64; 6] = [2562, 10_242, 32_492, 40_962, 59_292, 163_842];

/// The error for headers of surface data, which are not volumes: FreeSurfer's (nibabel's `get_data_shape` knows the
/// same two encodings) and CIFTI-2.
fn surface(raw: &RawHeader, dims: &[i64]) -> Option<String> {
    let vertices = match dims {
        // Too many for 16 bits: the number is stored in glmin.
        [-1, 1, 1, ..] => raw.layout().gl.map(|at| i64::from(raw.int(at + 4))),
        [27_307, 1, 6, ..] => Some(163_842),
        [count, 1, 1, ..] if MESHES.contains(count) => Some(*count),
        _ => None,
    };
    let intent = raw.code(raw.layout().intent_code);
    let what = match vertices {
        Some(count) => {
            format!("values of the {count} vertices of a surface, as FreeSurfer writes them")
        }
        None if (3000..3100).contains(&intent) => "CIFTI-2 data of a surface".to_owned(),
        None => return None,
    };
    Some(format!(
        "holds {what}; expected a volume; pass the volume that the surface was made from"
    ))
}

fn data_offset(raw: &RawHeader) -> std::result::Result<u64, String> {
    let first = raw.version().first_voxel_byte();
    let offset = raw.vox_offset();
    // f64 cannot represent all integers above 2^53; no file is that long.
    if offset.fract() == 0.0 && (first as f64..=2f64.powi(53)).contains(&offset) {
        return Ok(offset as u64);
    }
    Err(format!(
        "declares that its voxels begin at byte {offset}; expected a whole number from {first}; the header \
         is damaged"
    ))
}

/// Slope and intercept as in nibabel: a slope of 0, NaN or infinity means no scaling.
fn scaling(raw: &RawHeader) -> std::result::Result<Option<(f64, f64)>, String> {
    let slope = raw.real(raw.layout().scl_slope, 0);
    let intercept = raw.real(raw.layout().scl_inter, 0);
    if slope == 0.0 || !slope.is_finite() {
        return Ok(None);
    }
    if !intercept.is_finite() {
        return Err(format!(
            "scl_slope is {slope} but scl_inter is {intercept}; expected a finite number; the header \
             is damaged"
        ));
    }
    Ok((slope != 1.0 || intercept != 0.0).then_some((slope, intercept)))
}
