//! Small text files that stand for large ones which are kept elsewhere: those of Git LFS and git-annex.

use std::io::Read;
use std::path::Path;

use crate::regular_file;

/// How content that stands for a file begins, its name, and what brings the file.
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

/// What content that begins with `start` is, and what to do, if it stands for a file that is kept elsewhere.
pub fn known(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let mut known = KNOWN.iter().filter(|(begin, ..)| start.starts_with(begin));
    known.next().map(|(_, name, remedy)| (*name, *remedy))
}

/// The problem with the file at `path`, if it is a pointer, or a link of git-annex whose file is not there.
pub fn problem(path: &Path) -> Option<String> {
    if let Ok(target) = std::fs::read_link(path)
        && !path.exists()
    {
        let target = target.to_string_lossy();
        let remedy = match target.contains(".git/annex/") {
            true => "fetch the file with 'git annex get' (or 'datalad get')",
            false => "mend the link or copy the file",
        };
        return Some(format!("a link to {target}, which is not there; {remedy}"));
    }
    let mut start = Vec::new();
    let file = regular_file::open(path).ok()?;
    file.take(64).read_to_end(&mut start).ok()?;
    known(&start).map(|(name, remedy)| format!("{name}; {remedy}"))
}
