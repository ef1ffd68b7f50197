//! `main.rs` stays thin, and links between pages are valid.

use std::path::PathBuf;

use crate::sources::{SOURCES, root};

#[test]
fn main_stays_thin() {
    assert!(SOURCES["src/main.rs"].lines().count() < 60);
}

/// The targets of the links in a text: what follows each `](`, up to the closing parenthesis.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

/// The guides in `docs/`, and the pages outside it.
fn pages() -> impl Iterator<Item = PathBuf> {
    let guides = std::fs::read_dir(root().join("docs")).unwrap();
    let guides = guides.map(|entry| entry.unwrap().path());
    let guides = guides.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let pages = ["README.md", "benches/README.md"].map(|page| root().join(page));
    let later = ["CONTRIBUTING.md", "CHANGELOG.md"].map(|page| root().join(page));
    guides
        .chain(pages)
        .chain(later.into_iter().filter(|page| page.exists()))
}

#[test]
fn links_between_pages_are_valid() {
    let mut followed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !place.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == place),
                    "{}: {link}",
                    page.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed}");
}
