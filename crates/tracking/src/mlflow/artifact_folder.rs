//! Local artifact folders. The server chooses the folder, but only below the root that the user allows: otherwise it
//! could overwrite any of the user's files.

use std::path::{Path, PathBuf};

use super::error::Fault;
use ctseg_base::atomic_file::parent_of;

/// A local artifact folder below the allowed root.
pub struct Folder {
    path: PathBuf,
    /// Canonical.
    root: PathBuf,
}

impl Folder {
    /// Opens the folder `path` that the server named; `root` is the folder that the user allowed.
    ///
    /// # Errors
    /// [`Fault::LocationDenied`] if `path` is not below `root`, or without a root.
    pub(super) fn open(path: &Path, root: Option<&Path>) -> Result<Self, Fault> {
        let denied = |why: String| {
            Fault::LocationDenied(format!(
                "the server stores artifacts in the local folder '{}'; {why}, or start the server with \
                 --serve-artifacts; then run 'ctseg sync'",
                path.display()
            ))
        };
        let Some(root) = root else {
            let why = "allow this with --mlflow-artifact-root DIR, a folder above it";
            return Err(denied(why.to_owned()));
        };
        let real = root.canonicalize().map_err(|_| {
            let root = root.display();
            denied(format!(
                "--mlflow-artifact-root {root} does not exist: mount or create it"
            ))
        })?;
        let folder = Self {
            path: path.to_path_buf(),
            root: real,
        };
        folder.path_of("MLmodel").map_err(|_| {
            let root = root.display();
            denied(format!(
                "it is not below --mlflow-artifact-root {root}: pass a folder above it"
            ))
        })?;
        Ok(folder)
    }

    /// The canonical path of the file `to`.
    ///
    /// # Errors
    /// [`Fault::LocationDenied`] if it is not below the root.
    pub(super) fn path_of(&self, to: &str) -> Result<PathBuf, Fault> {
        let path = self.path.join(to);
        let path_of = path.file_name().and_then(|name| {
            let folder = canonical(parent_of(&path)).ok()?;
            folder.starts_with(&self.root).then(|| folder.join(name))
        });
        path_of.ok_or_else(|| {
            Fault::LocationDenied(format!(
                "{} is outside --mlflow-artifact-root {}",
                path.display(),
                self.root.display()
            ))
        })
    }
}

/// The canonical path of `folder`; its last parts need not exist.
fn canonical(folder: &Path) -> std::io::Result<PathBuf> {
    let mut existing = std::path::absolute(folder)?;
    let mut missing = Vec::new();
    loop {
        match (existing.canonicalize(), existing.file_name()) {
            (Ok(real), _) => {
                return Ok(missing
                    .iter()
                    .rev()
                    .fold(real, |path, name| path.join(name)));
            }
            // `..` below a missing folder, and a dangling link, have no canonical path.
            (Err(error), Some(name))
                if error.kind() == std::io::ErrorKind::NotFound
                    && existing.symlink_metadata().is_err() =>
            {
                missing.push(name.to_owned());
                existing.pop();
            }
            (Err(error), _) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_stay_below_the_root() {
        let own = tempfile::tempdir().unwrap();
        let root = own.path().join("root");
        fs::create_dir_all(root.join("1")).unwrap();
        fs::create_dir(own.path().join("home")).unwrap();
        std::os::unix::fs::symlink(own.path().join("home"), root.join("out")).unwrap();
        std::os::unix::fs::symlink(&root, own.path().join("link")).unwrap();
        std::os::unix::fs::symlink(own.path().join("gone"), root.join("dangling")).unwrap();
        let open = |path: PathBuf| Folder::open(&path, Some(&own.path().join("link")));
        for path in [
            "root/1/r1/artifacts",
            "link/1/r1/artifacts",
            "home/../root/2",
        ] {
            let folder = open(own.path().join(path)).map_err(|fault| fault.to_string());
            let found = folder.unwrap().path_of("plots/a.png").unwrap_or_default();
            assert!(found.starts_with(root.canonicalize().unwrap()), "{found:?}");
            assert!(found.ends_with("plots/a.png"), "{found:?}");
        }
        for path in [
            "home/1",
            "root/../home",
            "root/out/1",
            "root/new/../../home",
            "root/dangling/1",
            "rooted",
        ] {
            let refused = open(own.path().join(path))
                .err()
                .map(|fault| fault.to_string());
            assert!(
                refused.is_some_and(|why| why.contains("is not below")),
                "{path}"
            );
        }
        let folder = open(root.join("1")).ok().unwrap();
        for to in ["../../home/a", "/etc/a", "plots/../../out/a", ".."] {
            assert!(folder.path_of(to).is_err(), "{to}");
        }
        let denied = Folder::open(&root, None).err().unwrap().to_string();
        assert!(denied.contains("--mlflow-artifact-root"), "{denied}");
    }
}
