//! The random numbers of a case.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Both seeds go into the key, so that set 0 case 1 is not set 1 case 0.
pub(super) fn case_rng(case_seed: u64, set_seed: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&case_seed.to_le_bytes());
    key[8..16].copy_from_slice(&set_seed.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}
