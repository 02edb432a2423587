//! Lines that are wider than a reader's window.

use std::{ffi::OsStr, fs, path::Path};

const COLUMNS_MAX: usize = 120;

/// The files that are checked, besides the scripts in `.ci`.
const EXTENSIONS: [&str; 7] = ["rs", "yml", "yaml", "sh", "md", "toml", "py"];
/// Build results, test data, and Japanese, which has no spaces at which to wrap it.
const SKIPPED: [&str; 5] = ["target", ".git", "corpus", "psystrike.rules.test.yml", "README.ja.md"];

/// Returns the numbers of the lines that are too wide. A table of Markdown has no other form, and a word (a URL, a
/// regular expression) that fills more than a line cannot be wrapped.
pub(crate) fn too_wide(text: &str) -> Vec<usize> {
    let is_generated = text.lines().take(3).any(|line| line.contains("Generated from"));
    let is_too_wide = |line: &&str| {
        let columns = |text: &str| text.chars().count();
        let indentation = columns(line) - columns(line.trim_start());
        let fits = |word: &str| indentation + columns(word) <= COLUMNS_MAX;
        columns(line) > COLUMNS_MAX
            && !line.trim_start().starts_with('|')
            && line.split_whitespace().all(fits)
    };
    let wide = text.lines().enumerate().filter(|(_, line)| !is_generated && is_too_wide(line));
    wide.map(|(at, _)| at + 1).collect()
}

/// Checks every file in a folder, and appends the lines that are too wide.
pub(crate) fn check(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_script = path.parent().and_then(Path::file_name) == Some(OsStr::new(".ci"));
        let is_checked = path.extension().is_some_and(|known| EXTENSIONS.iter().any(|&it| known == it));
        match path.file_name() {
            Some(name) if SKIPPED.iter().any(|&skipped| name == skipped) => {}
            _ if path.is_dir() => check(&path, found),
            _ if is_script || is_checked => {
                let text = fs::read_to_string(&path).expect("a text");
                found.extend(too_wide(&text).into_iter().map(|line| format!("{}:{line}", path.display())));
            }
            _ => {}
        }
    }
}
