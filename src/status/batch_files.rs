//! Finds the manifests of batches.

use std::path::{Path, PathBuf};

use ctseg_base::{Error, Result};

/// The batch manifests in this folder.
pub(super) fn manifests(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "read the folder"))?;
        if entry.file_name().to_str().is_some_and(is_manifest) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// `predictions.json`, `predictions-3-of-8.json`, each also with `.batch` if a case has that name.
fn is_manifest(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("predictions") else {
        return false;
    };
    let Some(shard) = rest.strip_suffix(".json") else {
        return false;
    };
    let shard = shard.strip_suffix(".batch").unwrap_or(shard);
    let numbers = shard.strip_prefix('-').and_then(|of| of.split_once("-of-"));
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    shard.is_empty() || numbers.is_some_and(|(number, of)| is_number(number) && is_number(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_recognised_by_name() {
        for name in [
            "predictions.json",
            "predictions-3-of-8.json",
            "predictions.batch.json",
            "predictions-3-of-8.batch.json",
        ] {
            assert!(is_manifest(name), "{name}");
        }
        for name in [
            "predictions.csv",
            "predictions-x.json",
            "predictions-3-of-x.json",
            "case.json",
            "predictions2.json",
        ] {
            assert!(!is_manifest(name), "{name}");
        }
    }
}
