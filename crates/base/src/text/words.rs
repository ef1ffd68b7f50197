//! Counts with their nouns, and lists of names that stay readable however long they are.

use std::fmt::Display;

use super::printable::one_line;

/// `1 case`, `2 cases`; the last word of `noun` is made plural.
pub fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = match noun {
        _ if count == "1" => "",
        noun if noun.ends_with("epoch") => "s",
        noun if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

/// Longest list of names in a message.
pub const MAX_LISTED: usize = 8;

/// The first [`MAX_LISTED`] of `words`, with control characters escaped, and the number left out.
pub fn listed<S: AsRef<str>>(words: &[S]) -> String {
    let shown = words.iter().take(MAX_LISTED);
    let shown: Vec<_> = shown.map(|word| one_line(word.as_ref())).collect();
    let shown = shown.join(", ");
    match words.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_follow_their_counts() {
        for (count, noun, expected) in [
            (0, "case", "0 cases"),
            (1, "case", "1 case"),
            (2, "training case", "2 training cases"),
            (1, "process", "1 process"),
            (3, "process", "3 processes"),
            (2, "patch", "2 patches"),
            (2, "epoch", "2 epochs"),
        ] {
            assert_eq!(counted(count, noun), expected);
        }
    }

    #[test]
    fn long_lists_end_with_the_number_left_out() {
        let words: Vec<String> = (1..=MAX_LISTED + 2).map(|word| word.to_string()).collect();
        assert_eq!(listed(&words), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        assert_eq!(listed(&words[..2]), "1, 2");
        assert_eq!(listed::<&str>(&[]), "");
    }
}
