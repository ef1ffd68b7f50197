//! The command's own file stays thin, and links between pages lead somewhere.

use std::path::PathBuf;

use crate::sources::{SOURCES, root};

#[test]
fn main_stays_thin() {
    assert!(SOURCES["src/main.rs"].lines().count() < 60);
}

/// What follows each `](` of a text, up to the closing bracket.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// A heading as pages name the place that it stands at.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

/// The guides, and the pages outside their folder.
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
fn links_between_pages_lead_somewhere() {
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
