//! Suggestions for mistyped names.

use super::words::MAX_LISTED;

/// The names of `known` closest to `name`, at most `max`, closest first by edit distance. Names that contain it, or
/// share words with it, rank higher.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, max: usize) -> Vec<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name);
    let mut rated: Vec<(usize, &str)> = known
        .map(|other| {
            let plain = plain(other);
            let held = !wanted.is_empty() && plain.contains(&wanted);
            let words = wanted.split('_').filter(|word| word.len() > 2);
            let shared = words.filter(|word| plain.contains(word)).count();
            let distance = 2 * levenshtein(&wanted, &plain);
            let rating = match held {
                true => 0,
                false => (distance + 1).saturating_sub(3 * shared).max(1),
            };
            (rating, other)
        })
        .collect();
    rated.sort_by_key(|(rating, _)| *rating);
    rated
        .into_iter()
        .take(max)
        .map(|(_, other)| other)
        .collect()
}

/// For an error about `name`: all of `known` if they are few, otherwise the nearest and the total number.
pub fn expected(name: &str, known: &[&str]) -> String {
    match known.len() {
        0..=MAX_LISTED => known.join(", "),
        all => format!(
            "{} (the nearest of {all})",
            nearest(name, known.iter().copied(), MAX_LISTED).join(", ")
        ),
    }
}

fn levenshtein(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (place, found) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *found);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_match_hand_counts() {
        for (one, other, expected) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("liver", "liver", 0),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(levenshtein(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn of_many_names_the_nearest_are_expected() {
        let known: Vec<String> = (0..20).map(|index| format!("rib_{index}")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let message = expected("rib_71", &known);
        assert!(
            message.ends_with("(the nearest of 20)") && message.contains("rib_7,"),
            "{message}"
        );
        assert_eq!(message.matches("rib_").count(), 8);
        assert_eq!(expected("livr", &["liver", "spleen"]), "liver, spleen");
    }

    #[test]
    fn the_intended_name_comes_first() {
        let known = [
            "spleen",
            "kidney_right",
            "kidney_left",
            "lung_upper_lobe_left",
            "urinary_bladder",
            "vertebrae_L1",
        ];
        let first = |name| nearest(name, known.into_iter(), 1)[0];
        assert_eq!(first("spleeen"), "spleen");
        assert_eq!(first("left kidney"), "kidney_left");
        assert_eq!(first("bladder"), "urinary_bladder");
        assert_eq!(first("vertebra_L1"), "vertebrae_L1");
        let two = nearest("kidney", known.into_iter(), 2);
        assert_eq!(two, ["kidney_right", "kidney_left"]);
    }
}
