//! Names that somebody may have meant.

use super::words::SHOWN;

/// Those of `known` that are nearest to `name`, at most `most` of them, nearest first: fewest letters to change, leave
/// out or put in; names that hold it whole, or whose words it holds, come before.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name);
    let mut rated: Vec<(usize, &str)> = known
        .map(|other| {
            let plain = plain(other);
            let held = !wanted.is_empty() && plain.contains(&wanted);
            let words = wanted.split('_').filter(|word| word.len() > 2);
            let shared = words.filter(|word| plain.contains(word)).count();
            let distance = 2 * changes(&wanted, &plain);
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
        .take(most)
        .map(|(_, other)| other)
        .collect()
}

/// For an error about `name`: all of `known` where they are few, else the nearest, and how many there are.
pub fn expected(name: &str, known: &[&str]) -> String {
    match known.len() {
        0..=SHOWN => known.join(", "),
        all => format!(
            "{} (the nearest of {all})",
            nearest(name, known.iter().copied(), SHOWN).join(", ")
        ),
    }
}

/// Levenshtein's distance.
fn changes(one: &str, other: &str) -> usize {
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
    fn distances_are_those_counted_by_hand() {
        for (one, other, expected) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("liver", "liver", 0),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(changes(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn of_many_names_the_nearest_are_expected() {
        let known: Vec<String> = (0..20).map(|index| format!("rib_{index}")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let said = expected("rib_71", &known);
        assert!(
            said.ends_with("(the nearest of 20)") && said.contains("rib_7,"),
            "{said}"
        );
        assert_eq!(said.matches("rib_").count(), 8);
        assert_eq!(expected("livr", &["liver", "spleen"]), "liver, spleen");
    }

    #[test]
    fn what_was_meant_comes_first() {
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
