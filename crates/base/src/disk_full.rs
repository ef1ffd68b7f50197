//! Whether an error says that the disk is full.

use crate::Error;

/// Whether a file system has no room left, which every further case would meet too.
pub fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let Error::Io { cause, .. } = error else {
        return false;
    };
    matches!(
        cause.kind(),
        QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}
