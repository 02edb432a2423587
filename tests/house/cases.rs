//! Tests of the checks themselves, on small sources.

use std::collections::BTreeSet;

use super::{
    code::{Code, Sources},
    lines::too_wide,
    names::Uses,
};

/// The line of a function, how many lines it has, and how many parameters.
type Counted = (usize, usize, usize);

/// Files, and the names that they use from each other. If there is no `lib.rs`, one is added that declares them.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

fn sources(files: &[(&str, &str)]) -> Sources {
    let mut sources: Sources = files.iter().map(|&(file, text)| (file.to_owned(), text.to_owned())).collect();
    if !sources.contains_key("lib.rs") {
        let modules: BTreeSet<_> = sources.keys().filter_map(|file| file.split(['/', '.']).next()).collect();
        let library = modules.iter().map(|module| format!("mod {module};")).collect();
        sources.insert("lib.rs".to_owned(), library);
    }
    sources
}

fn assert_uses(cases: &[Case]) {
    for (files, expected) in cases {
        let uses = Uses::of(&Code::read(&sources(files)));
        assert_eq!(uses.lines(|_| true), *expected, "{files:?}");
    }
}

#[test]
fn names_are_used_by_imports_and_by_paths() {
    assert_uses(&[
        (&[("a.rs", "use crate::b::B;"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "use super::b;"), ("b.rs", "")], &["a.rs -> b.rs: self"]),
        (&[("a.rs", "fn f() -> super::b::B {}"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (
            &[("a.rs", "use crate::{b::{self, B, D}, c};"), ("b.rs", ""), ("c.rs", "")],
            &["a.rs -> b.rs: B, D, self", "a.rs -> c.rs: self"],
        ),
        (&[("a.rs", "use crate::b::{B as D, E as _};"), ("b.rs", "")], &["a.rs -> b.rs: B, E"]),
        (&[("a.rs", "fn f() { use crate::b::B; }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "use crate::b::*;"), ("b.rs", "pub struct B;")], &["a.rs -> b.rs: *"]),
        // In an item, a pattern, an expression, a generic argument.
        (&[("a.rs", "enum A { B(Box<crate::b::B>) }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "fn f() { let crate::b::B { .. } = g(); }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "fn f() { g::<crate::b::B>(super::b::C::D) }"), ("b.rs", "")], &["a.rs -> b.rs: B, C"]),
        (&[("a.rs", "impl A { fn f(b: crate::b::B) {} }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "trait T { fn f(b: crate::b::B); }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        // Through an imported module.
        (
            &[("a.rs", "use crate::m; fn f(a: m::b::B) {}"), ("m/mod.rs", "mod b;"), ("m/b.rs", "")],
            &["a.rs -> m/b.rs: B", "a.rs -> m/mod.rs: self"],
        ),
        (
            &[("a.rs", "use super::m as n; use n::b::B;"), ("m/mod.rs", "mod b;"), ("m/b.rs", "")],
            &["a.rs -> m/b.rs: B", "a.rs -> m/mod.rs: self"],
        ),
        (
            &[("a.rs", "use crate::m::{self}; fn f(a: m::b::B) {}"), ("m/mod.rs", "mod b;"), ("m/b.rs", "")],
            &["a.rs -> m/b.rs: B", "a.rs -> m/mod.rs: self"],
        ),
        (
            &[
                ("a.rs", "use crate::m::{self as n}; fn f(a: n::b::B) {}"),
                ("m/mod.rs", "mod b;"),
                ("m/b.rs", ""),
            ],
            &["a.rs -> m/b.rs: B", "a.rs -> m/mod.rs: self"],
        ),
        // Through an imported enum.
        (
            &[("a.rs", "use crate::b::E::*; fn f() { C }"), ("b.rs", "enum E { C } struct C;")],
            &["a.rs -> b.rs: E"],
        ),
        // A module with the name of this crate.
        (&[("a.rs", "fn f() { crate::b::psystrike() }"), ("b.rs", "")], &["a.rs -> b.rs: psystrike"]),
        // Names of other crates, although a file or an item here has the same name.
        (&[("lib.rs", "mod b; use ::b::B; fn f() { ::b::g(); m!(::b::g()); }"), ("b.rs", "")], &[]),
        (
            &[
                ("a.rs", "use std::fmt::{self, Debug}; use log::{self, b}; fn b(b: fmt::B) { b }"),
                ("b.rs", ""),
            ],
            &[],
        ),
    ]);
}

#[test]
fn names_are_used_in_macros() {
    assert_uses(&[
        (
            &[("a.rs", "fn f() { assert!(!matches!(g(), crate::b::B { c: [..] })) }"), ("b.rs", "")],
            &["a.rs -> b.rs: B"],
        ),
        (
            &[
                ("a.rs", "macro_rules! m { ($x:ident) => { $crate::b::B::$x(super::c::C) } }"),
                ("b.rs", ""),
                ("c.rs", ""),
            ],
            &["a.rs -> b.rs: B", "a.rs -> c.rs: C"],
        ),
        (
            &[
                ("a.rs", "use super::m; m! { x.m::c m::c::<m::b::B>::m::c }"),
                ("m/mod.rs", "mod b;"),
                ("m/b.rs", ""),
            ],
            &["a.rs -> m/b.rs: B", "a.rs -> m/mod.rs: c, self"],
        ),
        (
            &[("a/mod.rs", "mod c; pub use self::c::{C, f}; fn g() { m!(0..C, x.f()) }"), ("a/c.rs", "")],
            &["a/mod.rs -> a/c.rs: C"],
        ),
    ]);
}

#[test]
fn names_of_child_modules_need_no_self() {
    assert_uses(&[
        (
            &[("a/mod.rs", "mod c; use c::C;"), ("a/c.rs", "use super::A;")],
            &["a/c.rs -> a/mod.rs: A", "a/mod.rs -> a/c.rs: C"],
        ),
        (&[("a.rs", "mod c; fn f(c: c::C) {}"), ("a/c.rs", "")], &["a.rs -> a/c.rs: C"]),
        (&[("a.rs", "mod c; use self::c::C;"), ("a/c.rs", "")], &["a.rs -> a/c.rs: C"]),
        // Declaring a module uses no name, nor does a variable with the same name.
        (
            &[("a.rs", "pub mod c; fn f() { let c = 1; g(c) }"), ("a/c.rs", "use super::A;")],
            &["a/c.rs -> a.rs: A"],
        ),
    ]);
}

#[test]
fn reexported_names_count_where_they_are_declared() {
    assert_uses(&[
        (
            &[
                ("a/mod.rs", "mod c; pub use self::{c::C};"),
                ("a/c.rs", "use crate::b::B;"),
                ("b.rs", "use crate::a::C;"),
            ],
            &["a/c.rs -> b.rs: B", "b.rs -> a/c.rs: C"],
        ),
        (
            &[("a/mod.rs", "mod c; pub use c::C;"), ("a/c.rs", ""), ("b.rs", "use crate::a::C;")],
            &["b.rs -> a/c.rs: C"],
        ),
        (
            &[
                ("a/mod.rs", "mod c; pub(crate) use c::C as D;"),
                ("a/c.rs", ""),
                ("b.rs", "type B = super::a::D;"),
            ],
            &["b.rs -> a/c.rs: C"],
        ),
        (
            &[
                ("a/mod.rs", "mod c; pub use c::*; struct A;"),
                ("a/c.rs", "pub struct C; pub fn f() {}"),
                ("b.rs", "use crate::a::{A, C, f};"),
            ],
            &["b.rs -> a/c.rs: C, f", "b.rs -> a/mod.rs: A"],
        ),
        (
            &[
                ("a/mod.rs", "mod c; pub use c::*; struct C;"),
                ("a/c.rs", "struct C;"),
                ("b.rs", "use crate::a::C;"),
            ],
            &["b.rs -> a/mod.rs: C"],
        ),
        // More than once.
        (
            &[
                ("a/mod.rs", "mod c; pub use c::E;"),
                ("a/c/mod.rs", "mod d; pub use self::d::D as E;"),
                ("a/c/d.rs", ""),
                ("b.rs", "use crate::a::E;"),
            ],
            &["b.rs -> a/c/d.rs: D"],
        ),
        (
            &[("a.rs", "pub use crate::b::*;"), ("b.rs", "pub use crate::a::*; use crate::a::C;")],
            &["a.rs -> b.rs: *", "b.rs -> a.rs: *, C"],
        ),
        // Re-exported by a file that uses them too.
        (
            &[("a/mod.rs", "mod c; pub use self::{c::C}; enum A { C(C) }"), ("a/c.rs", "use super::A;")],
            &["a/c.rs -> a/mod.rs: A", "a/mod.rs -> a/c.rs: C"],
        ),
        (
            &[("a/mod.rs", "mod c; pub use c::C; fn f() { match g() { C => {} } }"), ("a/c.rs", "")],
            &["a/mod.rs -> a/c.rs: C"],
        ),
        // Re-exported by a file that is not their parent.
        (&[("a.rs", "pub use crate::b::B;"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
    ]);
}

#[test]
fn crate_roots_are_files_like_others() {
    assert_uses(&[
        (
            &[("lib.rs", "mod a; use a::A; struct X;"), ("a.rs", "use crate::X;")],
            &["a.rs -> lib.rs: X", "lib.rs -> a.rs: A"],
        ),
        (
            &[
                ("lib.rs", "pub mod a;"),
                ("a.rs", ""),
                ("main.rs", "use psystrike::{X, a::A}; struct M; use crate::M as N;"),
            ],
            &["main.rs -> a.rs: A", "main.rs -> lib.rs: X"],
        ),
        (
            &[("lib.rs", ""), ("build.rs", "mod c; fn main() { c::f(); }"), ("c.rs", "")],
            &["build.rs -> c.rs: f"],
        ),
    ]);
}

#[test]
fn text_and_visibility_use_no_names() {
    assert_uses(&[
        (
            &[
                ("a.rs", "// use crate::b::B;\n/* use crate::b::B;\n */ /// [`crate::b::B`]\nstruct A;"),
                ("b.rs", ""),
            ],
            &[],
        ),
        (&[("a.rs", "const A: &str = \"\\\\\"; const C: &str = \" crate::b::B \";"), ("b.rs", "")], &[]),
        (&[("a.rs", "const A: &str = \"\n crate::b::B\n\";"), ("b.rs", "")], &[]),
        (&[("a.rs", "const A: &str = r#\"\" crate::b::B \"\"#;"), ("b.rs", "")], &[]),
        (&[("a.rs", "const A: char = '\"'; const C: &str = \" crate::b::B \";"), ("b.rs", "")], &[]),
        (&[("a.rs", "const A: char = '\"'; use crate::b::B;"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a.rs", "const A: &str = \"//\"; use crate::b::B;"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (&[("a/mod.rs", "mod c;"), ("a/c.rs", "pub(super) struct C; pub(in crate::a) struct D;")], &[]),
    ]);
}

#[test]
fn names_used_only_by_tests_do_not_count() {
    for text in [
        "#[cfg(test)]\nmod tests {\n use crate::b::B;\n}",
        "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::b::B; }",
        "#[allow(unused)] #[cfg(all(unix, test))] mod tests { use crate::b::B; }",
        "#![cfg(test)] use crate::b::B;",
        "#[cfg(test)] use crate::b::B;",
        "#[cfg(test)] const A: crate::b::B = A;",
        "#[cfg(test)] enum A { B(crate::b::B) }",
        "#[cfg(test)] fn f() -> crate::b::B {}",
        "#[cfg(test)] impl A { fn f() -> crate::b::B {} }",
        "#[cfg(test)] m! { crate::b::B }",
        "#[cfg(test)] static A: crate::b::B = A;",
        "#[cfg(test)] struct A(crate::b::B);",
        "#[cfg(test)] trait T: crate::b::B {}",
        "#[cfg(test)] type A = crate::b::B;",
        "#[cfg(test)] union A { b: crate::b::B }",
        "impl A { #[cfg(test)] fn f() -> crate::b::B {} }",
        "impl A { #[cfg(test)] const A: crate::b::B = A; }",
        "impl A for B { #[cfg(test)] type A = crate::b::B; }",
        "trait T { #[cfg(test)] fn f() -> crate::b::B {} }",
        "trait T { #[cfg(test)] const A: crate::b::B; }",
        "trait T { #[cfg(test)] type A: crate::b::B; }",
        "struct A { #[cfg(test)] b: crate::b::B }",
        "enum A { #[cfg(test)] B(crate::b::B) }",
        "fn f() { A { #[cfg(test)] b: crate::b::B } }",
        "fn f() { match g() { #[cfg(test)] A => crate::b::B } }",
        "fn f() { #[cfg(test)] let b = crate::b::B; }",
        "fn f() { #[cfg(test)] { crate::b::f() } }",
        "fn f() { #[cfg(test)] assert!(crate::b::B); }",
    ] {
        assert_uses(&[(&[("a.rs", text), ("b.rs", "")], &[])]);
    }
    assert_uses(&[
        (
            &[
                ("a.rs", "#[cfg(test)] mod c;"),
                ("a/c.rs", "mod d;"),
                ("a/c/d.rs", "use crate::b::B;"),
                ("b.rs", ""),
            ],
            &[],
        ),
        (
            &[("a.rs", "#[cfg(test)]\nmod tests {\n}\n#[cfg(not(test))] use crate::b::B;"), ("b.rs", "")],
            &["a.rs -> b.rs: B"],
        ),
        (&[("a.rs", "#[cfg(any(test, unix))] use crate::b::B;"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
    ]);
}

#[test]
fn inline_modules_belong_to_their_file() {
    assert_uses(&[
        (&[("a.rs", "mod m { use super::A; } use m::M; fn f(m: crate::a::m::M) {}")], &[]),
        (&[("a.rs", "mod m { use super::super::b::B; }"), ("b.rs", "")], &["a.rs -> b.rs: B"]),
        (
            &[("a.rs", "mod m { pub mod c; }"), ("a/m/c.rs", "use super::M; use super::super::A;")],
            &["a/m/c.rs -> a.rs: A, M"],
        ),
        (&[("a.rs", "pub mod m {}"), ("b.rs", "use crate::a::m::M;")], &["b.rs -> a.rs: M"]),
    ]);
}

#[test]
fn circles_are_the_files_that_lead_to_each_other() {
    let [a, b, c, d] = ["use crate::a;", "use crate::b;", "use crate::c;", "use crate::d;"];
    let cases: [(_, &[&[&str]]); 5] = [
        ([("a.rs", b), ("b.rs", c), ("c.rs", d), ("d.rs", "")], &[]),
        ([("a.rs", b), ("b.rs", a), ("c.rs", a), ("d.rs", "")], &[&["a.rs", "b.rs"]]),
        ([("a.rs", b), ("b.rs", c), ("c.rs", d), ("d.rs", b)], &[&["b.rs", "c.rs", "d.rs"]]),
        ([("a.rs", b), ("b.rs", a), ("c.rs", d), ("d.rs", c)], &[&["a.rs", "b.rs"], &["c.rs", "d.rs"]]),
        (
            [("a.rs", b), ("b.rs", a), ("c.rs", d), ("d.rs", "use crate::{b, c};")],
            &[&["a.rs", "b.rs"], &["c.rs", "d.rs"]],
        ),
    ];
    for (files, expected) in cases {
        let uses = Uses::of(&Code::read(&sources(&files)));
        let expected: BTreeSet<BTreeSet<&str>> =
            expected.iter().map(|circle| circle.iter().copied().collect()).collect();
        assert_eq!(uses.circles(), expected, "{files:?}");
    }
}

#[test]
fn lines_and_parameters_are_counted() {
    let cases: [(&str, &[Counted]); 10] = [
        ("/// f\nfn f(\n    a: &[(u8, u8)],\n) {\n    g();\n}\n\nfn g() {}", &[(2, 5, 1), (8, 1, 0)]),
        ("fn f(f: impl Fn(u8, u8) -> u8, g: fn(u8) -> u8, h: u8) {}", &[(1, 1, 3)]),
        ("fn f<F: Fn(u8, u8, u8)>(f: F) -> (u8, u8) where F: Fn(u8) {}", &[(1, 1, 1)]),
        ("impl A { fn f(&self) {} fn g(mut self: Box<Self>, a: u8) {} }", &[(1, 1, 0), (1, 1, 1)]),
        (
            "impl A { fn f(&'a mut self) {} fn g(self: &Self) {} fn h(self) {} }",
            &[(1, 1, 0), (1, 1, 0), (1, 1, 0)],
        ),
        ("trait T { fn f(\n&self,\na: u8); fn g(a: u8) {\n} }", &[(1, 3, 1), (3, 2, 1)]),
        ("fn f() {\n  fn g(a: u8) {\n  }\n}", &[(1, 4, 0), (2, 2, 1)]),
        ("const A: &str = \"\nfn f() {\n\";\nfn g() {\n  \"\n}\n\"; }", &[(4, 4, 0)]),
        ("macro_rules! m { () => { fn f(a: u8) {\n } } }", &[(1, 2, 0)]),
        ("#[cfg(test)]\nmod tests { fn f() {} }\nfn g() {}\n#[cfg(test)]\nfn h() {}", &[(3, 1, 0)]),
    ];
    for (text, expected) in cases {
        let functions = Code::read(&sources(&[("lib.rs", text)])).functions;
        let counted: Vec<_> = functions.iter().map(|it| (it.line, it.lines, it.parameters)).collect();
        assert_eq!(counted, expected, "{text}");
    }
}

#[test]
fn wide_lines_are_found_unless_they_cannot_be_wrapped() {
    let (word, long) = ("é".repeat(60), "é".repeat(121));
    for (text, expected) in [
        (format!("{word} {}", &word[2..]), &[][..]),
        (format!("a\n{word} {word}\n// {word} {word}"), &[2, 3]),
        (format!("| {word} | {word} |"), &[]),
        (format!("see {long}"), &[]),
        (format!("    {}: a", &long[..2 * 117]), &[]),
        (format!("    {} a bc", &long[..2 * 115]), &[1]),
        (format!("# Generated from a\n{word} {word}"), &[]),
    ] {
        assert_eq!(too_wide(&text), expected, "{text}");
    }
}
