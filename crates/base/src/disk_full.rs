//! Whether an error says that the disk is full.

use crate::Error;

/// Whether a file system has no room left, which every further case would meet too.
pub fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}
