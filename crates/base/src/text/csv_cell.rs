//! Names in tables that spreadsheets open: one that begins like a formula would be computed, not shown.

/// What spreadsheets take for the beginning of a formula, and for space before one.
const OF_FORMULAS: [char; 5] = ['=', '+', '-', '@', '\t'];

/// A text as a cell of CSV; a name that begins like a formula is led by an apostrophe, which spreadsheets take for the
/// mark of text. Numbers are written without it.
pub fn to_cell(text: &str) -> String {
    match begins_like_a_formula(text) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

/// The text that [`to_cell`] has written so.
pub fn from_cell(cell: &str) -> &str {
    let text = cell.strip_prefix('\'');
    text.filter(|text| begins_like_a_formula(text))
        .unwrap_or(cell)
}

/// Behind apostrophes of its own, so that texts that differ stay different.
fn begins_like_a_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(OF_FORMULAS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_and_none_begins_like_a_formula() {
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
