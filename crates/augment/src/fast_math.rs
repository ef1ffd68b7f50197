//! Logarithm, power, sine and normal random numbers for whole channels: branch-free f32 arithmetic that the compiler
//! vectorises. Polynomials are from Cephes (Moshier), accurate to about two units in the last place.

use rand::Rng;

use crate::simd::simd;

/// The natural logarithm of a positive normal number.
#[inline(always)]
fn ln(x: f32) -> f32 {
    /// √½: the mantissa is reduced to [√½, √2).
    const ROOT_HALF: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32;
    let exponent = bits.wrapping_sub(ROOT_HALF) >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub(exponent << 23) as u32);
    let f = mantissa - 1.0;
    let mut p = 7.037_683_6e-2;
    p = p * f - 1.151_461e-1;
    p = p * f + 1.167_699_9e-1;
    p = p * f - 1.242_014_1e-1;
    p = p * f + 1.424_932_3e-1;
    p = p * f - 1.666_805_8e-1;
    p = p * f + 2.000_071_5e-1;
    p = p * f - 2.499_999_4e-1;
    p = p * f + 3.333_333e-1;
    let square = f * f;
    let small = p * f * square - 0.5 * square;
    exponent as f32 * std::f32::consts::LN_2 + (f + small)
}

/// 2 to the power of `x`, clamped to the range of normal numbers.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer; in between, the integer is in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let x = if x < 126.0 { x } else { 126.0 };
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 1.535_336_2e-4;
    p = p * f + 1.339_887_4e-3;
    p = p * f + 9.618_437e-3;
    p = p * f + 5.550_332_4e-2;
    p = p * f + 2.402_264_8e-1;
    p = p * f + 6.931_472e-1;
    p = p * f + 1.0;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `x`, from 0 to 1, to the power of a positive `exponent`.
#[inline(always)]
fn power(x: f32, exponent: f32) -> f32 {
    let positive = x > f32::MIN_POSITIVE;
    let safe = if positive { x } else { 1.0 };
    let raised = exp2(exponent * (ln(safe) * std::f32::consts::LOG2_E));
    if positive { raised } else { 0.0 }
}

/// Sine and cosine of `turns` full turns, in [0, 1].
#[inline(always)]
fn sin_cos(turns: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0;
    let quarters = 4.0 * turns;
    let shifted = quarters + ROUND;
    let quarter = shifted.to_bits();
    let r = (quarters - (shifted - ROUND)) * std::f32::consts::FRAC_PI_2;
    let z = r * r;
    let mut s = -1.951_529_6e-4;
    s = s * z + 8.332_161e-3;
    s = s * z - 1.666_665_5e-1;
    let s = s * z * r + r;
    let mut c = 2.443_315_7e-5;
    c = c * z - 1.388_731_6e-3;
    c = c * z + 4.166_664_6e-2;
    let c = c * z * z - 0.5 * z + 1.0;
    let swapped = quarter & 1 == 1;
    let (sin, cos) = (if swapped { c } else { s }, if swapped { s } else { c });
    let sign = |value: f32, negative: u32| f32::from_bits(value.to_bits() ^ (negative << 31));
    (
        sign(sin, quarter >> 1 & 1),
        sign(cos, quarter.wrapping_add(1) >> 1 & 1),
    )
}

/// Values computed in parallel.
const LANES: usize = 8;

/// Parallel generators: xoshiro128+ (Blackman and Vigna, ACM TOMS 2021).
struct Generators([[u32; LANES]; 4]);

impl Generators {
    fn new(rng: &mut impl Rng) -> Self {
        // An all-zero state would stay zero.
        Self(std::array::from_fn(|_| {
            std::array::from_fn(|_| rng.random::<u32>() | 1)
        }))
    }

    #[inline(always)]
    fn next(&mut self) -> [u32; LANES] {
        let [a, b, c, d] = &mut self.0;
        let mut drawn = [0; LANES];
        for lane in 0..LANES {
            drawn[lane] = a[lane].wrapping_add(d[lane]);
            let t = b[lane] << 9;
            c[lane] ^= a[lane];
            d[lane] ^= b[lane];
            b[lane] ^= c[lane];
            a[lane] ^= d[lane];
            c[lane] ^= t;
            d[lane] = d[lane].rotate_left(11);
        }
        drawn
    }

    /// Standard normal numbers (Box and Muller 1958), at most 5.8 in magnitude.
    #[inline(always)]
    fn normals(&mut self) -> [[f32; LANES]; 2] {
        const SMALLEST: f32 = 1.0 / 16_777_216.0;
        let (first, second) = (self.next(), self.next());
        let mut normals = [[0.0; LANES]; 2];
        for lane in 0..LANES {
            // The upper 24 bits; the first gets + 1 so that its logarithm is finite.
            let u = ((first[lane] >> 8) as i32 + 1) as f32 * SMALLEST;
            let v = (second[lane] >> 8) as i32 as f32 * SMALLEST;
            let radius = (-2.0 * ln(u)).sqrt();
            let (sin, cos) = sin_cos(v);
            normals[0][lane] = radius * cos;
            normals[1][lane] = radius * sin;
        }
        normals
    }
}

/// Adds normal noise of standard deviation `sd`.
pub(super) fn add_normals(values: &mut [f32], sd: f32, rng: &mut impl Rng) {
    add_from(values, sd, &mut Generators::new(rng));
}

simd! {
    fn add_from(values: &mut [f32], sd: f32, generators: &mut Generators) {
        for chunk in values.chunks_mut(2 * LANES) {
            let normals = generators.normals();
            for (value, normal) in chunk.iter_mut().zip(normals.as_flattened()) {
                *value += normal * sd;
            }
        }
    }
}

simd! {
    /// Computes ((value − `from`) · `scale`)^`exponent` · `width` for each value.
    pub(super) fn raise(values: &mut [f32], from: f32, scale: f32, exponent: f32, width: f32) {
        for value in values {
            *value = power((*value - from) * scale, exponent) * width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn powers_are_the_standard_librarys() {
        for exponent in [0.1f32, 0.7, 1.0, 1.5, 10.0] {
            for step in 0..=10_000 {
                let x = step as f32 / 10_000.0;
                let (found, expected) = (power(x, exponent), x.powf(exponent));
                let apart = (found - expected).abs();
                assert!(
                    apart <= 1e-5 * expected + 2e-38 && apart < 1e-6,
                    "{x}^{exponent}: {found}"
                );
            }
        }
        assert_eq!(power(0.0, 0.1), 0.0);
    }

    #[test]
    fn turns_are_the_standard_librarys() {
        for step in 0..40_000 {
            let turns = step as f32 / 40_000.0;
            let (sin, cos) = sin_cos(turns);
            let (s, c) = (std::f64::consts::TAU * f64::from(turns)).sin_cos();
            assert!((f64::from(sin) - s).abs() < 4e-7 && (f64::from(cos) - c).abs() < 4e-7);
        }
    }

    #[test]
    fn numbers_are_normal() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let mut values = vec![0f32; 400_003];
        add_normals(&mut values, 1.0, &mut rng);
        let n = values.len() as f64;
        let moment = |power: i32| {
            values
                .iter()
                .map(|v| f64::from(*v).powi(power))
                .sum::<f64>()
                / n
        };
        // Five standard errors each: 1, √2, √15 and √96 over √n.
        let error = 5.0 / n.sqrt();
        assert!(moment(1).abs() < error);
        assert!((moment(2) - 1.0).abs() < 1.5 * error);
        assert!(moment(3).abs() < 3.9 * error);
        assert!((moment(4) - 3.0).abs() < 9.8 * error);
        // Cumulative probabilities, from tables of the normal distribution.
        for (below, share) in [
            (-2.0, 0.022_75),
            (-1.0, 0.158_655),
            (0.5, 0.691_462),
            (3.0, 0.998_65),
        ] {
            let count = values.iter().filter(|v| **v < below).count() as f64 / n;
            assert!((count - share).abs() < 0.5 * error, "{below}: {count}");
        }
        // Neighbouring values, within and across lanes, are uncorrelated.
        for lag in [1, 7, 8, 9, 16] {
            let pairs = values.iter().zip(&values[lag..]);
            let product = pairs.map(|(a, b)| f64::from(a * b)).sum::<f64>() / n;
            assert!(product.abs() < error, "{lag}: {product}");
        }
    }
}
