//! Environment variables of the command line.

use std::path::{Path, PathBuf};

/// The environment's variable for `--gpus`.
pub(super) const GPUS: &str = "CTSEG_GPUS";

/// Where nnU-Net keeps preprocessed cases and the folds of a dataset, by its own variable.
pub(super) fn nnunet_preprocessed() -> Option<PathBuf> {
    std::env::var_os("nnUNet_preprocessed").map(PathBuf::from)
}

/// Stands for the folder of that variable.
pub(super) const TMPDIR: &str = "$TMPDIR";

/// Whether a folder stands for another that only the environment knows.
pub(super) fn is_variable(folder: &Path) -> bool {
    folder == Path::new(TMPDIR)
}

/// The folder that processes without MPI meet in.
pub(super) const RENDEZVOUS: &str = "CTSEG_RENDEZVOUS";
