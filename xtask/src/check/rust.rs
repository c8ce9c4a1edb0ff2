//! A reader of Rust sources: paths and string literals outside test code.

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The paths and literals of one file.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Every path: of `use`, one for each name; of types and expressions, as written; in macros, as far as `a::b` goes.
    pub(super) paths: Vec<UsedPath>,
    pub(super) literals: Vec<Literal>,
    /// Macros that are called with a name alone, and the line.
    pub(super) macros: Vec<(String, usize)>,
    /// Modules that the file declares for tests only.
    pub(super) test_modules: Vec<String>,
}

/// A path at the inline module in which it stands (`[]` is the file itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedPath {
    pub(super) inside: Vec<String>,
    pub(super) segments: Vec<String>,
    /// For `use`: the name under which it is known here.
    pub(super) imported_as: Option<String>,
    pub(super) line: usize,
}

/// A string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Literal {
    pub(super) value: String,
    pub(super) line: usize,
}

impl Source {
    pub(super) fn of(file: &syn::File) -> Self {
        let mut reader = Reader::default();
        if !is_test_only(&file.attrs) {
            reader.visit_file(file);
        }
        reader.source
    }
}

/// Looks for `#[cfg(test)]` or `#[test]`.
pub(super) fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test")))
    })
}

#[derive(Default)]
struct Reader {
    source: Source,
    inside: Vec<String>,
}

impl Reader {
    fn add(&mut self, segments: Vec<String>, imported_as: Option<String>, line: usize) {
        self.source.paths.push(UsedPath { inside: self.inside.clone(), segments, imported_as, line });
    }

    fn read_use(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let mut segments = prefix.to_vec();
        match tree {
            syn::UseTree::Path(path) => {
                segments.push(path.ident.to_string());
                self.read_use(&segments, &path.tree);
            }
            syn::UseTree::Name(name) => {
                let line = name.ident.span().start().line;
                if name.ident != "self" {
                    segments.push(name.ident.to_string());
                }
                let known = segments.last().cloned();
                self.add(segments, known, line);
            }
            syn::UseTree::Rename(rename) => {
                let line = rename.ident.span().start().line;
                if rename.ident != "self" {
                    segments.push(rename.ident.to_string());
                }
                self.add(segments, Some(rename.rename.to_string()), line);
            }
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.add(segments, Some("*".to_owned()), line);
            }
            syn::UseTree::Group(group) => {
                for item in &group.items {
                    self.read_use(prefix, item);
                }
            }
        }
    }

    /// Reads what stands in a macro, which has no syntax that is known here.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(first) => {
                    let mut segments = vec![first.to_string()];
                    while let (
                        Some(TokenTree::Punct(one)),
                        Some(TokenTree::Punct(two)),
                        Some(TokenTree::Ident(next)),
                    ) = (tokens.get(at + 1), tokens.get(at + 2), tokens.get(at + 3))
                        && one.as_char() == ':'
                        && two.as_char() == ':'
                    {
                        segments.push(next.to_string());
                        at += 3;
                    }
                    if segments.len() > 1 {
                        self.add(segments, None, first.span().start().line);
                    }
                }
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let Ok(syn::Lit::Str(text)) = syn::parse_str::<syn::Lit>(&literal.to_string()) {
                        let line = literal.span().start().line;
                        self.source.literals.push(Literal { value: text.value(), line });
                    }
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test_only(item_attributes(item)) {
            visit::visit_item(self, item);
        } else if let syn::Item::Mod(module) = item {
            self.source.test_modules.push(module.ident.to_string());
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test_only(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.inside.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.inside.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.read_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let (Some(first), true) = (path.segments.first(), segments.len() > 1) {
            self.add(segments, None, first.ident.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        if let Some(name) = found.path.get_ident() {
            self.source.macros.push((name.to_string(), name.span().start().line));
        }
        self.visit_path(&found.path);
        self.read_tokens(found.tokens.clone());
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.source.literals.push(Literal { value: text.value(), line: text.span().start().line });
    }

    // Documentation and derived code depend on nothing.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other item stands in tests alone; syn may add some")]
fn item_attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Tells paths of tests from others: a crate's `tests` folder, the harness, a file `tests.rs`.
pub(super) fn is_test_path(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "tests" | "benches" | "fuzz" | "tests.rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(&syn::parse_file(text).expect("Rust"))
    }

    fn paths(text: &str) -> Vec<String> {
        source(text).paths.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn every_name_of_a_use_is_a_path() {
        let text = "use crate::{a, b::{self, C as D}, e::*};";
        assert_eq!(paths(text), ["crate::a", "crate::b", "crate::b::C", "crate::e"]);
        let names: Vec<_> = source(text).paths.into_iter().filter_map(|path| path.imported_as).collect();
        assert_eq!(names, ["a", "b", "D", "*"]);
    }

    #[test]
    fn paths_are_found_in_types_expressions_and_macros() {
        let text = "fn f(x: crate::a::B) { super::c(); format!(\"{}\", vec![crate::d::E]); }";
        assert_eq!(paths(text), ["crate::a::B", "super::c", "crate::d::E"]);
    }

    #[test]
    fn test_code_is_left_out() {
        let text =
            "#[cfg(test)] mod tests { use crate::a; } #[cfg(test)] mod fake; #[test] fn t() { crate::b() }";
        assert_eq!(paths(text), Vec::<String>::new());
        assert_eq!(source(text).test_modules, ["tests", "fake"]);
    }

    #[test]
    fn literals_have_their_value_and_line() {
        let found = source("const A: &str = \"x\\ny\";\nfn f() { println!(r#\"z\"#) }").literals;
        assert_eq!(
            found.iter().map(|l| (l.value.as_str(), l.line)).collect::<Vec<_>>(),
            [("x\ny", 1), ("z", 2)]
        );
    }

    #[test]
    fn a_path_includes_its_inline_module() {
        let found = source("mod a { mod b { use super::c; } }").paths;
        assert_eq!(found[0].inside, ["a", "b"]);
    }

    #[test]
    fn test_paths_are_known() {
        for path in [
            "tests/src/mesh.rs",
            "shim/xds/src/session/tests.rs",
            "compile/tests/properties.rs",
            "fuzz/src/lib.rs",
        ] {
            assert!(is_test_path(path), "{path}");
        }
        assert!(!is_test_path("compile/src/test_case.rs"));
    }
}
