//! A parsed source file: its items, imports, paths, and the lengths of its functions.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Meta, TraitItem, UseTree};

use crate::sources::place_in_crate;

pub struct File {
    /// In the repository.
    pub path: String,
    /// In its crate: `a`, `b` for `src/a/b.rs`; empty for `lib.rs`.
    pub module: Vec<String>,
    /// Names of the items defined in the file, without modules.
    pub items: BTreeSet<String>,
    /// Names of the modules whose code is in the file.
    pub inline_modules: BTreeSet<String>,
    pub uses: Vec<Use>,
    pub mentions: Vec<Mention>,
    /// Names of child modules that are compiled for tests only.
    pub test_modules: BTreeSet<String>,
    /// The whole file is compiled for tests only.
    pub test: bool,
    pub functions: Vec<Function>,
}

/// One name that a `use` brings in.
pub struct Use {
    pub path: Vec<String>,
    /// None for a glob.
    pub name: Option<String>,
    pub place: Place,
}

/// A path in code, in an attribute or among a macro's tokens.
pub struct Mention {
    pub path: Vec<String>,
    pub place: Place,
}

/// A place in a file.
#[derive(Clone, Default)]
pub struct Place {
    /// The inline modules around it.
    pub scope: Vec<String>,
    /// Only tests compile it.
    pub test: bool,
}

pub struct Function {
    pub name: String,
    pub first_line: usize,
    pub lines: usize,
}

impl File {
    pub fn parse(path: &str, text: &str) -> File {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut file = File {
            path: path.to_owned(),
            module: place_in_crate(path).map_or_else(Vec::new, |(_, inside)| module_of(inside)),
            items: parsed.items.iter().filter_map(defined).collect(),
            inline_modules: BTreeSet::new(),
            uses: Vec::new(),
            mentions: Vec::new(),
            test_modules: BTreeSet::new(),
            test: parsed.attrs.iter().any(is_for_tests),
            functions: Vec::new(),
        };
        let mut reader = Reader {
            place: Place::default(),
            file: &mut file,
        };
        reader.visit_file(&parsed);
        file
    }
}

fn module_of(inside: &str) -> Vec<String> {
    let mut parts: Vec<String> = inside
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if inside == "lib.rs" || inside.ends_with("/mod.rs") {
        parts.pop();
    }
    parts
}

/// The name of an item, unless it is a module or has none.
fn defined(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The attributes of an item of one of these kinds.
macro_rules! attributes {
    ($item:expr, $group:ident: $($kind:ident)*) => {
        match $item {
            $($group::$kind(item) => item.attrs.as_slice(),)*
            _ => &[],
        }
    };
}

fn item_attributes(item: &Item) -> &[Attribute] {
    attributes!(item, Item: Const Enum ExternCrate Fn ForeignMod Impl Macro Mod Static Struct Trait Type Union Use)
}

fn impl_item_attributes(item: &ImplItem) -> &[Attribute] {
    attributes!(item, ImplItem: Const Fn Macro Type)
}

/// Whether an attribute is `#[cfg(test)]`, `#[cfg(all(test, …))]` or a kind of `#[test]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let Some(name) = attribute.path().segments.last() else {
        return false;
    };
    match &attribute.meta {
        Meta::List(list) if name.ident == "cfg" => names_test(list.tokens.clone()),
        _ => name.ident == "test",
    }
}

/// Whether only tests compile an item.
pub fn is_test_item(item: &Item) -> bool {
    item_attributes(item).iter().any(is_for_tests)
}

/// Whether only tests compile an item of an `impl` block.
pub fn is_test_impl_item(item: &ImplItem) -> bool {
    impl_item_attributes(item).iter().any(is_for_tests)
}

fn names_test(tokens: TokenStream) -> bool {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(name) if name == "test" => return true,
            TokenTree::Ident(name) if name == "not" => drop(tokens.next()),
            TokenTree::Group(group) if names_test(group.stream()) => return true,
            _ => {}
        }
    }
    false
}

struct Reader<'a> {
    place: Place,
    file: &'a mut File,
}

impl Reader<'_> {
    /// Reads the code that `attributes` belong to.
    fn below(&mut self, attributes: &[Attribute], read: impl FnOnce(&mut Self)) {
        let before = self.place.test;
        self.place.test |= attributes.iter().any(is_for_tests);
        read(self);
        self.place.test = before;
    }

    fn import(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        let (last, name) = match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(&path.tree, prefix);
                prefix.pop();
                return;
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix);
                }
                return;
            }
            UseTree::Name(name) => (Some(&name.ident), None),
            UseTree::Rename(rename) => (Some(&rename.ident), Some(rename.rename.to_string())),
            UseTree::Glob(_) => (None, None),
        };
        let mut path = prefix.clone();
        // `use a::b::{self}` is `use a::b`.
        path.extend(
            last.map(|last| last.to_string())
                .filter(|last| last != "self" || prefix.is_empty()),
        );
        let name = name.or_else(|| last.and(path.last().cloned()));
        self.file.uses.push(Use {
            path,
            name,
            place: self.place.clone(),
        });
    }

    fn mention(&mut self, path: Vec<String>) {
        self.file.mentions.push(Mention {
            path,
            place: self.place.clone(),
        });
    }

    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(_) if begins_path(&tokens[..at]) => {
                    at = self.scan_path(&tokens, at);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads the path that begins at token `start`, and returns the index after its end.
    fn scan_path(&mut self, tokens: &[TokenTree], start: usize) -> usize {
        let mut path = vec![tokens[start].to_string()];
        let mut end = start + 1;
        while let [colon, second, next, ..] = &tokens[end..]
            && is(colon, ':')
            && is(second, ':')
        {
            match next {
                TokenTree::Ident(name) => path.push(name.to_string()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let tree = tokens[start..end + 3].iter().cloned().collect();
                    if let Ok(tree) = syn::parse2::<UseTree>(tree) {
                        self.import(&tree, &mut Vec::new());
                        return end + 3;
                    }
                    break;
                }
                _ => break,
            }
            end += 3;
        }
        self.mention(path);
        end
    }

    fn function(&mut self, name: &syn::Ident, first: Span, last: Span) {
        let first_line = first.start().line;
        self.file.functions.push(Function {
            name: name.to_string(),
            first_line,
            lines: last.end().line + 1 - first_line,
        });
    }
}

fn is(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// Whether a name after these tokens begins a path: it is not a field, a method or a later part of a path.
fn begins_path(before: &[TokenTree]) -> bool {
    match before {
        [.., first, second] if is(second, '.') => is(first, '.'),
        [.., first, second] => !(is(first, ':') && is(second, ':')),
        [first] => !is(first, '.'),
        [] => true,
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        self.below(item_attributes(item), |reader| {
            visit::visit_item(reader, item)
        });
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        self.below(impl_item_attributes(item), |reader| {
            visit::visit_impl_item(reader, item)
        });
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        let attributes = attributes!(item, TraitItem: Const Fn Macro Type);
        self.below(attributes, |reader| visit::visit_trait_item(reader, item));
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        if module.content.is_none() {
            if self.place.test {
                self.file.test_modules.insert(name);
            }
            return;
        }
        if self.place.scope.is_empty() {
            self.file.inline_modules.insert(name.clone());
        }
        self.place.scope.push(name);
        visit::visit_item_mod(self, module);
        self.place.scope.pop();
    }

    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        let mut prefix = Vec::from_iter(import.leading_colon.as_ref().map(|_| String::new()));
        self.import(&import.tree, &mut prefix);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let global = path.leading_colon.as_ref().map(|_| String::new());
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.mention(global.into_iter().chain(names).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.scan(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.visit_path(&list.path);
        self.scan(list.tokens.clone());
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let (signature, body) = (&function.sig, &function.block);
        self.function(
            &signature.ident,
            signature.fn_token.span,
            body.brace_token.span.close(),
        );
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let (signature, body) = (&function.sig, &function.block);
        self.function(
            &signature.ident,
            signature.fn_token.span,
            body.brace_token.span.close(),
        );
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            let signature = &function.sig;
            self.function(
                &signature.ident,
                signature.fn_token.span,
                body.brace_token.span.close(),
            );
        }
        visit::visit_trait_item_fn(self, function);
    }
}
