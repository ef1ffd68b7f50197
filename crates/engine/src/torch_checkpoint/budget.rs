//! How much memory the values of one file may take.

use std::cell::Cell;

/// Any file may take this much; settings without weights beside them are small.
const FREE_BYTES: u64 = 16 << 20;

/// What is left of it. A pickle may name a value again and again, so that what is made of it can be any number of times
/// larger than the file: every value is charged before it is made.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
    file_bytes: u64,
}

impl Budget {
    /// For a file of so many bytes.
    pub fn of_file(file_bytes: u64) -> Self {
        Self {
            left: Cell::new(file_bytes.saturating_add(FREE_BYTES)),
            file_bytes,
        }
    }

    /// Takes `bytes` of it.
    ///
    /// # Errors
    /// That much is not left.
    pub fn charge(&self, bytes: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(bytes as u64);
        self.left.set(left.unwrap_or(0));
        match left {
            Some(_) => Ok(()),
            None => Err(format!(
                "its values come to more than a file of {} bytes can hold",
                self.file_bytes
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_once_leaves_nothing() {
        let budget = Budget::of_file(100);
        budget.charge(FREE_BYTES as usize).unwrap();
        budget.charge(60).unwrap();
        let error = budget.charge(41).unwrap_err();
        assert!(error.contains("a file of 100 bytes"), "{error}");
        assert!(budget.charge(1).is_err());
    }
}
