//! Affine maps from voxel indices to world coordinates.

// Indices are axes here, and most loops index several matrices.
#![allow(clippy::needless_range_loop)]

/// The upper three rows of the voxel-to-world matrix; the fourth is always 0 0 0 1.
pub type Affine = [[f64; 4]; 3];

pub(super) fn column(affine: &Affine, axis: usize) -> [f64; 3] {
    [affine[0][axis], affine[1][axis], affine[2][axis]]
}

pub(super) fn apply(affine: &Affine, point: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|row| {
        affine[row][3]
            + (0..3)
                .map(|axis| affine[row][axis] * point[axis])
                .sum::<f64>()
    })
}

fn cofactor(m: &Affine, row: usize, col: usize) -> f64 {
    let (r1, r2) = ((row + 1) % 3, (row + 2) % 3);
    let (c1, c2) = ((col + 1) % 3, (col + 2) % 3);
    m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
}

pub(super) fn determinant(m: &Affine) -> f64 {
    (0..3).map(|col| m[0][col] * cofactor(m, 0, col)).sum()
}

pub(super) fn inverse(m: &Affine) -> Option<Affine> {
    let det = determinant(m);
    if det == 0.0 || !det.is_finite() {
        return None;
    }
    let mut result = [[0.0; 4]; 3];
    for row in 0..3 {
        for col in 0..3 {
            result[row][col] = cofactor(m, col, row) / det;
        }
        result[row][3] = -(0..3).map(|i| result[row][i] * m[i][3]).sum::<f64>();
    }
    Some(result)
}

/// The orthogonal polar factor of the affine with unit columns, by Newton's iteration (Higham 1986).
pub(super) fn nearest_rotation(affine: &Affine) -> Affine {
    let mut m = *affine;
    for axis in 0..3 {
        let norm = column(affine, axis)
            .iter()
            .map(|v| v * v)
            .sum::<f64>()
            .sqrt();
        for row in &mut m {
            row[axis] /= if norm > 0.0 { norm } else { 1.0 };
        }
    }
    for _ in 0..30 {
        let Some(inv) = inverse(&m) else { return m };
        for row in 0..3 {
            for col in 0..3 {
                m[row][col] = 0.5 * (m[row][col] + inv[col][row]);
            }
        }
    }
    m
}
