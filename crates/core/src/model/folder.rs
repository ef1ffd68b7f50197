//! The checksums of a model's folder.

use std::collections::BTreeMap;
use std::path::Path;

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::hash::file_sha256;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result, pointer_file};

/// The file of checksums, in the format of `sha256sum`.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// The SHA-256 of each file as listed in `folder`, not verified.
///
/// # Errors
/// No checksums, or damaged ones.
pub(super) fn read_sums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let sums_path = folder.join(SUMS);
    let text = read_text(&sums_path).map_err(Error::io(&sums_path, "read"))?;
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let (sum, name) = line
            .split_once("  ")
            .filter(|(sum, name)| sum.len() == 64 && !name.contains(['/', '\\']))
            .ok_or_else(|| {
                Error::file(
                    &sums_path,
                    format!("'{line}' is not in the format of sha256sum; the model is damaged"),
                )
            })?;
        sums.insert(name.to_owned(), sum.to_owned());
    }
    Ok(sums)
}

/// [`read_sums`], verified against the files.
///
/// # Errors
/// A file that is missing or changed.
pub(crate) fn verified_sums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let sums = read_sums(folder)?;
    for (name, sum) in &sums {
        let path = folder.join(name);
        let found = file_sha256(&path)?;
        if found != *sum {
            let damaged = || {
                format!(
                    "damaged: its SHA-256 is {found}, expected {sum}; copy or train the model again"
                )
            };
            let problem = pointer_file::problem(&path).unwrap_or_else(damaged);
            return Err(Error::file(path, problem));
        }
    }
    Ok(sums)
}

/// Writes the checksums of all files in `folder`.
pub(crate) fn write_sums(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != SUMS)
        .collect();
    names.sort();
    let mut lines = String::new();
    for name in names {
        lines += &format!("{}  {name}\n", file_sha256(&folder.join(&name))?);
    }
    write_bytes_atomically(&folder.join(SUMS), lines.as_bytes())
}
