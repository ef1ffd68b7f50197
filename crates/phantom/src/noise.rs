//! Noise of a CT slice: white noise, and noise correlated in the plane as by a reconstruction filter.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use ctseg_image::preprocess::random_normal::standard_normal;

/// Noise settings; standard deviations in HU.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    pub seed: u64,
    pub white_hu: f64,
    pub correlated_hu: f64,
}

/// Binomial smoothing kernel, and the factor by which it reduces the standard deviation of white noise.
const KERNEL: [f64; 5] = [1.0 / 16.0, 4.0 / 16.0, 6.0 / 16.0, 4.0 / 16.0, 1.0 / 16.0];
const SHRINKAGE: f64 = 70.0 / 256.0;
const MARGIN: usize = KERNEL.len() - 1;

impl Noise {
    /// Noise in HU for slice `z` of `width` x `height` pixels, x fastest. Independent of other slices, so that slices
    /// can be generated in any order.
    pub fn slice(&self, z: usize, width: usize, height: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(z as u64);
        let padded = width + MARGIN;
        let rough = standard_normal(&mut rng, padded * (height + MARGIN));
        let across: Vec<f64> = (0..width * (height + MARGIN))
            .map(|i| {
                let at = i / width * padded + i % width;
                KERNEL.iter().zip(&rough[at..]).map(|(k, v)| k * v).sum()
            })
            .collect();
        let mut noise = standard_normal(&mut rng, width * height);
        for (i, value) in noise.iter_mut().enumerate() {
            let smooth: f64 = (0..KERNEL.len())
                .map(|k| KERNEL[k] * across[i + k * width])
                .sum();
            *value = *value * self.white_hu + smooth / SHRINKAGE * self.correlated_hu;
        }
        noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(noise: &[f64], lag: usize) -> (f64, f64, f64) {
        let n = noise.len() as f64;
        let mean = noise.iter().sum::<f64>() / n;
        let centred: Vec<f64> = noise.iter().map(|v| v - mean).collect();
        let variance = centred.iter().map(|v| v * v).sum::<f64>() / n;
        let lagged: f64 = centred
            .iter()
            .zip(&centred[lag..])
            .map(|(a, b)| a * b)
            .sum();
        (mean, variance.sqrt(), lagged / n / variance)
    }

    #[test]
    fn standard_deviation_and_correlation_match_the_settings() {
        let (width, height) = (300, 250);
        let noise = |white_hu, correlated_hu| {
            let noise = Noise {
                seed: 5,
                white_hu,
                correlated_hu,
            };
            noise.slice(3, width, height)
        };
        let (mean, sd, lag) = moments(&noise(8.0, 0.0), 1);
        assert!(mean.abs() < 0.15 && (sd - 8.0).abs() < 0.1 && lag.abs() < 0.015);
        // Binomial smoothing correlates neighbours by 56/70.
        for step in [1, width] {
            let (mean, sd, lag) = moments(&noise(0.0, 12.0), step);
            assert!(mean.abs() < 0.6 && (sd - 12.0).abs() < 0.3, "{mean} {sd}");
            assert!((lag - 0.8).abs() < 0.02, "{lag}");
        }
        let (_, sd, _) = moments(&noise(6.0, 8.0), 1);
        assert!((sd - 10.0).abs() < 0.2);
    }
}
