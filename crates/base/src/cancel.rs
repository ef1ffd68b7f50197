//! Panics as errors, and cancellation.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// Runs `work` and returns a panic in it, such as from an engine, as [`Error::Panic`].
pub fn catch_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Panic(panic_message(panic.as_ref()))))
}

/// The first line of a panic's message.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown cause");
    text.lines().next().unwrap_or_default().to_owned()
}

/// Returns [`Error::Interrupted`] once `stop` is set; `state` describes what was interrupted.
pub fn check_stop(stop: &AtomicBool, state: impl FnOnce() -> String) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted(state()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_one_line() {
        let error = catch_panic::<()>(|| panic!("no such layer\nat somewhere")).unwrap_err();
        assert!(matches!(error, Error::Panic(_)), "{error:?}");
        assert_eq!(error.to_string(), "the engine failed: no such layer");
        assert_eq!(catch_panic(|| Ok(3)).unwrap(), 3);
    }
}
