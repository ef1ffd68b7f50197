//! Counts with their nouns, and lists of names that stay readable however long they are.

use std::fmt::Display;

use super::printable::one_line;

/// `1 case`, `2 cases`; of several words the last is the noun.
pub fn counted(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let ending = match noun {
        _ if count == "1" => "",
        noun if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => "es",
        _ => "s",
    };
    format!("{count} {noun}{ending}")
}

/// More names than these make a line that nobody reads.
pub const SHOWN: usize = 8;

/// The first [`SHOWN`] of `words`, their control characters escaped, and how many more there are.
pub fn listed<S: AsRef<str>>(words: &[S]) -> String {
    let shown = words.iter().take(SHOWN);
    let shown: Vec<_> = shown.map(|word| one_line(word.as_ref())).collect();
    let shown = shown.join(", ");
    match words.len().saturating_sub(SHOWN) {
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
        ] {
            assert_eq!(counted(count, noun), expected);
        }
    }

    #[test]
    fn long_lists_say_how_much_is_left_out() {
        let words: Vec<String> = (1..=SHOWN + 2).map(|word| word.to_string()).collect();
        assert_eq!(listed(&words), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        assert_eq!(listed(&words[..2]), "1, 2");
        assert_eq!(listed::<&str>(&[]), "");
    }
}
