//! All texts that users can see, collected from the sources into `snapshots/`, one file per kind: a change of a message is
//! a line in the diff of a snapshot. After an intended change run
//! `INSTA_UPDATE=always cargo test --test architecture messages`.
//!
//! Not collected: texts of other crates (clap's usage errors, causes from the operating system), the report's JavaScript,
//! the shell scripts, and literals of one word outside errors, warnings, log lines and headings. A text that is put
//! together from several literals is listed in pieces. A literal that only looks like a text, such as one of a file format,
//! is listed too.

use std::collections::BTreeMap;

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ImplItem, Item, Lit, LitStr, Meta, Pat, Path, Token};

use crate::imports::{Package, packages};
use crate::parsed::{is_test_impl_item, is_test_item};
use crate::sources::{FILES, SOURCES, root};

/// A kind of texts, and the name of its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Errors,
    Warnings,
    /// Messages and progress.
    Log,
    /// Of commands and their arguments.
    Help,
    /// Findings and advice of `ctseg doctor`.
    Doctor,
    /// Headings.
    Tables,
    /// Other texts of the command line, such as results.
    Output,
    /// Labels of the HTML report and of pictures.
    Report,
    /// Other texts of the libraries: mostly pieces and reasons in messages of the kinds above.
    Pieces,
}

/// Calls whose arguments are compared, or name values.
const NOT_SHOWN: &str = "contains counted ends_with expect find get replace rsplit_once split split_once starts_with \
    strip_prefix strip_suffix trim_end_matches trim_start_matches var var_os";

/// Macros whose arguments are for programmers, or keys.
const MACROS_NOT_SHOWN: &str = "assert assert_eq assert_ne debug_assert debug_assert_eq env include_str json matches \
    option_env panic unreachable";

/// The texts of one file, without repetitions.
struct Texts {
    kind: Kind,
    /// The item is read by clap, which shows its doc comments.
    is_for_clap: bool,
    found: Vec<(Kind, String)>,
}

/// Texts by kind, each file's below its path.
fn catalogue() -> BTreeMap<Kind, String> {
    let packages = packages(&FILES);
    let files = packages.iter().flat_map(Package::files);
    let mut paths: Vec<&str> = files.map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    let mut catalogue: BTreeMap<Kind, String> = BTreeMap::new();
    let mut add = |path: &str, found: Vec<(Kind, String)>| {
        let mut kinds: BTreeMap<Kind, String> = BTreeMap::new();
        for (kind, text) in found {
            *kinds.entry(kind).or_default() += &format!("{text}\n");
        }
        for (kind, texts) in kinds {
            *catalogue.entry(kind).or_default() += &format!("## {path}\n{texts}\n");
        }
    };
    for path in paths {
        add(path, texts_of(path, &SOURCES[path]));
    }
    let page = "crates/report/src/html/page.html";
    let html = std::fs::read_to_string(root().join(page)).unwrap();
    let texts = texts_of_page(&html).into_iter();
    add(page, texts.map(|text| (Kind::Report, text)).collect());
    catalogue
}

fn texts_of(path: &str, source: &str) -> Vec<(Kind, String)> {
    let kind = match path {
        path if path.starts_with("src/doctor/") => Kind::Doctor,
        path if path.starts_with("src/") => Kind::Output,
        path if path.starts_with("crates/report/") => Kind::Report,
        _ => Kind::Pieces,
    };
    let mut texts = Texts {
        kind,
        is_for_clap: false,
        found: Vec::new(),
    };
    texts.visit_file(&syn::parse_file(source).unwrap());
    texts.found
}

/// Texts between tags, and labels in attributes.
fn texts_of_page(html: &str) -> Vec<String> {
    let between = html.split('>').filter_map(|part| part.split('<').next());
    let labels = ["aria-label=\"", "title=\""].into_iter().flat_map(|name| {
        let parts = html.split(name).skip(1);
        parts.filter_map(|part| part.split('"').next())
    });
    let mut texts: Vec<String> = Vec::new();
    for text in between.chain(labels) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if has_word(&text) && !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Whether a text has a word of two letters or more outside its placeholders.
fn has_word(text: &str) -> bool {
    let mut depth = 0_u32;
    let mut letters = 0;
    text.chars().any(|letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let counts = depth == 0 && letter.is_alphabetic();
        letters = if counts { letters + 1 } else { 0 };
        letters >= 2
    })
}

impl Texts {
    fn add(&mut self, text: &str) {
        let may_be_one_word = matches!(
            self.kind,
            Kind::Errors | Kind::Warnings | Kind::Log | Kind::Tables
        );
        if !has_word(text) || !(may_be_one_word || text.contains(' ')) {
            return;
        }
        let entry = (self.kind, text.replace('\n', "\\n"));
        if !self.found.contains(&entry) {
            self.found.push(entry);
        }
    }

    /// Reads code whose texts are of the given kind, or of the present one.
    fn within(&mut self, kind: Option<Kind>, read: impl FnOnce(&mut Self)) {
        let before = self.kind;
        self.kind = kind.unwrap_or(before);
        read(self);
        self.kind = before;
    }

    /// Reads the arguments of a macro, or all its literals if they are not expressions.
    fn arguments(&mut self, tokens: TokenStream) {
        let parser = Punctuated::<Expr, Token![,]>::parse_terminated;
        match parser.parse2(tokens.clone()) {
            Ok(arguments) => arguments.iter().for_each(|one| self.visit_expr(one)),
            Err(_) => self.literals(tokens),
        }
    }

    fn literals(&mut self, tokens: TokenStream) {
        let mut is_attribute = false; // such as a doc comment
        for token in tokens {
            match &token {
                TokenTree::Group(group) if !is_attribute => self.literals(group.stream()),
                TokenTree::Literal(_) => {
                    if let Ok(text) = syn::parse2::<LitStr>(token.clone().into()) {
                        self.add(&text.value());
                    }
                }
                _ => {}
            }
            is_attribute = matches!(&token, TokenTree::Punct(sign) if sign.as_char() == '#');
        }
    }

    /// The help of a command or an argument, `name`, if clap shows it.
    fn help(&mut self, name: &str, attributes: &[Attribute]) {
        let hides = ["flatten", "subcommand", "skip", "hide"];
        let is_shown = !attributes
            .iter()
            .filter_map(|attribute| attribute.meta.require_list().ok())
            .flat_map(|list| list.tokens.clone())
            .any(|token| hides.contains(&token.to_string().as_str()));
        let lines: Vec<String> = attributes.iter().filter_map(doc_line).collect();
        if self.is_for_clap && is_shown && !lines.is_empty() {
            let text = lines.join(" ").replace("  ", "\n");
            self.within(Some(Kind::Help), |texts| {
                texts.add(&format!("{name}: {text}"));
            });
        }
    }
}

fn doc_line(attribute: &Attribute) -> Option<String> {
    let line = attribute.meta.require_name_value().ok()?;
    let Expr::Lit(literal) = &line.value else {
        return None;
    };
    match &literal.lit {
        Lit::Str(text) if line.path.is_ident("doc") => Some(text.value().trim().to_owned()),
        _ => None,
    }
}

fn is_among(names: &str, name: &Ident) -> bool {
    names.split_whitespace().any(|other| name == other)
}

/// Whether a path names an error type or one of its constructors.
fn is_error(path: &Path) -> bool {
    let mut segments = path.segments.iter();
    segments.any(|segment| segment.ident.to_string().ends_with("Error"))
}

/// Whether clap derives a parser from an item with these attributes.
fn is_for_clap(attributes: &[Attribute]) -> bool {
    let lists = attributes
        .iter()
        .filter_map(|attribute| attribute.meta.require_list().ok());
    let mut derived = lists
        .filter(|list| list.path.is_ident("derive"))
        .flat_map(|list| list.tokens.clone());
    derived.any(|token| match token {
        TokenTree::Ident(name) => is_among("Args Parser Subcommand ValueEnum", &name),
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Texts {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test_item(item) {
            return;
        }
        let attributes = match item {
            Item::Struct(item) => item.attrs.as_slice(),
            Item::Enum(item) => item.attrs.as_slice(),
            _ => &[],
        };
        let before = std::mem::replace(&mut self.is_for_clap, is_for_clap(attributes));
        if let Item::Struct(item) = item
            && item.ident == "Cli"
        {
            self.help("ctseg", &item.attrs);
        }
        visit::visit_item(self, item);
        self.is_for_clap = before;
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !is_test_impl_item(item) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(name) = &field.ident {
            self.help(
                &format!("--{}", name.to_string().replace('_', "-")),
                &field.attrs,
            );
        }
        visit::visit_field(self, field);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.help(&variant.ident.to_string().to_lowercase(), &variant.attrs);
        visit::visit_variant(self, variant);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else {
            return;
        };
        let kind = match list.path.get_ident() {
            Some(name) if name == "error" => Kind::Errors,
            Some(name) if is_among("arg command", name) => Kind::Help,
            _ => return,
        };
        self.within(Some(kind), |texts| texts.literals(list.tokens.clone()));
    }

    fn visit_pat(&mut self, pattern: &'ast Pat) {
        if !matches!(pattern, Pat::Lit(_)) {
            visit::visit_pat(self, pattern);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        let is_header = matches!(&local.pat, Pat::Ident(name) if name.ident == "header");
        let kind = is_header.then_some(Kind::Tables);
        self.within(kind, |texts| visit::visit_local(texts, local));
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let path = match &*call.func {
            Expr::Path(path) => Some(&path.path),
            _ => None,
        };
        let name = path.and_then(|path| path.segments.last());
        if name.is_some_and(|name| is_among(NOT_SHOWN, &name.ident)) {
            return;
        }
        let kind = path.filter(|path| is_error(path)).map(|_| Kind::Errors);
        self.within(kind, |texts| visit::visit_expr_call(texts, call));
    }

    fn visit_expr_struct(&mut self, value: &'ast syn::ExprStruct) {
        let kind = is_error(&value.path).then_some(Kind::Errors);
        self.within(kind, |texts| visit::visit_expr_struct(texts, value));
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.visit_expr(&call.receiver);
        if is_among(NOT_SHOWN, &call.method) {
            return;
        }
        let kind = match &call.method {
            name if name == "error" => Some(Kind::Errors),
            name if is_among("warn warning", name) => Some(Kind::Warnings),
            name if is_among("info log note task", name) => Some(Kind::Log),
            _ => None,
        };
        self.within(kind, |texts| {
            call.args.iter().for_each(|one| texts.visit_expr(one));
        });
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = &call.path.segments.last().unwrap().ident;
        if is_among(MACROS_NOT_SHOWN, name) {
            return;
        }
        let kind = is_among("anyhow bail ensure", name).then_some(Kind::Errors);
        self.within(kind, |texts| texts.arguments(call.tokens.clone()));
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.add(&text.value());
    }
}

#[test]
fn messages_are_those_of_the_snapshots() {
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        for (kind, texts) in catalogue() {
            insta::assert_snapshot!(format!("{kind:?}").to_lowercase(), texts);
        }
    });
}

#[test]
fn texts_are_found_in_calls_attributes_and_macros() {
    let source = r#"
        #[derive(clap::Args)]
        struct Options {
            /// Number of
            /// threads
            #[arg(long)]
            max_threads: u8,
            /// Not shown
            #[command(flatten)]
            more: More,
        }
        fn f() -> Result<()> {
            observer.warn(&format!("{} cannot be {done}", "this thing"));
            let words = ["two words", "word"];
            kinds! { /// Not shown
                "more words" => A }
            if text.contains("not shown") { panic!("not shown") }
            run().map_err(|error| Error::io(path, "read"))
        }
        #[cfg(test)]
        mod tests { const A: &str = "not shown"; }"#;
    let found = texts_of("crates/a/src/lib.rs", source);
    let expected = [
        (Kind::Help, "--max-threads: Number of threads"),
        (Kind::Warnings, "{} cannot be {done}"),
        (Kind::Warnings, "this thing"),
        (Kind::Pieces, "two words"),
        (Kind::Pieces, "more words"),
        (Kind::Errors, "read"),
    ];
    let expected = expected.map(|(kind, text)| (kind, text.to_owned()));
    assert_eq!(found, expected);
    let page = "<p title=\"A note\">{{ name }}</p>\n<b>Case {{ name }}</b>";
    assert_eq!(texts_of_page(page), ["Case {{ name }}", "A note"]);
}
