//! Detects a full disk.

use crate::Error;

/// Whether the file system is full or read-only, which every further case would hit too.
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
