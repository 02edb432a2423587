//! Reads a subset of YAML 1.2: as much as web configuration files use.
//!
//! Owns the grammar. Whatever it accepts, every other YAML parser reads in the same way. The subset:
//!
//! - block mappings, indented with spaces; each key at most once;
//! - lists of texts: block sequences, and flow sequences (`[a, "b"]`) on one line;
//! - plain, single-quoted and double-quoted texts on one line; `|` and `|-` for texts of several lines;
//! - empty values, `~` and `null`, and `{}` for an empty mapping;
//! - comments, and one `---` at the start.
//!
//! Anchors, aliases, tags, merge keys, directives, tabs, folded texts and further documents are refused. All values are
//! texts: nothing is read as a number or a boolean.

use std::fmt;

/// Maximum depth of mappings.
const DEPTH_MAX: usize = 8;
/// Maximum number of keys in a mapping.
const KEYS_MAX: usize = 1024;
/// Maximum length of a key.
const KEY_BYTES_MAX: usize = 256;

/// The first fault of a file. It has no part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of the line, from 1 on.
    pub line: usize,
    /// The fault.
    pub what: String,
}

impl Fault {
    /// Returns a fault. Never inlined: the callers are many, and rarely run.
    #[inline(never)]
    pub(super) fn new(line: usize, what: &str) -> Self {
        Self { line, what: what.to_owned() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// A value. It has no `Debug`, as it may be secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Empty,
    /// A text.
    Text(String),
    /// A list of texts, each with its line.
    List(Vec<(usize, String)>),
    /// A mapping, in its order.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line of the key.
    pub line: usize,
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
}

/// Reads a file, which is a mapping or empty.
///
/// # Errors
/// [`Fault`].
pub fn parse(text: &str) -> Result<Vec<Entry>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let mut reader = Reader { lines, at: 0 };
    reader.check_characters()?;
    if let Some(line) = reader.next_line()
        && line.text.strip_prefix("---").is_some_and(|rest| line.indent == 0 && is_end(rest))
    {
        reader.at += 1;
    }
    let Some(first) = reader.next_line() else { return Ok(Vec::new()) };
    if first.indent > 0 {
        return first.fault("unexpected indentation");
    }
    reader.map(0, 1)
}

struct Reader<'t> {
    lines: Vec<&'t str>,
    /// The index of the next line.
    at: usize,
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy)]
struct Line<'t> {
    number: usize,
    indent: usize,
    /// Without the indentation.
    text: &'t str,
}

impl Line<'_> {
    fn fault<T>(self, what: &str) -> Result<T, Fault> {
        Err(Fault::new(self.number, what))
    }

    /// Returns whether the line begins an item of a list.
    fn is_item(self) -> bool {
        self.text == "-" || self.text.starts_with("- ")
    }
}

impl<'t> Reader<'t> {
    /// Checks that all lines look the same to every parser.
    fn check_characters(&self) -> Result<(), Fault> {
        for (at, line) in self.lines.iter().enumerate() {
            let is_comment = line.trim_ascii_start().starts_with('#');
            let odd = line.chars().find(|&byte| match byte {
                '\t' => !is_comment,
                '\u{2028}' | '\u{2029}' | '\u{feff}' => true,
                _ => byte.is_control(),
            });
            let what = match odd {
                None => continue,
                Some('\t') => "tab; use spaces",
                Some(_) => "control character",
            };
            return Err(Fault::new(at + 1, what));
        }
        Ok(())
    }

    /// Returns the next line that is neither empty nor a comment, without going past it.
    fn next_line(&mut self) -> Option<Line<'t>> {
        while let Some(&line) = self.lines.get(self.at) {
            let text = line.trim_start_matches(' ');
            if !is_end_of_line(text) {
                return Some(Line { number: self.at + 1, indent: line.len() - text.len(), text });
            }
            self.at += 1;
        }
        None
    }

    #[inline(never)]
    fn map(&mut self, indent: usize, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(line) = self.next_line() {
            if line.indent < indent {
                break;
            }
            if line.indent > indent {
                return line.fault("unexpected indentation; a text has to be on one line");
            }
            if depth > DEPTH_MAX || entries.len() == KEYS_MAX {
                return line.fault("too many levels, or too many keys");
            }
            let (key, rest) = key(line)?;
            if entries.iter().any(|known| known.key == key) {
                return line.fault(&(shown(&key) + " is given twice"));
            }
            self.at += 1;
            let value = self.value(line, rest.trim_start_matches(' '), depth)?;
            entries.push(Entry { line: line.number, key, value });
        }
        Ok(entries)
    }

    /// Reads the value after a key on this line. `rest` follows the colon.
    fn value(&mut self, line: Line<'t>, rest: &'t str, depth: usize) -> Result<Value, Fault> {
        if let Some(rest) = rest.strip_prefix('|') {
            return self.block_text(line, rest);
        }
        if let Some(rest) = rest.strip_prefix('[') {
            return flow_list(line, rest);
        }
        if let Some(rest) = rest.strip_prefix('{') {
            return match rest.trim_start_matches(' ').strip_prefix('}') {
                Some(rest) if is_end(rest) => Ok(Value::Map(Vec::new())),
                _ => line.fault("mappings in braces are not supported; write each key on its own line"),
            };
        }
        if !is_end_of_line(rest) {
            let (text, rest) = scalar(line, rest, false)?;
            if !is_end(rest) {
                return line.fault("unexpected characters after the value");
            }
            return Ok(text.map_or(Value::Empty, Value::Text));
        }
        match self.next_line() {
            Some(next) if next.indent >= line.indent && next.is_item() => self.list(next.indent),
            Some(next) if next.indent > line.indent => Ok(Value::Map(self.map(next.indent, depth + 1)?)),
            _ => Ok(Value::Empty),
        }
    }

    #[inline(never)]
    fn list(&mut self, indent: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        while let Some(line) = self.next_line() {
            if line.indent > indent {
                return line.fault("unexpected indentation; a text has to be on one line");
            }
            if line.indent < indent || !line.is_item() {
                break;
            }
            self.at += 1;
            let rest = line.text[1..].trim_start_matches(' ');
            let (Some(text), rest) = scalar(line, rest, false)? else {
                return line.fault("list item without a text");
            };
            if !is_end(rest) {
                return line.fault("only texts can be list items");
            }
            items.push((line.number, text));
        }
        Ok(Value::List(items))
    }

    /// Reads a text of several lines after a `|` on this line.
    fn block_text(&mut self, line: Line<'_>, header: &str) -> Result<Value, Fault> {
        let (strips, header) = match header.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, header),
        };
        if !is_end(header) {
            return line.fault("only | and |- are supported for texts of several lines");
        }
        let indent_of = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let is_empty = |line: &str| line.trim_start_matches(' ').is_empty();
        let following = &self.lines[self.at..];
        let first = following.iter().position(|line| !is_empty(line)).unwrap_or(following.len());
        let indent = following.get(first).map_or(0, |line| indent_of(line));
        if indent <= line.indent {
            return Ok(Value::Text(String::new()));
        }
        if following[..first].iter().any(|line| line.len() > indent) {
            return line.fault("the first line of the text is indented less than an empty line before it");
        }
        let is_inside = |line: &&&str| indent_of(line) >= indent || is_empty(line);
        let inside = following.iter().take_while(is_inside);
        let mut text = String::new();
        for line in inside {
            text.push_str(line.get(indent..).unwrap_or_default());
            text.push('\n');
            self.at += 1;
        }
        let end = text.trim_end_matches('\n').len();
        text.truncate(if strips { end } else { end + 1 });
        Ok(Value::Text(text))
    }
}

/// Returns a key for a message.
#[inline(never)]
pub fn shown(key: &str) -> String {
    key.escape_debug().to_string()
}

/// Returns whether nothing but a comment follows.
fn is_end_of_line(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('#')
}

/// As [`is_end_of_line`], after a value: a comment needs a space before it.
fn is_end(rest: &str) -> bool {
    let trimmed = rest.trim_start_matches(' ');
    trimmed.is_empty() || (trimmed.len() < rest.len() && trimmed.starts_with('#'))
}

/// Reads the key of a line, and returns what follows its colon.
#[inline(never)]
fn key<'t>(line: Line<'t>) -> Result<(String, &'t str), Fault> {
    let is_marker = |marker| line.text.strip_prefix(marker).is_some_and(is_end_or_space);
    if line.indent == 0 && (is_marker("---") || is_marker("...")) {
        return line.fault("more than one document");
    }
    if line.is_item() {
        return line.fault("expected a key, not a list item");
    }
    let (key, rest) = scalar(line, line.text, false)?;
    let Some(rest) = rest.trim_start_matches(' ').strip_prefix(':').filter(|rest| is_end_or_space(rest))
    else {
        return line.fault("expected a key with a colon and a space after it");
    };
    match key {
        Some(key) if key == "<<" => line.fault("merge keys are not supported"),
        Some(key) if key.len() <= KEY_BYTES_MAX => Ok((key, rest)),
        Some(_) => line.fault("key over 256 bytes"),
        None => line.fault("empty key"),
    }
}

fn is_end_or_space(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(' ')
}

/// Reads a list in brackets. `rest` follows the opening one.
fn flow_list(line: Line<'_>, mut rest: &str) -> Result<Value, Fault> {
    let mut items = Vec::new();
    loop {
        rest = rest.trim_start_matches(' ');
        if let Some(rest) = rest.strip_prefix(']') {
            return if is_end(rest) {
                Ok(Value::List(items))
            } else {
                line.fault("unexpected characters after the list")
            };
        }
        if is_end_of_line(rest) {
            return line.fault("a list in brackets has to end on its line");
        }
        let (Some(text), after) = scalar(line, rest, true)? else {
            return line.fault("list item without a text");
        };
        items.push((line.number, text));
        rest = after.trim_start_matches(' ');
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with(']') => rest,
            None if is_end(after) => return line.fault("a list in brackets has to end on its line"),
            None => return line.fault("expected a comma between list items"),
        };
    }
}

/// Reads a text; `None` if it is empty. Returns what follows it.
#[inline(never)]
fn scalar<'t>(line: Line<'_>, text: &'t str, in_brackets: bool) -> Result<(Option<String>, &'t str), Fault> {
    let what = match text.as_bytes().first() {
        Some(b'"') => return double_quoted(line, &text[1..]),
        Some(b'\'') => return single_quoted(line, &text[1..]),
        Some(b'&' | b'*') => "anchors and aliases are not supported; quote a text that begins with & or *",
        Some(b'!') => "tags are not supported; quote a text that begins with !",
        Some(b'|' | b'>') => {
            "a text of several lines is not supported here; quote a text that begins with | or >"
        }
        Some(b'%' | b'@' | b'`' | b',' | b'[' | b']' | b'{' | b'}' | b'#') => {
            "a text that begins with this character needs quotes"
        }
        Some(b'-' | b'?' | b':') if !text[1..].starts_with(begins_plain(in_brackets)) => {
            "a text that begins with -, ? or : needs quotes"
        }
        _ => return plain(line, text, in_brackets),
    };
    line.fault(what)
}

/// Returns whether a character after `-`, `?` or `:` makes these part of a text.
fn begins_plain(in_brackets: bool) -> impl Fn(char) -> bool {
    move |next| next != ' ' && !(in_brackets && ",[]{}".contains(next))
}

fn plain<'t>(line: Line<'_>, text: &'t str, in_brackets: bool) -> Result<(Option<String>, &'t str), Fault> {
    let mut end = text.len();
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        let is_end = match character {
            ':' => !text[at + 1..].starts_with(begins_plain(in_brackets)),
            '#' => before == ' ' && at > 0,
            ',' | ']' => in_brackets,
            '[' | '{' | '}' if in_brackets => return line.fault("brackets in a list need quotes"),
            _ => false,
        };
        if is_end {
            // A comment keeps the space before it.
            end = if character == '#' { at - 1 } else { at };
            break;
        }
        before = character;
    }
    let (text, rest) = text.split_at(end);
    if in_brackets && rest.starts_with(':') {
        return line.fault("mappings in a list are not supported");
    }
    let text = text.trim_end_matches(' ');
    let is_empty = matches!(text, "" | "~" | "null" | "Null" | "NULL");
    Ok(((!is_empty).then(|| text.to_owned()), rest))
}

fn single_quoted<'t>(line: Line<'_>, mut rest: &'t str) -> Result<(Option<String>, &'t str), Fault> {
    let mut text = String::new();
    while let Some((before, after)) = rest.split_once('\'') {
        text.push_str(before);
        match after.strip_prefix('\'') {
            Some(after) => {
                text.push('\'');
                rest = after;
            }
            None => return Ok((Some(text), after)),
        }
    }
    line.fault("a quoted text has to end on its line")
}

fn double_quoted<'t>(line: Line<'_>, quoted: &'t str) -> Result<(Option<String>, &'t str), Fault> {
    let mut text = String::new();
    let mut rest = quoted.chars();
    while let Some(character) = rest.next() {
        match character {
            '"' => return Ok((Some(text), rest.as_str())),
            '\\' => match escaped(&mut rest) {
                Some(character) => text.push(character),
                None => return line.fault("unknown escape sequence in a quoted text"),
            },
            _ => text.push(character),
        }
    }
    line.fault("a quoted text has to end on its line")
}

/// Returns the character of an escape sequence (YAML 1.2 section 5.7). `rest` follows the backslash.
fn escaped(rest: &mut std::str::Chars<'_>) -> Option<char> {
    let digits = match rest.next()? {
        '0' => return Some('\0'),
        'a' => return Some('\u{7}'),
        'b' => return Some('\u{8}'),
        't' => return Some('\t'),
        'n' => return Some('\n'),
        'v' => return Some('\u{b}'),
        'f' => return Some('\u{c}'),
        'r' => return Some('\r'),
        'e' => return Some('\u{1b}'),
        'N' => return Some('\u{85}'),
        '_' => return Some('\u{a0}'),
        'L' => return Some('\u{2028}'),
        'P' => return Some('\u{2029}'),
        same @ (' ' | '"' | '/' | '\\') => return Some(same),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let mut code = 0_u32;
    for _ in 0..digits {
        code = code.checked_mul(16)? + rest.next()?.to_digit(16)?;
    }
    char::from_u32(code)
}
