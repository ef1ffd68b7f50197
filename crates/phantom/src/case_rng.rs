//! Random number generator of a case.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Both seeds are part of the key, so that case 1 of set 0 differs from case 0 of set 1.
pub(super) fn case_rng(case_seed: u64, set_seed: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&case_seed.to_le_bytes());
    key[8..16].copy_from_slice(&set_seed.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
