//! Imports between the files of a crate: every path is resolved to the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};

use crate::parsed::{File, Place, Use};
use crate::sources::place_in_crate;

/// Maximum depth of re-exports of re-exports.
const MAX_DEPTH: usize = 12;

pub struct Package<'a> {
    pub name: &'a str,
    /// By module path. Includes files of binaries (`main.rs`), which no module path leads to.
    files: BTreeMap<&'a [String], &'a File>,
}

/// A name that one file imports from another; test code is omitted.
pub struct Import<'a> {
    pub from: &'a File,
    pub to: &'a File,
    pub name: String,
}

/// Where a path from the crate's root leads.
enum Target<'a> {
    /// An item, or the contents of an inline module, of a file.
    Item(&'a File, String),
    /// A name that the file does not visibly define, such as one defined by a macro.
    Unknown(&'a File, String),
    Module(&'a File),
    OtherCrate,
}

/// The crates of the files; test files belong to none.
pub fn packages(files: &[File]) -> Vec<Package<'_>> {
    let mut packages: BTreeMap<&str, Package> = BTreeMap::new();
    for file in files {
        if let Some((name, _)) = place_in_crate(&file.path) {
            let package = packages.entry(name).or_insert_with(|| Package {
                name,
                files: BTreeMap::new(),
            });
            package.files.insert(&file.module, file);
        }
    }
    packages.into_values().collect()
}

fn joined(module: &[String], rest: &[String]) -> Vec<String> {
    [module, rest].concat()
}

impl<'a> Package<'a> {
    pub fn all_files(&self) -> impl Iterator<Item = &'a File> {
        self.files.values().copied()
    }

    /// The files of the library, without tests.
    pub fn files(&self) -> impl Iterator<Item = &'a File> {
        self.all_files()
            .filter(|file| !self.is_test(file) && file.module != ["main"])
    }

    /// All imports between the files.
    pub fn imports(&self) -> Vec<Import<'a>> {
        assert!(
            self.files.contains_key([].as_slice()),
            "{} has no lib.rs",
            self.name
        );
        let mut imports = Vec::new();
        for from in self.files() {
            let mut add = |place: &Place, target: Option<(&'a File, String)>| {
                if let Some((to, name)) = target
                    && !place.test
                    && !std::ptr::eq(from, to)
                {
                    imports.push(Import { from, to, name });
                }
            };
            for import in &from.uses {
                add(&import.place, self.target_of_use(from, import));
            }
            for mention in &from.mentions {
                let path = self.path_from_root(from, &mention.path, &mention.place.scope);
                let target = path.and_then(|path| self.resolve(&path, 0).item());
                add(&mention.place, target);
            }
        }
        imports
    }

    /// The first name of each path in a file that leads outside its crate, including test code.
    pub fn names_outside(&self, file: &'a File) -> BTreeSet<&'a str> {
        let uses = file
            .uses
            .iter()
            .filter(|import| self.use_from_root(file, import).is_none())
            .map(|import| &import.path);
        let mentions = file
            .mentions
            .iter()
            .filter(|mention| mention.path.len() > 1)
            .filter(|mention| {
                self.path_from_root(file, &mention.path, &mention.place.scope)
                    .is_none()
            })
            .map(|mention| &mention.path);
        // A path that begins with `::` begins with an empty name here.
        uses.chain(mentions)
            .filter_map(|path| path.iter().find(|name| !name.is_empty()))
            .map(String::as_str)
            .collect()
    }

    fn is_test(&self, file: &File) -> bool {
        (0..=file.module.len()).any(|depth| {
            let (above, below) = file.module.split_at(depth);
            self.files.get(above).is_some_and(|file| {
                file.test
                    || below
                        .first()
                        .is_some_and(|name| file.test_modules.contains(name))
            })
        })
    }

    fn target_of_use(&self, from: &'a File, import: &Use) -> Option<(&'a File, String)> {
        let path = self.use_from_root(from, import)?;
        match (self.resolve(&path, 0), &import.name) {
            (Target::Module(file), None) => Some((file, "*".to_owned())),
            (target, _) => target.item(),
        }
    }

    /// A path in code, relative to the crate's root, if it has several parts and leads into the crate.
    fn path_from_root(
        &self,
        file: &File,
        path: &[String],
        scope: &[String],
    ) -> Option<Vec<String>> {
        if path.len() < 2 {
            return None;
        }
        self.absolute(file, path, scope).or_else(|| {
            let head = self.in_scope(file, scope, &path[0])?;
            Some(joined(&head, &path[1..]))
        })
    }

    /// The path of a `use`, relative to the crate's root, if it leads into the crate.
    fn use_from_root(&self, file: &File, import: &Use) -> Option<Vec<String>> {
        let (path, scope) = (&import.path, &import.place.scope);
        self.absolute(file, path, scope)
            .or_else(|| self.child(file, path).filter(|_| scope.is_empty()))
            .or_else(|| {
                let head = self.in_scope(file, scope, path.first()?)?;
                // `use name::…;` where only this line itself brings in `name`.
                (head != joined(&file.module, path)).then(|| joined(&head, &path[1..]))
            })
    }

    /// A path that begins with `crate`, `self` or `super`, relative to the crate's root.
    fn absolute(&self, file: &File, path: &[String], scope: &[String]) -> Option<Vec<String>> {
        let (head, mut rest) = path.split_first()?;
        let mut base = joined(&file.module, scope);
        match head.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => drop(base.pop()),
            _ => return None,
        }
        while head != "crate" && rest.first().is_some_and(|name| name == "super") {
            base.pop();
            rest = &rest[1..];
        }
        Some(joined(&base, rest))
    }

    /// A path that begins with the name of a child module, relative to the crate's root.
    fn child(&self, file: &File, path: &[String]) -> Option<Vec<String>> {
        let whole = joined(&file.module, path);
        let child = whole.get(..=file.module.len())?;
        self.files.contains_key(child).then_some(whole)
    }

    /// The path of a name used in a file, relative to the crate's root.
    fn in_scope(&self, file: &File, scope: &[String], name: &String) -> Option<Vec<String>> {
        for import in &file.uses {
            if import.name.as_ref() == Some(name) && scope.starts_with(&import.place.scope) {
                let (path, scope) = (&import.path, &import.place.scope);
                let found = self.absolute(file, path, scope);
                if let Some(path) = found.or_else(|| self.child(file, path)) {
                    return Some(path);
                }
            }
        }
        if scope.is_empty() {
            return self.child(file, std::slice::from_ref(name));
        }
        let sees_file = file.uses.iter().any(|import| {
            import.name.is_none() && import.path == ["super"] && import.place.scope == scope
        });
        sees_file.then(|| self.in_scope(file, &[], name)).flatten()
    }

    fn resolve(&self, path: &[String], depth: usize) -> Target<'a> {
        if depth > MAX_DEPTH {
            return Target::OtherCrate;
        }
        let length = (0..=path.len())
            .take_while(|length| self.files.contains_key(&path[..*length]))
            .last();
        let Some((module, rest)) = length.map(|length| path.split_at(length)) else {
            return Target::OtherCrate;
        };
        let file = self.files[module];
        let Some((name, rest)) = rest.split_first() else {
            return Target::Module(file);
        };
        if file.items.contains(name) || file.inline_modules.contains(name) {
            return Target::Item(file, name.clone());
        }
        self.reexported(file, name, rest, depth)
            .unwrap_or_else(|| Target::Unknown(file, name.clone()))
    }

    /// The target of a name that a file imports without defining it.
    fn reexported(
        &self,
        file: &'a File,
        name: &String,
        rest: &[String],
        depth: usize,
    ) -> Option<Target<'a>> {
        let uses = || {
            file.uses
                .iter()
                .filter(|import| import.place.scope.is_empty())
        };
        let path_of = |import: &Use| {
            self.absolute(file, &import.path, &[])
                .or_else(|| self.child(file, &import.path))
        };
        for import in uses().filter(|import| import.name.as_ref() == Some(name)) {
            let Some(path) = path_of(import) else {
                return Some(Target::OtherCrate);
            };
            if path != joined(&file.module, std::slice::from_ref(name)) {
                return Some(self.resolve(&joined(&path, rest), depth + 1));
            }
        }
        for import in uses().filter(|import| import.name.is_none()) {
            let Some(mut path) = path_of(import).filter(|path| *path != file.module) else {
                continue;
            };
            path.push(name.clone());
            path.extend_from_slice(rest);
            let target = self.resolve(&path, depth + 1);
            if matches!(target, Target::Item(..)) {
                return Some(target);
            }
        }
        None
    }
}

impl<'a> Target<'a> {
    fn item(self) -> Option<(&'a File, String)> {
        match self {
            Target::Item(file, name) | Target::Unknown(file, name) => Some((file, name)),
            Target::Module(_) | Target::OtherCrate => None,
        }
    }
}
