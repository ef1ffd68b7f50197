//! SHA-256 of files.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result, regular_file};

/// SHA-256 of a file, in hex.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = regular_file::open(path).map_err(Error::io(path, "read"))?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(Error::io(path, "read"))?;
    Ok(format!("{:x}", hasher.finalize()))
}
