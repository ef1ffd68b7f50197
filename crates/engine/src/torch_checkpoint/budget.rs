//! Memory budget for the values of one file.

use std::cell::Cell;

/// Base allowance of any file, for settings next to the weights.
const FREE_BYTES: u64 = 16 << 20;

/// The remaining budget. A pickle may refer to a value repeatedly, so its expansion can be arbitrarily larger than
/// the file: every value is charged before it is created.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
    file_bytes: u64,
}

impl Budget {
    /// For a file of `file_bytes` bytes.
    pub fn of_file(file_bytes: u64) -> Self {
        Self {
            left: Cell::new(file_bytes.saturating_add(FREE_BYTES)),
            file_bytes,
        }
    }

    /// Deducts `bytes`.
    ///
    /// # Errors
    /// The budget is exhausted.
    pub fn charge(&self, bytes: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(bytes as u64);
        self.left.set(left.unwrap_or(0));
        match left {
            Some(_) => Ok(()),
            None => Err(format!(
                "its values exceed what a file of {} bytes can hold",
                self.file_bytes
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_budget_stays_exhausted() {
        let budget = Budget::of_file(100);
        budget.charge(FREE_BYTES as usize).unwrap();
        budget.charge(60).unwrap();
        let error = budget.charge(41).unwrap_err();
        assert!(error.contains("a file of 100 bytes"), "{error}");
        assert!(budget.charge(1).is_err());
    }
}
