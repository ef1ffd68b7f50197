//! Environment variables of the command line.

use std::path::{Path, PathBuf};

/// Environment variable of `--gpus`.
pub(super) const GPUS: &str = "CTSEG_GPUS";

/// nnU-Net's folder of preprocessed cases and folds, from its own variable.
pub(super) fn nnunet_preprocessed() -> Option<PathBuf> {
    std::env::var_os("nnUNet_preprocessed").map(PathBuf::from)
}

/// Placeholder for the folder in the environment variable TMPDIR.
pub(super) const TMPDIR: &str = "$TMPDIR";

/// Whether a folder is the placeholder [`TMPDIR`].
pub(super) fn is_variable(folder: &Path) -> bool {
    folder == Path::new(TMPDIR)
}

/// Folder of the file store through which processes without MPI find each other.
pub(super) const FILE_STORE: &str = "CTSEG_RENDEZVOUS";
