//! Which volumes a prediction's arguments name.

pub use super::names::{PredictCase, plan_outputs};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::sidecar::read_sidecar;
use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, endings_in_words, is_volume_name};

/// The files that arguments stand for: a file; a folder's volumes and those of the folders below it; a pattern,
/// in which `**` is any number of folders; or `@list` with one of these per line. Each file once, however it is
/// reached, in order. Hidden files are left out of folders and patterns, and so is what ctseg wrote: label maps
/// with a sidecar, their masks, probabilities and entropies, and the folder `output`.
///
/// # Errors
/// An argument that stands for nothing, a list or folder that cannot be read.
pub fn expand_inputs(arguments: &[String], output: &Path) -> Result<Vec<PathBuf>> {
    let mut search = Search {
        output: output.canonicalize().ok(),
        found: Vec::new(),
    };
    for argument in arguments {
        let before = search.found.len();
        match argument.strip_prefix('@') {
            Some(list) => search.add_list(Path::new(list))?,
            None => search.add(argument, Path::new(""))?,
        }
        if search.found.len() == before {
            return Err(nothing(argument));
        }
    }
    let mut seen = HashSet::new();
    let mut inputs = search.found;
    inputs.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    Ok(inputs)
}

fn nothing(argument: &str) -> Error {
    Error::invalid(format!(
        "{argument}: no volume found; expected {} files, a folder or pattern of them, or @list",
        endings_in_words()
    ))
}

struct Search {
    /// Nothing below it is an input, unless it or something in it is named.
    output: Option<PathBuf>,
    found: Vec<PathBuf>,
}

impl Search {
    /// Lines that are empty or begin with `#` say nothing. What a line names is looked for from the working folder
    /// and, if it is not there, from the list's folder.
    fn add_list(&mut self, list: &Path) -> Result<()> {
        let text = std::fs::read_to_string(list).map_err(Error::io(list, "read the list"))?;
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
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

    /// A file, folder or pattern relative to `from`.
    fn add(&mut self, name: &str, from: &Path) -> Result<()> {
        let path = from.join(name);
        if path.is_dir() {
            return self.add_folder(&path, &mut HashSet::new());
        }
        if path.exists() || !name.contains(['*', '?', '[']) {
            self.found.push(path);
            return Ok(());
        }
        let options = glob::MatchOptions {
            require_literal_leading_dot: true,
            ..glob::MatchOptions::new()
        };
        // The folder is no pattern, whatever its name holds.
        let from = glob::Pattern::escape(&from.to_string_lossy());
        let pattern = Path::new(&from).join(name);
        let paths = glob::glob_with(&pattern.to_string_lossy(), options)
            .map_err(|error| Error::invalid(format!("{name}: not a file pattern: {error}")))?;
        let paths = paths.filter_map(|path| path.ok());
        self.found
            .extend(paths.filter(|file| file.is_file() && is_volume_name(file) && !is_own(file)));
        Ok(())
    }

    /// All volumes below a folder, each real folder once, however links lead to it.
    fn add_folder(&mut self, folder: &Path, seen: &mut HashSet<PathBuf>) -> Result<()> {
        let real = folder
            .canonicalize()
            .map_err(Error::io(folder, "read the folder"))?;
        let is_named = seen.is_empty();
        if !seen.insert(real.clone()) || (!is_named && self.output.as_ref() == Some(&real)) {
            return Ok(());
        }
        let entries = std::fs::read_dir(folder).map_err(Error::io(folder, "read the folder"))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()
            .map_err(Error::io(folder, "read the folder"))?;
        paths.sort();
        let hidden = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with('.')
        };
        for path in paths.into_iter().filter(|path| !hidden(path)) {
            if path.is_dir() {
                self.add_folder(&path, seen)?;
                continue;
            }
            // A link to nowhere is a case that fails, not one that is forgotten.
            let is_input = path.is_file() || !path.exists();
            if is_input && is_volume_name(&path) && !is_own(&path) {
                self.found.push(path);
            }
        }
        Ok(())
    }
}

/// Whether a prediction wrote the file: a label map, its probabilities or entropy, or a mask in a folder named as the case.
fn is_own(file: &Path) -> bool {
    let name = case_name(file).unwrap_or_default();
    let beside_it = ["_probabilities", "_entropy"];
    let mut cases = beside_it.iter().filter_map(|end| name.strip_suffix(end));
    let case = cases.next().unwrap_or(&name);
    let beside = |case: &Path| {
        let file = format!("{}.nii.gz", case.to_string_lossy());
        read_sidecar(Path::new(&file)).is_some()
    };
    let folder = parent_of(file);
    beside(&folder.join(case)) || (folder.file_name().is_some() && beside(folder))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    /// What is found, relative to the folder that is searched from.
    fn found(folder: &Path, arguments: &[&str]) -> Vec<String> {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.strip_prefix('@') {
                Some(list) => format!("@{}", folder.join(list).display()),
                None => folder.join(argument).display().to_string(),
            })
            .collect();
        let paths = expand_inputs(&arguments, &folder.join("out")).unwrap();
        let relative = |path: PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
        paths.into_iter().map(relative).collect()
    }

    #[test]
    fn folders_are_searched_to_the_bottom_and_links_lead_nowhere_twice() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().canonicalize().unwrap();
        let names = ["b.nii", "a/x.nii.gz", "a/deep/er/y.NII.GZ", "a/note.txt"];
        touch(folder, &names);
        touch(folder, &[".hidden/z.nii", "a/.z.nii", "out/x.nii.gz"]);
        let all = ["a/deep/er/y.NII.GZ", "a/x.nii.gz", "b.nii"];
        assert_eq!(found(folder, &[""]), all);
        // Named, the output folder is an input as any other.
        assert_eq!(found(folder, &["out"]), ["out/x.nii.gz"]);
        assert_eq!(found(folder, &["b.nii", "", "b.nii"])[0], "b.nii");
        assert_eq!(found(folder, &["b.nii", "", "b.nii"]).len(), 3);
        assert_eq!(
            found(folder, &["**/*.nii.gz"]),
            ["a/x.nii.gz", "out/x.nii.gz"]
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            symlink("..", folder.join("a/loop")).unwrap();
            symlink("../b.nii", folder.join("a/again.nii")).unwrap();
            symlink("nowhere", folder.join("a/broken.nii")).unwrap();
            let linked = found(folder, &[""]);
            assert_eq!(linked.len(), 4, "{linked:?}");
            assert!(linked.contains(&"a/broken.nii".to_owned()));
            let matched = found(folder, &["**/*.nii.gz"]);
            assert_eq!(matched.len(), 2, "{matched:?}");
        }
    }

    #[test]
    fn lists_hold_comments_and_paths_from_either_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = &folder.path().canonicalize().unwrap();
        touch(folder, &["lists/x.nii", "lists/more/y.nii", "z.nii"]);
        let list = |text: &str| fs::write(folder.join("lists/cases.txt"), text).unwrap();
        list("\u{feff}# two\r\n\r\nx.nii\r\n  more \r\n../z.nii\n");
        let cases = found(folder, &["@lists/cases.txt"]);
        assert_eq!(cases, ["lists/x.nii", "lists/more/y.nii", "lists/../z.nii"]);
        list("x.*\nmissing.nii\n");
        // A file that is missing is a case that fails, not a list that cannot be used.
        let argument = [format!("@{}", folder.join("lists/cases.txt").display())];
        let paths = expand_inputs(&argument, folder).unwrap();
        assert_eq!(paths[1], Path::new("missing.nii"));
        list("nothing*.nii\n");
        let error = expand_inputs(&argument, folder).unwrap_err().to_string();
        assert!(
            error.contains("nothing*.nii") && error.contains("cases.txt"),
            "{error}"
        );
    }
}
