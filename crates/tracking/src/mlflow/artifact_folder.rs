//! Folders of this machine that an MLflow server names for files: a server may choose only below the folder that the
//! user names, or it could overwrite any file of the user's.

use std::path::{Path, PathBuf};

use super::error::Fault;
use ctseg_base::atomic_file::parent_of;

/// A folder of this machine that the server chose, below one that the user chose.
pub struct Folder {
    path: PathBuf,
    /// Without symbolic links and `..`.
    root: PathBuf,
}

impl Folder {
    /// The folder at `path`, which the server names; `root` is the one that the user gave.
    ///
    /// # Errors
    /// [`Fault::Place`] where it does not lie below `root`, or none was given.
    pub(super) fn open(path: &Path, root: Option<&Path>) -> Result<Self, Fault> {
        let held = |why: String| {
            Fault::Place(format!(
                "the server stores files in '{}', {why}, or start the server with --serve-artifacts; 'ctseg sync' \
                 then sends the files",
                path.display()
            ))
        };
        let Some(root) = root else {
            let why =
                "a local folder; allow that with --mlflow-artifact-root DIR, a folder above it";
            return Err(held(why.to_owned()));
        };
        let real = root.canonicalize().map_err(|_| {
            let root = root.display();
            held(format!(
                "and --mlflow-artifact-root {root} does not exist; mount or create it"
            ))
        })?;
        let folder = Self {
            path: path.to_path_buf(),
            root: real,
        };
        folder.place("MLmodel").map_err(|_| {
            let root = root.display();
            held(format!(
                "which is not below --mlflow-artifact-root {root}; pass a folder above it"
            ))
        })?;
        Ok(folder)
    }

    /// Where the file `to` goes, without symbolic links and `..`.
    ///
    /// # Errors
    /// [`Fault::Place`] where that is not below the root.
    pub(super) fn place(&self, to: &str) -> Result<PathBuf, Fault> {
        let path = self.path.join(to);
        let place = path.file_name().and_then(|name| {
            let folder = resolved(parent_of(&path)).ok()?;
            folder.starts_with(&self.root).then(|| folder.join(name))
        });
        place.ok_or_else(|| {
            Fault::Place(format!(
                "{} leads out of --mlflow-artifact-root {}",
                path.display(),
                self.root.display()
            ))
        })
    }
}

/// `folder` without symbolic links and `..`, also where its last parts are not there yet.
fn resolved(folder: &Path) -> std::io::Result<PathBuf> {
    let mut there = std::path::absolute(folder)?;
    let mut missing = Vec::new();
    loop {
        match (there.canonicalize(), there.file_name()) {
            (Ok(real), _) => {
                return Ok(missing
                    .iter()
                    .rev()
                    .fold(real, |path, name| path.join(name)));
            }
            // Of `..` below what is not there, and of a link to it, nobody knows where it leads.
            (Err(error), Some(name))
                if error.kind() == std::io::ErrorKind::NotFound
                    && there.symlink_metadata().is_err() =>
            {
                missing.push(name.to_owned());
                there.pop();
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
    fn folders_stay_below_the_one_that_the_user_named() {
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
            let place = folder.unwrap().place("plots/a.png").unwrap_or_default();
            assert!(place.starts_with(root.canonicalize().unwrap()), "{place:?}");
            assert!(place.ends_with("plots/a.png"), "{place:?}");
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
            assert!(folder.place(to).is_err(), "{to}");
        }
        let nowhere = Folder::open(&root, None).err().unwrap().to_string();
        assert!(nowhere.contains("--mlflow-artifact-root"), "{nowhere}");
    }
}
