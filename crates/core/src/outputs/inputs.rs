//! Finds the input volumes of a prediction.

pub use super::names::{PredictCase, plan_outputs};

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::patterns::{is_pattern, matching};
use super::sidecar::{Found, find_sidecar};
use crate::dataset::{DatasetImages, Layout};
use ctseg_base::atomic_file::parent_of;
use ctseg_base::text::file::decode;
use ctseg_base::{Error, Result, regular_file};
use ctseg_image::formats::{endings_in_words, file_stem, foreign_files, is_volume_name};

/// The result of [`expand_inputs`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    pub files: Vec<PathBuf>,
    /// One line for each dataset that was found: only its images are inputs.
    pub notes: Vec<String>,
}

/// Expands arguments to files. An argument is a file; a folder, searched recursively; a dataset (a folder of a known
/// layout, or a `.toml` descriptor with paths relative to `data_root`), of which only the images count; a glob
/// pattern, with `**` for any number of folders; or `@list`, a file with one of these per line. Each file is listed
/// once, in order. Folders and patterns skip hidden files and what ctseg wrote: label maps with a sidecar, their
/// masks, probabilities and entropies, and the folder `output`. Names may be any bytes.
///
/// # Errors
/// An argument that matches nothing; a list, folder or dataset that cannot be read.
pub fn expand_inputs(
    arguments: &[OsString],
    output: &Path,
    data_root: Option<&Path>,
) -> Result<Inputs> {
    let mut search = Search {
        output: output.canonicalize().ok(),
        data_root,
        found: Vec::new(),
        datasets: BTreeMap::new(),
    };
    for argument in arguments {
        let before = search.found.len();
        match argument.as_bytes().strip_prefix(b"@") {
            Some(list) => search.add_list(Path::new(OsStr::from_bytes(list)))?,
            None => search.add(argument, Path::new(""))?,
        }
        if search.found.len() == before {
            return Err(nothing(argument));
        }
    }
    let mut seen = HashSet::new();
    let notes = search.notes();
    let mut files = search.found;
    files.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(Inputs { files, notes })
}

fn nothing(argument: &OsStr) -> Error {
    let others = foreign_files(Path::new(argument));
    Error::invalid(format!(
        "{}: no volume found; expected {} files, a folder or pattern of them, a dataset, or @list{}",
        argument.display(),
        endings_in_words(),
        others.map_or_else(String::new, |others| format!("; {others}"))
    ))
}

struct Search<'a> {
    /// The output folder; skipped unless it, or something in it, is given explicitly.
    output: Option<PathBuf>,
    data_root: Option<&'a Path>,
    found: Vec<PathBuf>,
    /// Number of images of each dataset.
    datasets: BTreeMap<PathBuf, (Layout, usize)>,
}

impl Search<'_> {
    /// Empty lines and lines that start with `#` are ignored. Paths are relative to the working folder or, if not
    /// found there, to the list's folder.
    fn add_list(&mut self, list: &Path) -> Result<()> {
        let mut bytes = regular_file::read(list).map_err(Error::io(list, "read the list"))?;
        // UTF-16 is decoded; otherwise names may be any bytes.
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            let text = decode(bytes).map_err(Error::io(list, "read the list"))?;
            bytes = text.into_bytes();
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
            let line = OsStr::from_bytes(line);
            let before = self.found.len();
            let list_folder = parent_of(list);
            if Path::new(line).exists() || !list_folder.join(line).exists() {
                self.add(line, Path::new(""))?;
            }
            if self.found.len() == before {
                self.add(line, list_folder)?;
            }
            if self.found.len() == before {
                return Err(Error::file(list, nothing(line).to_string()));
            }
        }
        Ok(())
    }

    /// Adds a file, folder, descriptor or pattern relative to `from`.
    fn add(&mut self, name: &OsStr, from: &Path) -> Result<()> {
        let path = from.join(name);
        if path.is_dir() {
            return self.add_folder(&path, &mut HashSet::new());
        }
        if path.is_file()
            && path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("toml"))
        {
            let images = DatasetImages::of_descriptor(&path, self.data_root)?;
            return self.add_dataset(&path, images, &mut HashSet::new());
        }
        if path.exists() || !is_pattern(Path::new(name)) {
            self.found.push(path);
            return Ok(());
        }
        for path in matching(from, Path::new(name))? {
            if !is_volume_name(&path) {
                continue;
            }
            if path.is_dir() {
                self.add_folder(&path, &mut HashSet::new())?;
            } else if is_input(&path) {
                self.found.push(path);
            }
        }
        Ok(())
    }

    /// Adds all volumes below a folder, visiting each folder once even if links lead to it again; of a dataset, only
    /// its images.
    fn add_folder(&mut self, folder: &Path, seen: &mut HashSet<PathBuf>) -> Result<()> {
        let real = folder
            .canonicalize()
            .map_err(Error::io(folder, "read the folder"))?;
        let is_argument = seen.is_empty();
        if !seen.insert(real.clone()) || (!is_argument && self.output.as_ref() == Some(&real)) {
            return Ok(());
        }
        if let Some(images) = DatasetImages::of_folder(folder)? {
            return self.add_dataset(folder, images, seen);
        }
        let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .map_err(Error::io(folder, "read the folder"))?;
        paths.sort();
        let hidden = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.as_bytes().starts_with(b".")
        };
        for path in paths.into_iter().filter(|path| !hidden(path)) {
            if path.is_dir() {
                self.add_folder(&path, seen)?;
            } else if is_volume_name(&path) && is_input(&path) {
                self.found.push(path);
            }
        }
        Ok(())
    }

    fn add_dataset(
        &mut self,
        dataset: &Path,
        images: DatasetImages,
        seen: &mut HashSet<PathBuf>,
    ) -> Result<()> {
        let before = self.found.len();
        self.found.extend(images.files);
        for folder in &images.folders {
            self.add_folder(folder, seen)?;
        }
        // Each case of TotalSegmentator's dataset is found as a dataset of its own.
        let name = match images.layout {
            Layout::TotalSegmentator => parent_of(dataset),
            _ => dataset,
        };
        let known = self.datasets.entry(name.to_path_buf());
        known.or_insert((images.layout, 0)).1 += self.found.len() - before;
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let datasets = self.datasets.iter();
        datasets
            .map(|(path, (layout, count))| {
                let images = match count {
                    1 => "1 image".to_owned(),
                    many => format!("{many} images"),
                };
                format!(
                    "{}: dataset ({layout}); segmenting its {images} and skipping its label maps",
                    path.display()
                )
            })
            .collect()
    }
}

/// Whether a volume that was found is an input and not the output of a prediction. A broken link counts, so that it is
/// reported as a failed case.
fn is_input(file: &Path) -> bool {
    (file.is_file() || !file.exists()) && !is_own(file)
}

/// Whether a prediction wrote the file: a label map, its probabilities or entropy, or a mask in the case's folder.
pub(super) fn is_own(file: &Path) -> bool {
    let name = file_stem(file).unwrap_or_default().as_bytes();
    let suffixes: [&[u8]; 2] = [b"_probabilities", b"_entropy"];
    let mut cases = suffixes.iter().filter_map(|end| name.strip_suffix(*end));
    let case = cases.next().unwrap_or(name);
    let has_sidecar = |case: &Path| {
        let mut file = case.as_os_str().to_owned();
        file.push(".nii.gz");
        matches!(
            find_sidecar(Path::new(&file)),
            Ok(Found::Partial(_) | Found::Done(_))
        )
    };
    let folder = parent_of(file);
    has_sidecar(&folder.join(OsStr::from_bytes(case)))
        || (folder.file_name().is_some() && has_sidecar(folder))
}

#[cfg(test)]
mod tests;
