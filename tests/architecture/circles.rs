//! There are no import circles between the files of a crate.
//!
//! A path to an item counts as an import of the file that defines the item, also through re-exports; a parent that
//! re-exports a child's item therefore imports the child. `mod x;`, imports of a module itself, and tests do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::imports::{Import, Package, packages};
use crate::sources::{FILES, planted};

/// Files that import each other, and the imported names.
struct Circle<'a> {
    files: BTreeSet<&'a str>,
    edges: Edges<'a>,
}

type Edges<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>;

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "circle of {} files:", self.files.len())?;
        for ((from, to), names) in &self.edges {
            let names: Vec<&str> = names.iter().copied().collect();
            writeln!(f, "    {from} -> {to}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

/// The circles of a crate.
fn circles<'a>(imports: &'a [Import<'a>]) -> Vec<Circle<'a>> {
    let mut edges = Edges::new();
    for import in imports {
        let ends = (import.from.path.as_str(), import.to.path.as_str());
        edges.entry(ends).or_default().insert(&import.name);
    }
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = next
        .keys()
        .map(|from| (*from, reached_from(from, &next)))
        .collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|files| files.contains(to));
    let mut circles = Vec::new();
    let mut placed = BTreeSet::new();
    for (first, all) in &reached {
        if !reaches(first, first) || placed.contains(first) {
            continue;
        }
        let mut files: BTreeSet<&str> = all.clone();
        files.retain(|file| reaches(file, first));
        placed.extend(files.iter().copied());
        let mut edges = edges.clone();
        edges.retain(|(from, to), _| files.contains(from) && files.contains(to));
        circles.push(Circle { files, edges });
    }
    circles
}

/// The files reachable from `start`; `start` itself only if it is in a circle.
fn reached_from<'a>(start: &str, next: &BTreeMap<&str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![start];
    while let Some(file) = waiting.pop() {
        for to in next.get(file).into_iter().flatten() {
            if reached.insert(*to) {
                waiting.push(to);
            }
        }
    }
    reached
}

#[test]
fn no_import_circles_between_files() {
    let packages = packages(&FILES);
    let imports: Vec<Vec<Import>> = packages.iter().map(Package::imports).collect();
    let seen: usize = imports.iter().map(Vec::len).sum();
    assert!(seen > 1000, "only {seen} imports seen");
    let mut found: Vec<Circle> = imports
        .iter()
        .flat_map(|imports| circles(imports))
        .collect();
    found.sort_by_key(|circle| circle.files.len());
    let text: String = found.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} circles\n{text}", found.len());
}

/// The circles of the given files, as text, and the number of imports seen.
fn found_in(files: &[(&str, &str)]) -> (Vec<String>, usize) {
    let files = planted(files);
    let packages = packages(&files);
    let imports: Vec<Import> = packages.iter().flat_map(Package::imports).collect();
    let found = circles(&imports);
    (
        found.iter().map(ToString::to_string).collect(),
        imports.len(),
    )
}

#[test]
fn two_files_that_import_each_other_are_a_circle() {
    let (found, _) = found_in(&[
        ("crates/image/src/lib.rs", "mod a; mod b; mod c;"),
        (
            "crates/image/src/a.rs",
            "use crate::b::{self, B as Other}; pub struct A;",
        ),
        ("crates/image/src/b.rs", "pub struct B(crate::a::A);"),
        ("crates/image/src/c.rs", "use crate::b::B;"),
    ]);
    let text = "circle of 2 files:\n    crates/image/src/a.rs -> crates/image/src/b.rs: B\n    \
                crates/image/src/b.rs -> crates/image/src/a.rs: A\n";
    assert_eq!(found, [text]);
}

#[test]
fn circles_of_three_files_and_of_nested_folders_are_found() {
    let (found, imports) = found_in(&[
        ("src/lib.rs", "mod a;"),
        ("src/a/mod.rs", "mod b; mod c; mod d;"),
        ("src/a/b.rs", "use super::c::*; pub fn b() {}"),
        ("src/a/c.rs", "use super::d; pub fn c() { d::d() }"),
        (
            "src/a/d.rs",
            "pub fn d() { let _ = |_: [u8; 2]| super::b::b(); }",
        ),
    ]);
    assert!(found[0].starts_with("circle of 3 files"), "{found:?}");
    assert_eq!(imports, 3);
}

#[test]
fn a_child_that_imports_its_parent_through_super_is_in_a_circle() {
    for child in ["use super::Parent;", "fn f() -> super::Parent { todo!() }"] {
        let (found, _) = found_in(&[
            ("src/lib.rs", "pub mod parent;"),
            (
                "src/parent.rs",
                "mod child; pub use child::Child; pub struct Parent;",
            ),
            ("src/parent/child.rs", &format!("{child} pub struct Child;")),
        ]);
        assert_eq!(found.len(), 1, "{child}");
    }
}

#[test]
fn circles_through_reexports_are_found() {
    for reexport in ["pub use b::B;", "pub use b::*;", "pub use self::b::B;"] {
        let (found, _) = found_in(&[
            ("src/lib.rs", "mod a; mod folder;"),
            ("src/a.rs", "use crate::folder::B; pub struct A;"),
            ("src/folder/mod.rs", &format!("mod b; {reexport}")),
            ("src/folder/b.rs", "use crate::a::A; pub struct B;"),
        ]);
        let text = "circle of 2 files:\n    src/a.rs -> src/folder/b.rs: B\n    src/folder/b.rs -> src/a.rs: A\n";
        assert_eq!(found, [text], "{reexport}");
    }
}

#[test]
fn circles_among_the_tokens_of_macros_are_found() {
    for code in [
        "fn f() { assert_eq!(1..=crate::b::B, [0].len()); }",
        "macro_rules! m { () => { $crate::b::B } }",
        "make! { use crate::b::{B, self}; }",
        "#[derive(crate::b::B)] struct S;",
    ] {
        let (found, _) = found_in(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", &format!("{code} pub const A: u8 = 0;")),
            ("src/b.rs", "pub const B: u8 = crate::a::A;"),
        ]);
        assert_eq!(found.len(), 1, "{code}");
    }
}

#[test]
fn a_parent_may_import_children_that_do_not_import_it() {
    let (found, imports) = found_in(&[
        ("src/lib.rs", "mod parent; pub use parent::Second;"),
        (
            "src/parent.rs",
            "mod first; mod second; pub use first::First; pub use second::Second; fn f() { second::g() }",
        ),
        ("src/parent/first.rs", "pub struct First;"),
        // A sibling through the parent's re-export.
        (
            "src/parent/second.rs",
            "use super::First; pub struct Second(First); pub fn g() {}",
        ),
    ]);
    assert_eq!((found, imports), (vec![], 5));
}

#[test]
fn tests_may_import_everything() {
    let (found, imports) = found_in(&[
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "pub struct A; use crate::b::B;"),
        (
            "src/b.rs",
            "pub struct B; #[cfg(test)] mod tests { use crate::a::A; } #[cfg(all(test, unix))] mod more;
             #[cfg(test)] use crate::a::A; impl B { #[cfg(test)] fn f() -> crate::a::A { crate::a::A } }",
        ),
        ("src/b/more.rs", "use crate::a::A; mod deeper;"),
        ("src/b/more/deeper.rs", "use crate::a::A;"),
        ("src/main.rs", "use crate::a::A; fn main() {}"),
    ]);
    assert_eq!((found, imports), (vec![], 1));
    let (found, _) = found_in(&[
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "pub struct A; use crate::b::B;"),
        (
            "src/b.rs",
            "pub struct B; #[cfg(not(test))] use crate::a::A;",
        ),
    ]);
    assert_eq!(found.len(), 1);
}

#[test]
fn importing_a_module_itself_does_not_count() {
    let (found, imports) = found_in(&[
        ("src/lib.rs", "mod a; mod b;"),
        (
            "src/a.rs",
            "use crate::b; pub struct A; pub(in crate::a) fn f(x: u8) { x.b() }",
        ),
        ("src/b.rs", "use crate::a::A; use std::fmt::{self, Debug};"),
    ]);
    assert_eq!((found, imports), (vec![], 1));
}
