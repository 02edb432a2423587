//! The rules for the source: no circles among files, layers that use only the layers below, and limits on the length of
//! files, functions and lines.
//!
//! A circle is a cycle of uses of names. Files that implement one type call each other's methods, which are not names;
//! functions of tests may be as long as their tables.

use std::{collections::BTreeSet, fs, path::Path};

use code::{Code, Sources};
use names::Uses;

#[path = "house/cases.rs"]
mod cases;
#[path = "house/code.rs"]
mod code;
#[path = "house/lines.rs"]
mod lines;
#[path = "house/names.rs"]
mod names;

const FILE_LINES_MAX: usize = 500;
/// From the line of `fn` to that of the closing brace.
const FUNCTION_LINES_MAX: usize = 60;
/// Without `self`.
const PARAMETERS_MAX: usize = 5;

/// The layers, from the lowest up.
const ROOMS: [&str; 3] = ["http1", "proxy", "net"];

/// The text of every file in a folder of the project.
fn sources(root: &str) -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut sources = Sources::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).expect("below the root").to_str().expect("a name in UTF-8");
            sources.insert(name.to_owned(), fs::read_to_string(&path).expect("a text"));
        }
    }
    sources
}

fn assert_no_circle(root: &str) {
    let uses = Uses::of(&Code::read(&sources(root)));
    assert!(!uses.0.is_empty(), "no file of {root} takes a name from another");
    let ties = |circle: BTreeSet<&str>| uses.lines(|file| circle.contains(file)).join("\n");
    let circles: Vec<String> = uses.circles().into_iter().map(ties).collect();
    assert!(circles.is_empty(), "circles in {root}:\n{}", circles.join("\n\n"));
}

#[test]
fn src_has_no_circular_dependencies() {
    assert_no_circle("src");
}

#[test]
fn the_bench_has_no_circular_dependencies() {
    assert_no_circle("benches/side_by_side");
}

#[test]
fn layers_use_only_layers_below() {
    let floor = |file: &str| {
        let room = file.split(['/', '.']).next();
        ROOMS.iter().position(|&name| Some(name) == room)
    };
    let mut checked = BTreeSet::new();
    for (from, targets) in Uses::of(&Code::read(&sources("src"))).0 {
        let Some(own) = floor(&from) else { continue };
        for (to, names) in targets {
            assert!(floor(&to).is_some_and(|other| other <= own), "{from} takes {names:?} from {to}");
        }
        checked.insert(ROOMS[own]);
    }
    assert_eq!(checked, BTreeSet::from(ROOMS), "a room takes no names at all");
}

#[test]
fn files_and_functions_are_within_the_limits() {
    let sources = sources("src");
    let functions = Code::read(&sources).functions;
    assert!(!functions.is_empty(), "src has no function");
    let mut broken = Vec::new();
    for (file, text) in &sources {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("src/{file} has {lines} lines, of at most {FILE_LINES_MAX}"));
        }
    }
    for function in functions {
        let code::Function { file, line, name, lines, parameters } = function;
        if lines > FUNCTION_LINES_MAX {
            broken.push(format!(
                "src/{file}:{line}: {name} has {lines} lines, of at most {FUNCTION_LINES_MAX}"
            ));
        }
        if parameters > PARAMETERS_MAX {
            broken.push(format!(
                "src/{file}:{line}: {name} has {parameters} parameters, of at most {PARAMETERS_MAX}"
            ));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_line_is_wider_than_120_columns() {
    let mut found = Vec::new();
    lines::check(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert!(found.is_empty(), "{} lines are too wide:\n{}", found.len(), found.join("\n"));
}
