//! Plain text tables, for the terminal and text files.

use std::borrow::Cow;

use super::printable::one_line;

/// Longer cells overflow their column, since a name of millions of characters would widen every row.
const MAX_WIDTH: usize = 256;

/// Columns padded to their widest cell of up to [`MAX_WIDTH`] characters; the first is left-aligned, the others
/// right-aligned. Control characters are escaped.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let escaped = |row: &[String]| -> Vec<String> {
        let cells = row.iter().map(|cell| one_line(cell));
        cells.map(Cow::into_owned).collect()
    };
    let titles: Vec<String> = header.iter().map(|title| (*title).to_owned()).collect();
    let mut lines = vec![escaped(&titles)];
    lines.extend(rows.iter().map(|row| escaped(row)));
    let length = |cell: &str| cell.chars().count();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|cells| cells.get(column));
        let lengths = cells.map(|cell| length(cell));
        lengths
            .filter(|length| *length <= MAX_WIDTH)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let padded = |(column, cell): (usize, &String)| {
        let padding = " ".repeat(widths[column].saturating_sub(length(cell)));
        match column {
            0 => format!("{cell}{padding}"),
            _ => format!("{padding}{cell}"),
        }
    };
    let mut text = String::new();
    for cells in &lines {
        let cells = cells.iter().take(widths.len()).enumerate();
        let cells: Vec<String> = cells.map(padded).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A value with this many decimals, or `undefined` if missing or NaN.
pub fn or_undefined(value: Option<f64>, decimals: usize) -> String {
    match value.filter(|value| !value.is_nan()) {
        Some(value) => format!("{value:.decimals$}"),
        None => "undefined".to_owned(),
    }
}

/// A score with three decimals, or a dash if undefined.
pub fn score(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["liver".to_owned(), score(Some(0.9))],
            vec!["x".to_owned(), score(None)],
        ];
        assert_eq!(
            table(&["name", "dice"], &rows),
            "name    dice\nliver  0.900\nx          –\n"
        );
    }

    #[test]
    fn hostile_names_neither_break_lines_nor_widen_all_rows() {
        let long = "x".repeat(70_000);
        let rows = [
            vec!["a\nb\u{1b}[2J".to_owned(), "1".to_owned()],
            vec![long.clone(), "2".to_owned()],
        ];
        let expected = format!("name           label\na\\nb\\u001b[2J      1\n{long}      2\n");
        assert_eq!(table(&["name", "label"], &rows), expected);
    }
}
