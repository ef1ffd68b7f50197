//! Smooth random fields for texture and deformation.

use rand::Rng;

use crate::vectors::Point;

/// Lattice points along each axis; the field repeats after this many.
const SIDE: usize = 16;

/// A field of `N` independent random components from -1 to 1 that vary over `scale_mm`: uniform lattice noise,
/// interpolated with smoothstep weights.
#[derive(Debug, Clone)]
pub(super) struct SmoothField<const N: usize> {
    lattice: Vec<[f64; N]>,
    scale_mm: f64,
}

impl<const N: usize> SmoothField<N> {
    /// Samples a field.
    pub fn draw(rng: &mut impl Rng, scale_mm: f64) -> Self {
        let lattice = (0..SIDE.pow(3))
            .map(|_| std::array::from_fn(|_| rng.random_range(-1.0..1.0)))
            .collect();
        Self { lattice, scale_mm }
    }

    /// The field at `p`.
    pub fn at(&self, p: Point) -> [f64; N] {
        let mut low = [0; 3];
        let mut high = [0; 3];
        let mut weight = [0.0; 3];
        for axis in 0..3 {
            let position = p[axis] / self.scale_mm;
            let floor = position.floor();
            let t = position - floor;
            weight[axis] = t * t * (3.0 - 2.0 * t);
            low[axis] = (floor as i64).rem_euclid(SIDE as i64) as usize;
            high[axis] = (low[axis] + 1) % SIDE;
        }
        let mut value = [0.0; N];
        for corner in 0..8 {
            let mut share = 1.0;
            let mut index = 0;
            for axis in (0..3).rev() {
                let upper = corner >> axis & 1 == 1;
                share *= if upper {
                    weight[axis]
                } else {
                    1.0 - weight[axis]
                };
                index = index * SIDE + if upper { high[axis] } else { low[axis] };
            }
            for (sum, node) in value.iter_mut().zip(self.lattice[index]) {
                *sum += share * node;
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn fields_pass_through_their_lattice_and_stay_in_range() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let field = SmoothField::<2>::draw(&mut rng, 10.0);
        // Index = (z · 16 + y) · 16 + x, wrapped: x = -1 is node 15.
        assert_eq!(
            field.at([-10.0, 20.0, 30.0]),
            field.lattice[(3 * 16 + 2) * 16 + 15]
        );
        let mut last = field.at([0.0, 7.0, 3.0])[0];
        for step in 1..4000 {
            let value = field.at([f64::from(step) * 0.1, 7.0, 3.0])[0];
            assert!(value.abs() <= 1.0 && (value - last).abs() < 0.04);
            last = value;
        }
    }
}
