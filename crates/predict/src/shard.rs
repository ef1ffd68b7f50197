//! Shards: independent processes each take a fixed part of a batch.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use ctseg_base::text::os_text::to_text;
use ctseg_base::{Error, Result};
use ctseg_core::outputs::inputs::PredictCase;

/// One of `count` shards, counted from 1: `--shard 3/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    count: u64,
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once('/')
            .and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err(Error::usage(format!(
                "'{text}' is not a shard; expected 1/8 to 8/8 for 8 shards (Slurm: --array=1-8 and --shard $SLURM_ARRAY_TASK_ID/8)"
            ))),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl Shard {
    /// Whether a case of a batch with output folder `folder` is in this shard. This depends only on the case's name
    /// ([`output_name`]), not on the other cases or their order: the first 8 bytes of its SHA-256, big-endian, modulo
    /// the number of shards, plus 1.
    pub fn holds(&self, folder: &Path, case: &PredictCase) -> bool {
        let hash = Sha256::digest(output_name(folder, case));
        let first = hash.iter().take(8);
        let number = first.fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        number % self.count + 1 == self.number
    }

    /// For file names: `3-of-8`.
    pub fn suffix(&self) -> String {
        format!("{}-of-{}", self.number, self.count)
    }
}

/// The label map's path below `folder`, with `/` between folders.
pub fn output_name(folder: &Path, case: &PredictCase) -> String {
    let below = case.output.strip_prefix(folder).unwrap_or(&case.output);
    let parts = below.iter().map(to_text);
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> PredictCase {
        PredictCase::new(Path::new("in").join(name), Path::new("out").join(name))
    }

    #[test]
    fn every_case_is_in_exactly_one_shard() {
        let cases: Vec<PredictCase> = (0..400).map(|i| case(&format!("{i}.nii"))).collect();
        let mut sizes = Vec::new();
        for number in 1..=8 {
            let shard: Shard = format!("{number}/8").parse().unwrap();
            let held = cases
                .iter()
                .filter(|case| shard.holds(Path::new("out"), case));
            sizes.push(held.count());
        }
        assert_eq!(sizes.iter().sum::<usize>(), cases.len());
        assert!(
            sizes.iter().all(|size| (25..=80).contains(size)),
            "{sizes:?}"
        );
    }

    #[test]
    fn the_shard_of_a_case_is_as_documented() {
        // python3 -c "import hashlib; h = hashlib.sha256(b'a/case_1.nii.gz').digest();
        //             print(int.from_bytes(h[:8], 'big') % 8 + 1)"
        let number: usize = 5;
        let shard: Shard = format!("{number}/8").parse().unwrap();
        assert!(shard.holds(Path::new("out"), &case("a/case_1.nii.gz")));
        assert_eq!(
            (shard.to_string(), shard.suffix()),
            (format!("{number}/8"), format!("{number}-of-8"))
        );
    }

    #[test]
    fn invalid_shards_are_refused() {
        for wrong in ["", "3", "0/8", "9/8", "0/0", "1/0", "-1/8", "a/b", "1/8/2"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
