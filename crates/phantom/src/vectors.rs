//! Points and rotations in three dimensions.

/// A point or direction in mm.
pub(super) type Point = [f64; 3];

/// Rows of a rotation matrix.
pub(super) type Rotation = [Point; 3];

pub(super) const IDENTITY: Rotation = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

/// The rotation by `degrees` about x, then y, then z.
pub(super) fn rotation(degrees: [f64; 3]) -> Rotation {
    let [a, b, c] = degrees.map(|v| v.to_radians().sin_cos());
    let about_x = [[1.0, 0.0, 0.0], [0.0, a.1, -a.0], [0.0, a.0, a.1]];
    let about_y = [[b.1, 0.0, b.0], [0.0, 1.0, 0.0], [-b.0, 0.0, b.1]];
    let about_z = [[c.1, -c.0, 0.0], [c.0, c.1, 0.0], [0.0, 0.0, 1.0]];
    product(&about_z, &product(&about_y, &about_x))
}

fn product(a: &Rotation, b: &Rotation) -> Rotation {
    std::array::from_fn(|row| {
        std::array::from_fn(|col| (0..3).map(|i| a[row][i] * b[i][col]).sum())
    })
}

pub(super) fn rotated(matrix: &Rotation, point: Point) -> Point {
    matrix.map(|row| dot(row, point))
}

/// `matrix`ᵀ · `point`, which undoes [`rotated`].
pub(super) fn rotated_back(matrix: &Rotation, point: Point) -> Point {
    std::array::from_fn(|col| (0..3).map(|row| matrix[row][col] * point[row]).sum())
}

/// Scalar product.
pub(super) fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(super) fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(super) fn plus(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

/// `v` at length 1; zero stays zero.
pub(super) fn unit(v: Point) -> Point {
    let length = dot(v, v).sqrt();
    if length > 0.0 {
        v.map(|c| c / length)
    } else {
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_have_the_right_sign_and_inverse() {
        let near = |a: Point, b: Point| (0..3).all(|i| (a[i] - b[i]).abs() < 1e-12);
        let (x, y, z) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        assert!(near(rotated(&rotation([90.0, 0.0, 0.0]), y), z));
        assert!(near(rotated(&rotation([0.0, 90.0, 0.0]), z), x));
        assert!(near(rotated(&rotation([0.0, 0.0, 90.0]), x), y));
        // About x first: y goes to z, which the rotation about z leaves unchanged.
        assert!(near(rotated(&rotation([90.0, 0.0, 90.0]), y), z));
        let turn = rotation([20.0, -35.0, 130.0]);
        assert!(near(
            rotated_back(&turn, rotated(&turn, [3.0, -4.0, 5.0])),
            [3.0, -4.0, 5.0]
        ));
    }
}
