//! CSV cells that spreadsheets do not mistake for formulas.

/// Characters that start a formula in spreadsheets.
const FORMULA_STARTS: [char; 5] = ['=', '+', '-', '@', '\t'];

/// A text as a CSV cell. One that starts like a formula gets an apostrophe in front, which marks text in spreadsheets.
/// Not for numbers.
pub fn to_cell(text: &str) -> String {
    match starts_like_a_formula(text) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

/// Reverses [`to_cell`].
pub fn from_cell(cell: &str) -> &str {
    let text = cell.strip_prefix('\'');
    text.filter(|text| starts_like_a_formula(text))
        .unwrap_or(cell)
}

/// Ignores leading apostrophes, so that different texts stay different.
fn starts_like_a_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(FORMULA_STARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_round_trip_and_no_cell_starts_like_a_formula() {
        for (text, cell) in [
            ("=cmd()", "'=cmd()"),
            ("-1", "'-1"),
            ("+a", "'+a"),
            ("@a", "'@a"),
            ("\ta", "'\ta"),
            ("'=a", "''=a"),
            ("'a", "'a"),
            ("a=b", "a=b"),
            ("", ""),
        ] {
            assert_eq!(to_cell(text), cell);
            assert_eq!(from_cell(cell), text);
        }
    }
}
