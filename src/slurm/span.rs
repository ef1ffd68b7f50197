//! Durations in the format of Slurm.

use std::time::Duration;

/// A duration, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    Of(Duration),
    Unlimited,
}

impl Span {
    /// Parses `days-hours:minutes:seconds` with optional days and hours; `None` for anything else, such as `NOT_SET`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if ["unlimited", "infinite"].contains(&text.to_ascii_lowercase().as_str()) {
            return Some(Self::Unlimited);
        }
        let (days, rest) = match text.split_once('-') {
            Some((days, rest)) => (days.parse::<u64>().ok()?, rest),
            None => (0, text),
        };
        let parts: Option<Vec<u64>> = rest.split(':').map(|part| part.parse().ok()).collect();
        let parts = parts.filter(|parts| (2..=3).contains(&parts.len()))?;
        let of_day = parts
            .iter()
            .try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(*part))?;
        let seconds = days.checked_mul(86_400)?.checked_add(of_day)?;
        Some(Self::Of(Duration::from_secs(seconds)))
    }
}

/// The format of sbatch, rounded up to whole seconds: `1-02:03:04`.
pub fn written(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let clock = format!(
        "{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    match days {
        0 => clock,
        days => format!("{days}-{clock}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_durations_are_parsed_and_written() {
        for (text, seconds) in [
            ("0:00", 0),
            ("3:00", 180),
            ("59:07\n", 3547),
            ("1:00:00", 3600),
            ("2-00:00:05", 172_805),
        ] {
            let expected = Span::Of(Duration::from_secs(seconds));
            assert_eq!(Span::parse(text), Some(expected), "{text}");
        }
        assert_eq!(Span::parse("infinite"), Some(Span::Unlimited));
        assert_eq!(Span::parse("UNLIMITED"), Some(Span::Unlimited));
        for none in ["", "NOT_SET", "INVALID", "5", "1:2:3:4", "-1:00", "a-1:00"] {
            assert_eq!(Span::parse(none), None, "{none}");
        }
        assert_eq!(Span::parse("99999999999999999-00:00:00"), None);
        assert_eq!(written(Duration::from_secs(93_784)), "1-02:03:04");
        assert_eq!(written(Duration::from_millis(1_500)), "00:00:02");
    }
}
