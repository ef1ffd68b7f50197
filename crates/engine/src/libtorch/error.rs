//! The kinds of libtorch's errors.

use ctseg_base::Error;

/// An error from the text of a C++ exception. This is the only place that judges an error by libtorch's words.
pub(super) fn libtorch_error(text: &str) -> Error {
    const OUT_OF_MEMORY: [&str; 6] = [
        "out of memory",
        "can't allocate memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "unable to find an engine",
        "Unable to find a valid cuDNN algorithm",
    ];
    // libtorch appends a C++ stack trace.
    let message = text.lines().next().unwrap_or(text);
    let problem = format!("libtorch: {message}");
    if OUT_OF_MEMORY.iter().any(|sign| message.contains(sign)) {
        Error::out_of_memory(problem)
    } else if message.contains("no kernel image") {
        Error::unsupported(problem) // by this build of libtorch on this GPU
    } else {
        Error::invalid(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_libtorch_becomes_a_kind() {
        let of =
            |text: &str| libtorch_error(&format!("{text}\nException raised from main at a.cpp:1"));
        let memory = of("CUDA out of memory. Tried to allocate 2.00 GiB");
        assert!(matches!(memory, Error::OutOfMemory(_)), "{memory:?}");
        let kernel = of("CUDA error: no kernel image is available for execution on the device");
        assert!(matches!(kernel, Error::Unsupported(_)), "{kernel:?}");
        let other = of("expected 4 channels, found 1");
        assert!(matches!(other, Error::Invalid(_)), "{other:?}");
        assert_eq!(other.to_string(), "libtorch: expected 4 channels, found 1");
    }
}
