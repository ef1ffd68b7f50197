//! Plain tables, for the terminal and text files.

/// Columns padded to their widest cell; the first is left-aligned, the others right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([header[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| -> String {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = line(&header);
    for row in rows {
        text += &line(row);
    }
    text
}

/// A value in a sentence, with so many decimals, or `undefined` where it is none or no number.
pub fn or_undefined(value: Option<f64>, decimals: usize) -> String {
    match value.filter(|value| !value.is_nan()) {
        Some(value) => format!("{value:.decimals$}"),
        None => "undefined".to_owned(),
    }
}

/// A score with three decimals, or a dash where it is undefined.
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
}
