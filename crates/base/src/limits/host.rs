//! Access to `/proc`, `/sys`, `/dev` and the environment, which tests and `doctor --machine` can replace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A machine's `/proc`, `/sys` and `/dev`, and a process's environment.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    /// Replaces the environment of this process.
    variables: Option<BTreeMap<String, String>>,
}

impl Host {
    /// This machine and process.
    pub fn local() -> Self {
        Self::with_root(Path::new("/"))
    }

    /// The machine whose files are below `root`, with this process's environment.
    pub fn with_root(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            variables: None,
        }
    }

    /// Replaces the environment.
    pub fn with_variables(self, variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            variables: Some(variables.iter().map(owned).collect()),
            ..self
        }
    }

    /// The real path of one such as `/proc/meminfo`.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// The folder that represents `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `path` as seen on that machine.
    pub fn shown(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => path.to_path_buf(),
        }
    }

    /// The text of a kernel file; `None` if it cannot be read.
    pub fn read(&self, absolute: &str) -> Option<String> {
        let bytes = fs::read(self.path(absolute)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The names in a folder, sorted; empty if it cannot be read.
    pub fn names(&self, absolute: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(absolute)) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// An environment variable; `None` if empty.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variable_as_set(name).filter(|value| !value.is_empty())
    }

    /// An environment variable, which may be empty.
    pub fn variable_as_set(&self, name: &str) -> Option<String> {
        match &self.variables {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()),
        }
    }

    /// The names of all environment variables, sorted.
    pub fn variable_names(&self) -> Vec<String> {
        match &self.variables {
            Some(variables) => variables.keys().cloned().collect(),
            None => {
                let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
                let mut names: Vec<String> = names.collect();
                names.sort();
                names
            }
        }
    }
}

/// A machine with these files and an empty environment. The files exist as long as the folder.
#[cfg(test)]
pub fn fake_host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let host = Host::with_root(root.path()).with_variables(&[]);
    (root, host)
}
