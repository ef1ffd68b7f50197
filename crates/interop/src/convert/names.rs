//! Case names that every file system and program accepts.

use std::collections::HashSet;

/// `text` in ASCII letters, digits, `_`, `-` and `.`, not starting with `.` or `-`; other characters become `_`.
pub fn safe_name(text: &str) -> String {
    let safe = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' => c,
        _ => '_',
    };
    let name: String = text.chars().map(safe).collect();
    let name = match name.strip_prefix(['.', '-']) {
        Some(rest) => format!("_{rest}"),
        None => name,
    };
    match name.chars().all(|c| c == '_') {
        true => "case".to_owned(),
        false => name,
    }
}

/// A safe name for each id, unique even on case-insensitive file systems; safe ids are kept.
pub fn safe_names<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::new();
    // Safe ids first, so that no renamed id takes their name.
    let kept: Vec<bool> = ids
        .clone()
        .map(|id| safe_name(id) == id && taken.insert(id.to_lowercase()))
        .collect();
    ids.zip(kept)
        .map(|(id, kept)| {
            if kept {
                return id.to_owned();
            }
            let name = safe_name(id);
            let numbered = (2..).map(|number| format!("{name}_{number}"));
            let mut names = std::iter::once(name.clone()).chain(numbered);
            let free = names.find(|name| taken.insert(name.to_lowercase()));
            free.unwrap_or(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[&str]) -> Vec<String> {
        safe_names(ids.iter().copied())
    }

    #[test]
    fn safe_names_are_kept_and_others_avoid_them() {
        assert_eq!(names(&["b_0000", "A-1.x", "7"]), ["b_0000", "A-1.x", "7"]);
        assert_eq!(
            names(&["patient 1", "patient_1", "patient/1"]),
            ["patient_1_2", "patient_1", "patient_1_3"]
        );
        assert_eq!(
            names(&["Case", "case", "CASE_2"]),
            ["Case", "case_3", "CASE_2"]
        );
        assert_eq!(
            names(&["größe", ".x", "--y", "…"]),
            ["gr__e", "_x", "_-y", "case"]
        );
    }
}
