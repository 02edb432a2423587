//! The rules of the house: no circle among files, rooms that know only what is further down, files and functions that a
//! reader can take in.
//!
//! A circle is one of names: a file that takes a name from another, which leads back to it. Declaring a module takes no
//! name, nor does a link in a comment, nor what only tests take.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The most lines of a file, and of a function from its `fn` to its closing brace.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 60;
/// The most parameters of a function, without `self`.
const PARAMETERS_MAX: usize = 5;

/// A module path, such as `proxy::pool`, and the text of its file.
type Sources = BTreeMap<String, String>;
/// Which names each module takes from which others.
type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn sources(root: &Path) -> Sources {
    let mut sources = Sources::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a text");
                sources.insert(module(path.strip_prefix(root).expect("below the root")), code(&text));
            }
        }
    }
    sources
}

/// The module of a file: `net/transport/mod.rs` is `net::transport`.
fn module(path: &Path) -> String {
    let path: PathBuf = path.with_extension("");
    let mut parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.pop_if(|last| last == "mod");
    parts.join("::")
}

/// A text without comments, what stands in quotes, and modules of tests. Lines stay where they are.
fn code(text: &str) -> String {
    let tests = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(super) mod tests"];
    let text = tests.iter().fold(text, |text, start| text.split(start).next().unwrap_or_default());
    let mut code = String::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some(at) = rest.find(['"', '/']) {
            code.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("//") {
                rest = "";
            } else if let Some(quoted) = rest.strip_prefix('"') {
                let ends = |&(at, byte): &(usize, char)| byte == '"' && !quoted[..at].ends_with('\\');
                let end = quoted.char_indices().find(ends).map(|(at, _)| at);
                rest = end.map_or("", |end| &quoted[end + 1..]);
                code.push_str("\"\"");
            } else {
                code.push('/');
                rest = &rest[1..];
            }
        }
        code.push_str(rest);
        code.push('\n');
    }
    code
}

/// Every path in a text, whole: those of `use` trees with what stands before their braces.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split("use ").skip(1) {
        let tree: String = statement.split(';').next().unwrap_or_default().split_whitespace().collect();
        if tree.starts_with(['c', 's', 'p']) {
            expand("", &tree, &mut paths);
        }
    }
    let word = |byte: char| byte.is_alphanumeric() || byte == '_' || byte == ':';
    let inline = code.split(|byte: char| !word(byte)).filter(|path| path.contains("::"));
    paths.extend(inline.map(str::to_owned));
    paths
}

fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, list)) = tree.split_once('{') else {
        return paths.push(format!("{before}{tree}").trim_end_matches("::self").to_owned());
    };
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in list.char_indices() {
        match byte {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                if start < at {
                    expand(&format!("{before}{head}"), &list[start..at], paths);
                }
                start = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// Where a path leads that stands in this module: to another module, by this name.
fn resolve(path: &str, module: &str, sources: &Sources) -> Option<(String, String)> {
    let mut at: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match parts.peek()? {
        &"crate" | &"psystrike" => {
            at.clear();
            parts.next();
        }
        &"self" => drop(parts.next()),
        &"super" => {
            while parts.next_if_eq(&"super").is_some() {
                at.pop()?;
            }
        }
        _ => return None,
    }
    let mut name = String::new();
    for part in parts {
        let next = at.iter().copied().chain([part]).collect::<Vec<_>>().join("::");
        if name.is_empty() && sources.contains_key(&next) {
            at.push(part);
        } else {
            name = part.to_owned();
            break;
        }
    }
    let target = at.join("::");
    if target == module || !sources.contains_key(&target) {
        return None;
    }
    if name.is_empty() {
        return Some((target, "self".to_owned())); // what is taken from it stands behind its name
    }
    Some(re_exported(&target, &name, sources).unwrap_or((target, name)))
        .filter(|(target, _)| target != module)
}

/// Where a module has a name from, if it passes it on by `pub use self::`.
fn re_exported(module: &str, name: &str, sources: &Sources) -> Option<(String, String)> {
    let code = sources.get(module)?;
    let statements = code.split("pub use self::").skip(1);
    let mut paths = Vec::new();
    for statement in statements {
        let tree: String = statement.split(';').next()?.split_whitespace().collect();
        expand("self::", &tree, &mut paths);
    }
    let path = paths.iter().find(|path| path.rsplit("::").next() == Some(name))?;
    let (child, name) = path.strip_prefix("self::")?.rsplit_once("::")?;
    Some((format!("{module}::{child}"), name.to_owned()))
}

fn uses(sources: &Sources) -> Uses {
    let mut uses = Uses::new();
    for (module, code) in sources {
        let mut path_of = uses.remove(module).unwrap_or_default();
        // What a module passes on is no use of its own.
        let own = code.replace("pub use self::", "pub use passed_on::");
        for (target, name) in paths(&own).iter().filter_map(|path| resolve(path, module, sources)) {
            path_of.entry(target).or_default().insert(name);
        }
        uses.insert(module.clone(), path_of);
    }
    uses
}

/// The circles: each as the modules in it, with the names that tie them.
fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let reach = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&str> = vec![from];
        while let Some(module) = next.pop() {
            for target in uses.get(module).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(target.clone()) {
                    next.push(target);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|from| (from, reach(from))).collect();
    let mut circles = BTreeSet::new();
    for (from, all) in &reached {
        if all.contains(*from) {
            let tied = all.iter().filter(|to| reached.get(to).is_some_and(|back| back.contains(*from)));
            circles.insert(tied.cloned().collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

fn assert_no_circle(root: &str) {
    let uses = uses(&sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root)));
    assert!(uses.values().any(|targets| !targets.is_empty()), "no file of {root} takes a name from another");
    let ties = |circle: Vec<String>| -> String {
        let from_to = circle.iter().flat_map(|from| {
            let to = uses[from].iter().filter(|(to, _)| circle.contains(to));
            to.map(move |(to, names)| format!("{from} -> {to}: {names:?}\n"))
        });
        from_to.collect()
    };
    let circles: Vec<String> = circles(&uses).into_iter().map(ties).collect();
    assert!(circles.is_empty(), "circles in {root}:\n{}", circles.join("\n"));
}

#[test]
fn no_file_of_src_takes_names_in_a_circle() {
    assert_no_circle("src");
}

#[test]
fn no_file_of_the_bench_takes_names_in_a_circle() {
    assert_no_circle("benches/side_by_side");
}

#[test]
fn rooms_know_only_what_is_further_down() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for (module, targets) in uses(&sources) {
        let below: &[&str] = match module.split("::").next() {
            Some("http1") => &["http1"],
            Some("proxy") => &["proxy", "http1"],
            Some("net") => &["net", "proxy", "http1"],
            _ => continue,
        };
        for (target, names) in targets {
            let room = target.split("::").next().unwrap_or_default();
            assert!(below.contains(&room), "{module} takes {names:?} from {target}");
        }
    }
}

/// The functions of a text: the line of their `fn`, how many lines they have, and how many parameters.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    let lines: Vec<&str> = code.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let before = line.split("fn ").next().unwrap_or_default();
        let declares = line.contains("fn ")
            && before
                .trim_start()
                .chars()
                .all(|c| !"=|(,\"".contains(c) || c == '(' && before.contains("pub("));
        if !declares || !line.contains('(') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        let end =
            (at..lines.len()).find(|&end| lines[end] == closing || (end == at && line.ends_with(['}', ';'])));
        let Some(end) = end else { continue };
        let text = lines[at..=end].join(" ");
        let from = text.find("fn ").unwrap_or_default();
        functions.push((line.trim().to_owned(), end - at + 1, parameters(&text[from..])));
    }
    functions
}

/// How many parameters a function has, without `self`.
fn parameters(text: &str) -> usize {
    let Some((_, list)) = text.split_once('(') else { return 0 };
    let (mut depth, mut parameters, mut current) = (0, Vec::new(), String::new());
    for byte in list.chars() {
        match byte {
            ')' if depth == 0 => break,
            ',' if depth == 0 => parameters.push(std::mem::take(&mut current)),
            _ => {
                depth += i32::from("(<[{".contains(byte)) - i32::from(")>]}".contains(byte));
                current.push(byte);
            }
        }
    }
    parameters.push(current);
    let is_self = |text: &str| {
        text.split(':')
            .next()
            .is_some_and(|name| name.split_whitespace().last() == Some("self") || name.trim() == "&self")
    };
    parameters.iter().filter(|text| !text.trim().is_empty() && !is_self(text)).count()
}

#[test]
fn files_and_functions_are_no_longer_than_a_reader_can_take_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut long = Vec::new();
    for (module, code) in sources(&root) {
        for (name, lines, parameters) in functions(&code) {
            if lines > FUNCTION_LINES_MAX || parameters > PARAMETERS_MAX {
                long.push(format!("{module}: {name} has {lines} lines and {parameters} parameters"));
            }
        }
    }
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let lines = fs::read_to_string(&path).expect("a text").lines().count();
            if lines > FILE_LINES_MAX {
                long.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn a_circle_is_found_however_it_is_tied() {
    // The files, and the modules in a circle.
    for (files, expected) in [
        (&[("a", "use crate::b::B;"), ("b", "use crate::c::C;"), ("c", "")][..], &[][..]),
        (&[("a", "use crate::b::B;"), ("b", "use crate::a::{self, A};")], &["a", "b"]),
        (&[("a", "use super::b::B;"), ("b", "fn f() -> super::a::A {}")], &["a", "b"]),
        (&[("a", "use super::b;"), ("b", "use crate::a::A;")], &["a", "b"]),
        (
            &[("a", "use crate::{b::{B, D}, d};"), ("b", "use crate::c::C;"), ("c", "use super::a::A;")],
            &["a", "b", "c"],
        ),
        (&[("a", "use crate::b::B;"), ("b", "// use crate::a::A;\nconst B: &str = \"crate::a::A\";")], &[]),
        (&[("a", "use crate::b::B;"), ("b", "#[cfg(test)]\nmod tests {\n use crate::a::A;\n}")], &[]),
        (&[("a", "pub mod c;"), ("a::c", "use super::b::B;"), ("a::b", "")], &[]),
        (
            &[("a", "mod c;\npub use self::c::C;"), ("a::c", "use crate::b::B;"), ("b", "use crate::a::C;")],
            &["a::c", "b"],
        ),
        (&[("a", "mod c;\nuse self::c::C;\nstruct A;"), ("a::c", "use super::A;")], &["a", "a::c"]),
    ] {
        let sources = files.iter().map(|(module, text)| ((*module).to_owned(), code(text))).collect();
        let expected: Vec<Vec<String>> = if expected.is_empty() {
            Vec::new()
        } else {
            vec![expected.iter().map(|&it| it.to_owned()).collect()]
        };
        assert_eq!(circles(&uses(&sources)), expected, "{files:?}");
    }
}

#[test]
fn lines_and_parameters_are_counted() {
    let text = "impl A {\n    pub(super) fn f(\n        mut self: Box<Self>,\n        a: &[(u8, u8)],\n        b: impl Fn(u8, u8) -> T,\n    ) {\n        g();\n    }\n\n    fn h(&self) {}\n}\n";
    let found = functions(&code(text));
    assert_eq!(
        found.iter().map(|(_, lines, parameters)| (*lines, *parameters)).collect::<Vec<_>>(),
        [(7, 2), (1, 0)]
    );
}
