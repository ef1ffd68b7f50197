//! Durations on the command line.

use std::time::Duration;

use ctseg_base::{Error, Result};

/// Parses `20m`, `1h30m`, `90s`.
///
/// # Errors
/// The text is not a duration, or the duration is zero.
pub fn parse_duration(text: &str) -> Result<Duration> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            Error::invalid(format!(
                "'{text}' is not a duration; expected one such as 90s, 20m or 1h30m"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(parse_duration("12m").unwrap(), Duration::from_secs(720));
        assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(parse_duration("90s").unwrap(), Duration::from_secs(90));
        for wrong in ["", "12", "-3m", "soon", "0s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
