//! The tests that a target has by its sources, and the files that its modules reach.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::{Attribute, Expr, ExprLit, Item, ItemFn, ItemMacro, ItemMod, Lit, Meta};

use crate::attributes::{always_hold, within};

/// A function that is a test, or is marked as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its path within the target, as the test binary lists it.
    pub name: String,
    /// The file that it stands in.
    pub file: PathBuf,
    /// The line of its name, from 1.
    pub line: usize,
    /// It has `#[test]` or an attribute whose last word is `test`.
    pub is_test: bool,
    /// The reason of its `#[ignore]`; empty when it gives none.
    pub ignored: Option<String>,
    /// A `cfg` on it, or on a module around it, leaves it out of some builds.
    pub is_conditional: bool,
}

/// A macro that has tests among its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Macro {
    /// The file that it stands in.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// It gives `#[ignore]`, too.
    pub ignores: bool,
}

/// What the sources of a target hold.
#[derive(Debug, Default)]
pub struct Source {
    /// Functions with `#[test]` or `#[ignore]`, in the order in which they stand. Those that macros make are not seen.
    pub functions: Vec<Function>,
    /// Macros that make tests.
    pub macros: Vec<Macro>,
    /// All files, the root included.
    pub files: BTreeSet<PathBuf>,
}

impl Source {
    /// Reads a target from its root file.
    pub fn read(root: &Path) -> Result<Self> {
        let mut source = Self::default();
        let directory = root.parent().unwrap_or(root);
        source.file(root, directory, &[])?;
        Ok(source)
    }

    /// Reads a file whose modules without a path lie in `directory`.
    fn file(&mut self, file: &Path, directory: &Path, path: &[String]) -> Result<()> {
        if !self.files.insert(file.to_owned()) {
            return Ok(());
        }
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        let first = self.functions.len();
        self.items(&parsed.items, file, directory, path)?;
        self.doubt(first, &parsed.attrs);
        Ok(())
    }

    /// Takes note that these attributes stand around the functions from `first` on.
    fn doubt(&mut self, first: usize, attributes: &[Attribute]) {
        if !always_hold(attributes) {
            self.functions.iter_mut().skip(first).for_each(|function| function.is_conditional = true);
        }
    }

    fn items(&mut self, items: &[Item], file: &Path, directory: &Path, path: &[String]) -> Result<()> {
        for item in items {
            match item {
                Item::Fn(function) => self.functions.extend(marked(function, file, path)),
                Item::Mod(module) => {
                    let first = self.functions.len();
                    self.module(module, file, directory, path)?;
                    self.doubt(first, &module.attrs);
                }
                Item::Macro(made) => self.macros.extend(making(made, file)),
                _ => {}
            }
        }
        Ok(())
    }

    fn module(&mut self, module: &ItemMod, file: &Path, directory: &Path, path: &[String]) -> Result<()> {
        let name = module.ident.to_string();
        let path = &[path, std::slice::from_ref(&name)].concat();
        let inside = directory.join(&name);
        if let Some((_, items)) = &module.content {
            return self.items(items, file, &inside, path);
        }
        if let Some(named) = value(&module.attrs, "path") {
            let target = file.parent().unwrap_or(directory).join(named);
            let beside = target.parent().unwrap_or(directory).to_owned();
            return self.file(&target, &beside, path);
        }
        let flat = directory.join(format!("{name}.rs"));
        if flat.is_file() {
            self.file(&flat, &inside, path)
        } else {
            self.file(&inside.join("mod.rs"), &inside, path)
        }
    }
}

fn marked(function: &ItemFn, file: &Path, path: &[String]) -> Option<Function> {
    let is_test = function
        .attrs
        .iter()
        .any(|attribute| attribute.path().segments.last().is_some_and(|segment| segment.ident == "test"));
    let has_ignore = function.attrs.iter().any(|attribute| attribute.path().is_ident("ignore"));
    let ignored = has_ignore.then(|| value(&function.attrs, "ignore").unwrap_or_default());
    if !is_test && ignored.is_none() {
        return None;
    }
    let name = path.iter().cloned().chain([function.sig.ident.to_string()]).collect::<Vec<_>>().join("::");
    let line = function.sig.ident.span().start().line;
    let is_conditional = !always_hold(&function.attrs);
    Some(Function { name, file: file.to_owned(), line, is_test, ignored, is_conditional })
}

fn making(item: &ItemMacro, file: &Path) -> Option<Macro> {
    let attributes = within(item.mac.tokens.clone());
    let has = |name: &str| attributes.iter().any(|attribute| attribute == name);
    let line = item.mac.path.span().start().line;
    has("test").then(|| Macro { file: file.to_owned(), line, ignores: has("ignore") })
}

/// The text of an attribute `#[name = "text"]`.
fn value(attributes: &[Attribute], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident(name))?;
    match &attribute.meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_followed_and_tests_are_named_as_the_binary_names_them() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
            file
        };
        let root = write(
            "main.rs",
            "mod one;\nmod two;\n#[path = \"odd/place.rs\"] mod three;\nmod here { #[test] fn d() {} }\nfn helper() {}",
        );
        write("one.rs", "mod inner;\n#[tokio::test]\n#[ignore = \"needs root; 5 s\"]\nasync fn a() {}");
        write("one/inner.rs", "#[test] fn b() {}");
        write("two/mod.rs", "#[ignore] fn c() {}");
        write("odd/place.rs", "mod beside;");
        write("odd/beside.rs", "");
        let source = Source::read(&root).unwrap();
        let found: Vec<_> = source
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.is_test, f.ignored.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                ("one::inner::b", 1, true, None),
                ("one::a", 4, true, Some("needs root; 5 s")),
                ("two::c", 1, false, Some("")),
                ("here::d", 4, true, None),
            ]
        );
        assert_eq!(source.files.len(), 6);
    }

    #[test]
    fn conditions_and_macros_are_noted() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("main.rs");
        let text = "#[cfg(test)] mod a { #[test] fn plain() {} }\n#[cfg(any())] mod b { #[test] fn never() {} }\n\
            #[cfg_attr(test, ignore)] #[test] fn odd() {}\nproptest! { #[test] #[ignore] fn made() {} }\n\
            macro_rules! other { () => {} }";
        fs::write(&root, text).unwrap();
        let source = Source::read(&root).unwrap();
        let found: Vec<_> = source.functions.iter().map(|f| (f.name.as_str(), f.is_conditional)).collect();
        assert_eq!(found, [("a::plain", false), ("b::never", true), ("odd", true)]);
        assert_eq!(source.macros, [Macro { file: root, line: 4, ignores: true }]);
    }
}
