//! The contents of a crate's files, parsed by syn: modules with their names, and functions.
//!
//! Files are found as rustc finds them, by `mod` declarations from each crate root on. Code that is compiled only for
//! tests is skipped, whole files included.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::{
    Attribute, FnArg, Item, ItemConst, ItemEnum, ItemStatic, ItemStruct, ItemTrait, ItemType, ItemUnion,
    Meta, Signature, Token, UseTree, Visibility,
    ext::IdentExt,
    punctuated::Punctuated,
    visit::{self, Visit},
};

/// The text of each file, by its path from the folder of the crate root.
pub(crate) type Sources = BTreeMap<String, String>;

/// The path of a module: the file of its crate root, then names.
pub(crate) type Module = Vec<String>;

/// The crate root that `psystrike` names.
pub(crate) const LIBRARY: &str = "lib.rs";

/// The modules and functions of all crates in a folder.
#[derive(Default)]
pub(crate) struct Code {
    pub(crate) scopes: BTreeMap<Module, Scope>,
    pub(crate) functions: Vec<Function>,
}

/// The contents of a module, without its child modules.
#[derive(Default)]
pub(crate) struct Scope {
    pub(crate) file: String,
    /// The names that it declares.
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: BTreeSet<Import>,
    /// Every path outside of `use`, in the module itself and in the functions and macros in it.
    pub(crate) paths: BTreeSet<Vec<String>>,
}

/// One name of a `use`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    /// The name of the path here; `*` for a glob, whose path is that of the module.
    pub(crate) name: String,
    pub(crate) path: Vec<String>,
    /// Whether other modules can take the name from this one.
    pub(crate) is_public: bool,
}

pub(crate) struct Function {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) name: String,
    /// From the line of `fn` to that of the closing brace.
    pub(crate) lines: usize,
    /// Without `self`.
    pub(crate) parameters: usize,
}

impl Code {
    pub(crate) fn read(sources: &Sources) -> Self {
        let mut code = Self::default();
        for root in [LIBRARY, "main.rs", "build.rs"] {
            if sources.contains_key(root) {
                read_file(root, vec![root.to_owned()], sources, &mut code);
            }
        }
        code
    }
}

fn read_file(file: &str, module: Module, sources: &Sources, code: &mut Code) {
    let syntax = syn::parse_file(&sources[file])
        .unwrap_or_else(|error| panic!("{file}:{}: {error}", error.span().start().line));
    Reader { file, module, sources, code }.visit_file(&syntax);
}

/// Reads one module into `code`, and its child modules after it.
struct Reader<'a> {
    file: &'a str,
    module: Module,
    sources: &'a Sources,
    code: &'a mut Code,
}

impl Reader<'_> {
    fn scope(&mut self) -> &mut Scope {
        let file = self.file;
        self.code
            .scopes
            .entry(self.module.clone())
            .or_insert_with(|| Scope { file: file.to_owned(), ..Scope::default() })
    }

    fn path(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.scope().paths.insert(path);
        }
    }

    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, is_public: bool) {
        let name = match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                return self.import(&tree.tree, path, is_public);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, path.clone(), is_public));
            }
            UseTree::Name(name) => {
                path.extend((name.ident != "self").then(|| name.ident.to_string()));
                path.last().cloned().unwrap_or_default()
            }
            UseTree::Rename(renamed) => {
                path.extend((renamed.ident != "self").then(|| renamed.ident.to_string()));
                renamed.rename.to_string()
            }
            UseTree::Glob(_) => "*".to_owned(),
        };
        self.scope().imports.insert(Import { name, path, is_public });
    }

    fn function(&mut self, signature: &Signature, end: Span) {
        let parameters = signature.inputs.iter().filter(|it| matches!(it, FnArg::Typed(_))).count();
        self.function_lines(signature.ident.to_string(), signature.fn_token.span, end, parameters);
    }

    fn function_lines(&mut self, name: String, start: Span, end: Span, parameters: usize) {
        let (file, line) = (self.file.to_owned(), start.start().line);
        let lines = end.end().line - line + 1;
        self.code.functions.push(Function { file, line, name, lines, parameters });
    }

    /// The functions in a macro's body: from each `fn` to the braces after it. Their parameters may be the macro's.
    fn macro_functions(&mut self, tokens: &TokenStream) {
        let mut start = None;
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(ident) if ident == "fn" => start = Some(ident.span()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    if let Some(start) = start.take() {
                        self.function_lines("a function in a macro".to_owned(), start, group.span_close(), 0);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Visits items that may be compiled for tests only, which are skipped.
macro_rules! pass_over_tests {
    ($($visit:ident: $node:ident),* $(,)?) => {$(
        fn $visit(&mut self, node: &'ast syn::$node) {
            if !is_for_tests(&node.attrs) {
                visit::$visit(self, node);
            }
        }
    )*};
}

impl<'ast> Visit<'ast> for Reader<'_> {
    pass_over_tests! {
        visit_item_const: ItemConst, visit_item_enum: ItemEnum, visit_item_impl: ItemImpl,
        visit_item_macro: ItemMacro, visit_item_static: ItemStatic, visit_item_struct: ItemStruct,
        visit_item_trait: ItemTrait, visit_item_type: ItemType, visit_item_union: ItemUnion,
        visit_impl_item_const: ImplItemConst, visit_impl_item_type: ImplItemType,
        visit_trait_item_const: TraitItemConst, visit_trait_item_type: TraitItemType,
        visit_field: Field, visit_variant: Variant, visit_arm: Arm, visit_local: Local,
        visit_field_value: FieldValue, visit_expr_block: ExprBlock, visit_stmt_macro: StmtMacro,
    }

    fn visit_file(&mut self, file: &'ast syn::File) {
        if !is_for_tests(&file.attrs) {
            self.scope();
            visit::visit_file(self, file);
        }
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let name = match item {
            Item::Const(ItemConst { ident, .. })
            | Item::Enum(ItemEnum { ident, .. })
            | Item::Static(ItemStatic { ident, .. })
            | Item::Struct(ItemStruct { ident, .. })
            | Item::Trait(ItemTrait { ident, .. })
            | Item::Type(ItemType { ident, .. })
            | Item::Union(ItemUnion { ident, .. }) => Some(ident),
            Item::Fn(function) => Some(&function.sig.ident),
            _ => None,
        };
        self.scope().items.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        let mut module = self.module.clone();
        module.push(item.ident.unraw().to_string());
        let Some((_, items)) = &item.content else {
            let path = module[1..].join("/");
            let files = [format!("{path}.rs"), format!("{path}/mod.rs")];
            let file = files.iter().find(|&file| self.sources.contains_key(file));
            let file = file.unwrap_or_else(|| panic!("{} declares {path}: none of {files:?}", self.file));
            return read_file(file, module, self.sources, self.code);
        };
        let mut inner = Reader { file: self.file, module, sources: self.sources, code: self.code };
        inner.scope();
        items.iter().for_each(|item| inner.visit_item(item));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) && item.leading_colon.is_none() {
            self.import(&item.tree, Vec::new(), !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, item.block.brace_token.span.close());
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.function(&item.sig, item.block.brace_token.span.close());
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if !is_for_tests(&item.attrs) {
            let semicolon = item.semi_token.as_ref().map(|token| token.span);
            let end = item.default.as_ref().map(|block| block.brace_token.span.close()).or(semicolon);
            self.function(&item.sig, end.expect("a block or a semicolon"));
            visit::visit_trait_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    /// A constant in a pattern looks like a binding.
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.path(vec![pattern.ident.to_string()]);
        visit::visit_pat_ident(self, pattern);
    }

    /// The body of a macro: its paths are identifiers with `::` between them.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.macro_functions(tokens);
        let (mut path, mut between) = (Vec::new(), String::new());
        for token in tokens.clone() {
            match token {
                TokenTree::Ident(ident) => {
                    let goes_on = between == "::" && !path.is_empty();
                    if !goes_on {
                        self.path(std::mem::take(&mut path));
                    }
                    let is_field = between.ends_with('.') && !between.ends_with("..");
                    if goes_on || !is_field && !between.ends_with("::") {
                        path.push(ident.to_string());
                    }
                    between.clear();
                }
                TokenTree::Punct(punct) => between.push(punct.as_char()),
                TokenTree::Group(group) => {
                    between.push(' ');
                    self.visit_token_stream(&group.stream());
                }
                TokenTree::Literal(_) => between.push(' '),
            }
        }
        self.path(path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let cfg = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    cfg.flat_map(Attribute::parse_args).any(|predicate| needs_test(&predicate))
}

fn needs_test(predicate: &Meta) -> bool {
    match predicate {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|all| all.iter().any(needs_test)),
        _ => false,
    }
}
