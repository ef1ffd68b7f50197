//! Which volumes a prediction's arguments name.

pub use super::names::{PredictCase, plan_outputs};

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::patterns::{is_pattern, matching};
use super::sidecar::{Found, found_at};
use crate::dataset::{DatasetImages, Layout};
use ctseg_base::atomic_file::parent_of;
use ctseg_base::text::file::decoded;
use ctseg_base::{Error, Result, regular_file};
use ctseg_image::formats::{endings_in_words, file_stem, foreign_files, is_volume_name};

/// What [`expand_inputs`] finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    pub files: Vec<PathBuf>,
    /// Which datasets are among the arguments, a line each: only their images are inputs.
    pub notes: Vec<String>,
}

/// The files that arguments stand for: a file; a folder's volumes and those of the folders below it; the images of a
/// dataset, which is a folder of a known layout or a descriptor (`.toml`, whose paths are relative to `data_root`); a
/// pattern, in which `**` is any number of folders; or `@list` with one of these per line. Each file once, however it is
/// reached, in order. Hidden files are left out of folders and patterns, and so is what ctseg wrote: label maps
/// with a sidecar, their masks, probabilities and entropies, and the folder `output`. Names may be any bytes.
///
/// # Errors
/// An argument that stands for nothing; a list, folder or dataset that cannot be read.
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
    /// Nothing below it is an input, unless it or something in it is named.
    output: Option<PathBuf>,
    data_root: Option<&'a Path>,
    found: Vec<PathBuf>,
    /// How many images each dataset gave.
    datasets: BTreeMap<PathBuf, (Layout, usize)>,
}

impl Search<'_> {
    /// Lines that are empty or begin with `#` say nothing. What a line names is looked for from the working folder
    /// and, if it is not there, from the list's folder.
    fn add_list(&mut self, list: &Path) -> Result<()> {
        let mut bytes = regular_file::read(list).map_err(Error::io(list, "read the list"))?;
        // UTF-16 is text; other names may be any bytes.
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            let text = decoded(bytes).map_err(Error::io(list, "read the list"))?;
            bytes = text.into_bytes();
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
            let line = OsStr::from_bytes(line);
            let before = self.found.len();
            let beside = parent_of(list);
            if Path::new(line).exists() || !beside.join(line).exists() {
                self.add(line, Path::new(""))?;
            }
            if self.found.len() == before {
                self.add(line, beside)?;
            }
            if self.found.len() == before {
                return Err(Error::file(list, nothing(line).to_string()));
            }
        }
        Ok(())
    }

    /// A file, folder, descriptor or pattern relative to `from`.
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

    /// All volumes below a folder, each real folder once, however links lead to it; of a dataset only its images.
    fn add_folder(&mut self, folder: &Path, seen: &mut HashSet<PathBuf>) -> Result<()> {
        let real = folder
            .canonicalize()
            .map_err(Error::io(folder, "read the folder"))?;
        let is_named = seen.is_empty();
        if !seen.insert(real.clone()) || (!is_named && self.output.as_ref() == Some(&real)) {
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
        // The cases of TotalSegmentator's dataset are found one by one.
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
                    "{}: a dataset ({layout}); its {images} are segmented, its label maps are left out",
                    path.display()
                )
            })
            .collect()
    }
}

/// Whether a volume that was found is an input: not what a prediction wrote. A link to nowhere is a case that fails, not
/// one that is forgotten.
fn is_input(file: &Path) -> bool {
    (file.is_file() || !file.exists()) && !is_own(file)
}

/// Whether a prediction wrote the file: a label map, its probabilities or entropy, or a mask in a folder named as the case.
pub(super) fn is_own(file: &Path) -> bool {
    let name = file_stem(file).unwrap_or_default().as_bytes();
    let beside_it: [&[u8]; 2] = [b"_probabilities", b"_entropy"];
    let mut cases = beside_it.iter().filter_map(|end| name.strip_suffix(*end));
    let case = cases.next().unwrap_or(name);
    let beside = |case: &Path| {
        let mut file = case.as_os_str().to_owned();
        file.push(".nii.gz");
        matches!(
            found_at(Path::new(&file)),
            Ok(Found::Begun(_) | Found::Done(_))
        )
    };
    let folder = parent_of(file);
    beside(&folder.join(OsStr::from_bytes(case)))
        || (folder.file_name().is_some() && beside(folder))
}

#[cfg(test)]
mod tests;
