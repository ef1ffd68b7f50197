//! Pointer files of Git LFS and git-annex: small text files in place of large ones stored elsewhere.

use std::io::Read;
use std::path::Path;

use crate::regular_file;

/// Start of a pointer file, its description, and how to fetch the file.
const KNOWN: [(&[u8], &str, &str); 3] = [
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the file with 'git lfs pull'",
    ),
    (
        b"/annex/objects/",
        "a git-annex pointer, not the file itself",
        "fetch the file with 'git annex get'",
    ),
    (
        b"../.git/annex/objects/",
        "a git-annex link written as text, not the file itself",
        "fetch the file with 'git annex get'",
    ),
];

/// Description and remedy, if content that begins with `start` is a pointer file.
pub fn detect(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let mut known = KNOWN.iter().filter(|(begin, ..)| start.starts_with(begin));
    known.next().map(|(_, name, remedy)| (*name, *remedy))
}

/// The problem with the file at `path`, if it is a pointer file or a dangling link, such as of git-annex.
pub fn problem(path: &Path) -> Option<String> {
    if let Ok(target) = std::fs::read_link(path)
        && !path.exists()
    {
        let target = target.to_string_lossy();
        let remedy = match target.contains(".git/annex/") {
            true => "fetch the file with 'git annex get' (or 'datalad get')",
            false => "fix the link or copy the file",
        };
        return Some(format!(
            "a link to {target}, which does not exist; {remedy}"
        ));
    }
    let mut start = Vec::new();
    let file = regular_file::open(path).ok()?;
    file.take(64).read_to_end(&mut start).ok()?;
    detect(&start).map(|(name, remedy)| format!("{name}; {remedy}"))
}
