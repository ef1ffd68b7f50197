//! Keeping one failure from becoming everybody's: panics as errors, and being asked to stop.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// Runs `work` and turns a panic inside it (an engine out of memory, say) into an error.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let cause = panic_in_words(panic.as_ref());
        Err(Error::invalid(format!("the engine gave up: {cause}")))
    })
}

/// What a panic said, on one line.
pub fn panic_in_words(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown cause");
    text.lines().next().unwrap_or_default().to_owned()
}

/// An error as soon as somebody has asked to stop; `how` says how things stand then.
pub fn unless_stopped(stop: &AtomicBool, how: impl FnOnce() -> String) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted(how()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_one_line() {
        let error = guarded::<()>(|| panic!("out of memory\nat somewhere"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("out of memory") && !error.contains('\n'),
            "{error}"
        );
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }
}
