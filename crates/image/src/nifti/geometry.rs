//! Conversion between header fields and the affine, as in nibabel.

use super::raw::{RawHeader, Version};
use crate::space::{Affine, Grid};

/// Largest relative difference of equal voxel sizes in affine and `pixdim`.
const SIZE_TOLERANCE: f64 = 1e-3;

/// Largest resulting shift at the far end of the image, in voxels.
const END_TOLERANCE_VOXELS: f64 = 0.1;

/// Longest plausible extent of a scan along any axis.
const LONGEST_MM: f64 = 2500.0;

/// Smallest plausible voxel size of a clinical scan.
const SMALLEST_VOXEL_MM: f64 = 0.01;

/// The affine of the header: the sform if its code is 1 to 5 and it is usable, else the qform likewise, else from the
/// voxel sizes alone.
///
/// `axes` is the number of dimensions, `shape` is (x, y, z). Warnings for the user are added to `warnings`; an unusable
/// affine is an error.
pub(super) fn affine(
    raw: &RawHeader,
    axes: usize,
    shape: [usize; 3],
    warnings: &mut Vec<String>,
) -> Result<Affine, String> {
    let layout = raw.layout();
    let sform = valid_code("sform_code", raw.code(layout.sform_code), warnings);
    let qform = valid_code("qform_code", raw.code(layout.qform_code), warnings);
    let is_usable = |affine: Affine| is_finite(&affine) && Grid { shape, affine }.is_invertible();
    let fallback = || {
        let affine = qform_affine(raw, &mut Vec::new()).ok()?;
        (qform && !is_usable(sform_affine(raw)) && is_usable(affine)).then_some(affine)
    };
    let (affine, name) = if !sform && qform {
        (qform_affine(raw, warnings)?, "qform")
    } else if let Some(affine) = fallback().filter(|_| sform) {
        warnings.push(format!(
            "its sform {}; the qform is used, as ITK does",
            match sform_affine(raw) {
                zero if zero.iter().flatten().all(|value| *value == 0.0) =>
                    "is all zeros although sform_code is set",
                affine if is_finite(&affine) => "is singular, so its voxels span no volume",
                _ => "holds values that are not finite",
            }
        ));
        (affine, "qform")
    } else if sform {
        (sform_affine(raw), "sform")
    } else {
        warnings.push(
            "has neither sform nor qform; orientation and position are guessed (x to the left, centre \
             at the origin), as nibabel does"
                .to_owned(),
        );
        (spacing_affine(raw, axes, shape), "voxel size")
    };
    if !is_finite(&affine) {
        return Err(format!(
            "the affine from its {name} holds values that are not finite; expected a finite, \
             invertible matrix; export the image again"
        ));
    }
    let grid = Grid { shape, affine };
    if !grid.is_invertible() {
        return Err(format!(
            "the affine from its {name} is singular (voxel size {:?} mm), so its voxels span no \
             volume; export the image again",
            grid.spacing_mm()
        ));
    }
    warn_of_skew(&grid, qform, warnings);
    warn_of_voxel_size(&grid, axes, raw, name, warnings);
    warn_of_size(&grid, axes, warnings);
    if name == "sform" && qform {
        warn_of_disagreement(&grid, raw, warnings);
    }
    Ok(affine)
}

/// ITK accepts a cosine of up to 1e-4 between axes ([`Grid::is_skewed`]). Beyond that it uses the qform, which is
/// always orthogonal, or refuses the file.
fn warn_of_skew(grid: &Grid, has_qform: bool, warnings: &mut Vec<String>) {
    if !grid.is_skewed() {
        return;
    }
    let degrees = grid.largest_cosine().clamp(0.0, 1.0).asin().to_degrees();
    warnings.push(format!(
        "its voxel axes are not at right angles (off by {degrees:.3}°; gantry tilt?): distances along axes are exact, \
         angles are not, and programs based on ITK (SimpleITK, 3D Slicer, nnU-Net) {}",
        match has_qform {
            true => "use its qform instead",
            false => "refuse the file",
        }
    ));
}

/// Warns if `pixdim` and the affine differ: programs that use `pixdim`, such as ITK, would see another voxel size.
fn warn_of_voxel_size(
    grid: &Grid,
    axes: usize,
    raw: &RawHeader,
    name: &str,
    warnings: &mut Vec<String>,
) {
    let written: [f64; 3] = std::array::from_fn(|axis| raw.real(raw.layout().pixdim, axis + 1));
    let in_words = |sizes: [f64; 3]| {
        let sizes = sizes
            .iter()
            .take(axes)
            .map(|size| (*size as f32).to_string());
        sizes.collect::<Vec<_>>().join(" × ")
    };
    let (stated, used) = (in_words(written), in_words(grid.spacing_mm()));
    if name == "sform" && !has_voxel_size(grid, written, axes) {
        warnings.push(format!(
            "its pixdim gives voxels of {stated} mm, its sform {used} mm; the sform is used, but programs that use \
             pixdim (SimpleITK, 3D Slicer, nnU-Net) see another size"
        ));
    }
    // Here the affine is computed from pixdim.
    if name != "sform" && !written.iter().take(axes).all(|size| *size > 0.0) {
        warnings.push(format!(
            "its pixdim gives voxels of {stated} mm; read as {used} mm, as in nibabel"
        ));
    }
}

/// Whether `pixdim` agrees with the voxel sizes of the grid along the image's axes, ignoring signs.
fn has_voxel_size(grid: &Grid, pixdim: [f64; 3], axes: usize) -> bool {
    let spacing = grid.spacing_mm();
    (0..axes.min(3)).all(|axis| {
        let off = (pixdim[axis].abs() / spacing[axis] - 1.0).abs();
        off <= SIZE_TOLERANCE && off * grid.shape[axis] as f64 <= END_TOLERANCE_VOXELS
    })
}

/// Warns of implausible sizes: lengths in metres or micrometres that are read as millimetres.
fn warn_of_size(grid: &Grid, axes: usize, warnings: &mut Vec<String>) {
    let spacing = grid.spacing_mm();
    let extent: [f64; 3] = std::array::from_fn(|axis| spacing[axis] * grid.shape[axis] as f64);
    let is_long = extent.iter().any(|mm| *mm > LONGEST_MM);
    let is_short = spacing[..axes.min(3)]
        .iter()
        .all(|mm| *mm < SMALLEST_VOXEL_MM);
    if !is_long && !is_short {
        return;
    }
    let in_words = |lengths: [f64; 3]| lengths.map(|mm| format!("{}", mm as f32)).join(" × ");
    warnings.push(format!(
        "spans {} mm in voxels of {} mm, which is implausible for a patient; check the unit of its voxel sizes, which \
         are read as mm",
        in_words(extent),
        in_words(spacing)
    ));
}

/// Voxel volume in mm³: the product of nibabel's `get_zooms` in the same precision, as in TotalSegmentator; from the
/// affine if the two disagree.
pub(super) fn voxel_mm3(raw: &RawHeader, grid: &Grid, axes: usize) -> f64 {
    let sizes @ [x, y, z] = voxel_size(raw);
    if !has_voxel_size(grid, sizes, axes) {
        return 1000.0 * grid.voxel_volume_ml();
    }
    match raw.version() {
        Version::Nifti1 => f64::from(x as f32 * y as f32 * z as f32),
        Version::Nifti2 => x * y * z,
    }
}

/// Whether all fields that place voxels in space are identical.
pub(super) fn same_placement(a: &RawHeader, b: &RawHeader) -> bool {
    let numbers = |raw: &RawHeader| {
        let layout = raw.layout();
        let codes = [layout.qform_code, layout.sform_code].map(|at| f64::from(raw.code(at)));
        let real = |at: usize, count: usize| (0..count).map(move |i| raw.real(at, i));
        let placed = real(layout.pixdim, 4)
            .chain(real(layout.quatern, 6))
            .chain(real(layout.srow, 12));
        let all = codes.into_iter().chain(placed);
        all.chain([f64::from(raw.xyzt_units() & 7)])
            .map(f64::to_bits)
            .collect::<Vec<u64>>()
    };
    numbers(a) == numbers(b)
}

pub(super) fn is_finite(affine: &Affine) -> bool {
    affine.iter().flatten().all(|value| value.is_finite())
}

/// Whether a transform is present: nibabel treats codes outside 0 to 5 as 0.
fn valid_code(name: &str, code: i32, warnings: &mut Vec<String>) -> bool {
    if !(0..=5).contains(&code) {
        warnings.push(format!("{name} {code} is not a NIfTI code; treated as 0"));
    }
    (1..=5).contains(&code)
}

fn sform_affine(raw: &RawHeader) -> Affine {
    let at = raw.layout().srow;
    std::array::from_fn(|row| std::array::from_fn(|col| raw.real(at, 4 * row + col)))
}

/// `pixdim[1..4]` with nibabel's repairs: 0 becomes 1, signs are dropped.
pub(super) fn voxel_size(raw: &RawHeader) -> [f64; 3] {
    std::array::from_fn(|axis| match raw.real(raw.layout().pixdim, axis + 1) {
        0.0 => 1.0,
        size => size.abs(),
    })
}

/// Method 2 of `nifti1.h`: rotation from a unit quaternion, sizes from pixdim, z flipped if qfac is -1.
fn qform_affine(raw: &RawHeader, warnings: &mut Vec<String>) -> Result<Affine, String> {
    let at = raw.layout().quatern;
    let [b, c, d]: [f64; 3] = std::array::from_fn(|i| raw.real(at, i));
    let rest = 1.0 - (b * b + c * c + d * d);
    if rest < -0.01 {
        return Err(format!(
            "its qform's quaternion has length {:.3}; expected at most 1; the header is damaged, \
             export the image again",
            (1.0 - rest).sqrt()
        ));
    }
    // As in nibabel: within rounding of b, c and d, treat a as 0 (a half turn).
    let rounding = match raw.version() {
        Version::Nifti1 => 3.0 * f64::from(f32::EPSILON),
        Version::Nifti2 => 3.0 * f64::EPSILON,
    };
    if rest <= -rounding {
        warnings.push("its qform's quaternion is slightly longer than 1; normalised".to_owned());
    }
    let a = if rest < rounding { 0.0 } else { rest.sqrt() };
    let s = 2.0 / (a * a + b * b + c * c + d * d);
    let rotation = [
        [
            1.0 - s * (c * c + d * d),
            s * (b * c - a * d),
            s * (b * d + a * c),
        ],
        [
            s * (b * c + a * d),
            1.0 - s * (b * b + d * d),
            s * (c * d - a * b),
        ],
        [
            s * (b * d - a * c),
            s * (c * d + a * b),
            1.0 - s * (b * b + c * c),
        ],
    ];
    let mut size = voxel_size(raw);
    if raw.real(raw.layout().pixdim, 0) == -1.0 {
        size[2] = -size[2];
    }
    Ok(std::array::from_fn(|row| {
        std::array::from_fn(|col| match col {
            3 => raw.real(at, 3 + row),
            _ => rotation[row][col] * size[col],
        })
    }))
}

/// nibabel's `get_base_affine`: x runs to the left, the origin is at the image centre.
fn spacing_affine(raw: &RawHeader, axes: usize, shape: [usize; 3]) -> Affine {
    let mut affine = [[0.0; 4]; 3];
    for (axis, size) in voxel_size(raw).into_iter().enumerate().take(3) {
        let size = if axis < axes { size } else { 1.0 };
        let step = if axis == 0 { -size } else { size };
        affine[axis][axis] = step;
        affine[axis][3] = -((shape[axis] as f64 - 1.0) / 2.0) * step;
    }
    affine
}

/// Warns if sform and qform differ: programs that prefer the qform would place the image elsewhere.
fn warn_of_disagreement(sform: &Grid, raw: &RawHeader, warnings: &mut Vec<String>) {
    let qform = match qform_affine(raw, &mut Vec::new()) {
        Ok(affine) if is_finite(&affine) => Grid { affine, ..*sform },
        _ => {
            warnings.push("its qform is damaged; the sform is used".to_owned());
            return;
        }
    };
    let shift_mm = sform.largest_shift_mm(&qform);
    let smallest_mm = sform.spacing_mm().into_iter().fold(f64::INFINITY, f64::min);
    if shift_mm > smallest_mm / 2.0 {
        warnings.push(format!(
            "its sform and qform disagree by up to {shift_mm:.2} mm; the sform is used"
        ));
    }
}

/// The quaternion (b, c, d) and qfac of a grid with orthogonal axes, as `nifti_mat44_to_quatern`.
pub(super) fn quaternion(grid: &Grid) -> ([f64; 3], f64) {
    let spacing = grid.spacing_mm();
    let mut r: [[f64; 3]; 3] =
        std::array::from_fn(|row| std::array::from_fn(|col| grid.affine[row][col] / spacing[col]));
    let determinant = r[0][0] * (r[1][1] * r[2][2] - r[1][2] * r[2][1])
        - r[0][1] * (r[1][0] * r[2][2] - r[1][2] * r[2][0])
        + r[0][2] * (r[1][0] * r[2][1] - r[1][1] * r[2][0]);
    let qfac = if determinant < 0.0 { -1.0 } else { 1.0 };
    for row in &mut r {
        row[2] *= qfac;
    }
    let trace = r[0][0] + r[1][1] + r[2][2];
    if trace > -0.5 {
        let a = 0.5 * (trace + 1.0).sqrt();
        let bcd = [r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]];
        return (bcd.map(|v| v / (4.0 * a)), qfac);
    }
    // Near a half turn a is small: start from the largest of b, c and d instead.
    let i = (0..3).fold(0, |best, i| if r[i][i] > r[best][best] { i } else { best });
    let (j, k) = ((i + 1) % 3, (i + 2) % 3);
    let largest = 0.5 * (1.0 + r[i][i] - r[j][j] - r[k][k]).max(0.0).sqrt();
    let mut bcd = [0.0; 3];
    bcd[i] = largest;
    bcd[j] = (r[j][i] + r[i][j]) / (4.0 * largest);
    bcd[k] = (r[k][i] + r[i][k]) / (4.0 * largest);
    // The header does not store a: it is assumed positive.
    if r[k][j] - r[j][k] < 0.0 {
        bcd = bcd.map(|v| -v);
    }
    (bcd, qfac)
}
