//! Whether a change happens, and how much of it.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A number of the range, with the probability given.
pub(super) fn drawn(probability: f64, [low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> Option<f64> {
    (rng.random::<f64>() < probability).then(|| low + (high - low) * rng.random::<f64>())
}
