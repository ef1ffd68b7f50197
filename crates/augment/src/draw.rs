//! Random decisions: whether a change happens, and its strength.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// With `probability`, a uniform random number from the range.
pub(super) fn drawn(probability: f64, [low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> Option<f64> {
    (rng.random::<f64>() < probability).then(|| low + (high - low) * rng.random::<f64>())
}
