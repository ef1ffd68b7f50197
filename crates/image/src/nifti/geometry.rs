//! From header fields to the affine, as nibabel does it, and back.

use super::raw::{RawHeader, Version};
use crate::space::{Affine, Grid};

/// Cosine between two voxel axes above which they count as skewed (0.06 degrees off a right angle).
const SKEWED: f64 = 1e-3;

/// The affine of the header: sform if its code is 1 to 5, else qform likewise, else spacing alone.
///
/// `axes` is the number of dimensions, `shape` is (x, y, z). What a user should know is added to
/// `warnings`; an affine that cannot place voxels is an error in words.
pub(super) fn affine(
    raw: &RawHeader,
    axes: usize,
    shape: [usize; 3],
    warnings: &mut Vec<String>,
) -> Result<Affine, String> {
    let layout = raw.layout();
    let sform = valid_code("sform_code", raw.code(layout.sform_code), warnings);
    let qform = valid_code("qform_code", raw.code(layout.qform_code), warnings);
    let (affine, name) = if sform {
        (sform_affine(raw), "sform")
    } else if qform {
        (qform_affine(raw, warnings)?, "qform")
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
    if !grid.is_orthogonal(SKEWED) {
        warnings.push(
            "its voxel axes are not at right angles (gantry tilt?); distances along axes are exact, \
             angles are not"
                .to_owned(),
        );
    }
    if sform && qform {
        warn_of_disagreement(&grid, raw, warnings);
    }
    Ok(affine)
}

/// Whether all fields that say where voxels lie are the same numbers.
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

/// Whether a transform is there: nibabel takes codes outside 0 to 5 for 0.
fn valid_code(name: &str, code: i32, warnings: &mut Vec<String>) -> bool {
    if !(0..=5).contains(&code) {
        warnings.push(format!("{name} {code} is no code of NIfTI; taken as 0"));
    }
    (1..=5).contains(&code)
}

fn sform_affine(raw: &RawHeader) -> Affine {
    let at = raw.layout().srow;
    std::array::from_fn(|row| std::array::from_fn(|col| raw.real(at, 4 * row + col)))
}

/// `pixdim[1..4]` as nibabel repairs them: 0 becomes 1, signs are dropped.
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
    // As nibabel: what the rounding of b, c and d can have left of a half turn's a = 0 is no rotation.
    let rounding = match raw.version() {
        Version::Nifti1 => 3.0 * f64::from(f32::EPSILON),
        Version::Nifti2 => 3.0 * f64::EPSILON,
    };
    if rest <= -rounding {
        warnings.push("its qform's quaternion is slightly longer than 1; shortened".to_owned());
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

/// nibabel's `get_base_affine`: x runs to the left, the image's centre is the origin.
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

/// Programs that prefer the qform would place the image elsewhere; that must not pass in silence.
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
    // Near a half turn a is small; start from the largest of b, c and d instead.
    let i = (0..3).fold(0, |best, i| if r[i][i] > r[best][best] { i } else { best });
    let (j, k) = ((i + 1) % 3, (i + 2) % 3);
    let largest = 0.5 * (1.0 + r[i][i] - r[j][j] - r[k][k]).max(0.0).sqrt();
    let mut bcd = [0.0; 3];
    bcd[i] = largest;
    bcd[j] = (r[j][i] + r[i][j]) / (4.0 * largest);
    bcd[k] = (r[k][i] + r[i][k]) / (4.0 * largest);
    // The header has no place for a: it is taken as positive.
    if r[k][j] - r[j][k] < 0.0 {
        bcd = bcd.map(|v| -v);
    }
    (bcd, qfac)
}
