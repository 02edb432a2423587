//! The reader of web configuration files: tables of what it accepts and refuses, and a comparison with a whole YAML
//! parser, which reads everything that this one accepts in the same way.

#![cfg(feature = "web-config")]

#[path = "support/bytes.rs"]
mod bytes;

use std::{cell::Cell, fmt::Write as _};

use bytes::{Random, with_seeds};
use psystrike::config::web::yaml::{self, Entry, Value};
use serde_json::Value as Json;

/// Shows a value without ambiguity.
fn shown(entries: &[Entry]) -> String {
    let value = |value: &Value| match value {
        Value::Empty => "~".to_owned(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(items) => format!("{:?}", items.iter().map(|(_, text)| text).collect::<Vec<_>>()),
        Value::Map(entries) => shown(entries),
    };
    let entries = entries.iter().map(|entry| format!("{}={}", entry.key, value(&entry.value)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
}

fn read(text: &str) -> String {
    yaml::parse(text).map_or_else(|fault| fault.to_string(), |entries| shown(&entries))
}

#[test]
fn the_subset_is_read() {
    for (text, expected) in [
        ("", "{}"),
        ("# only a comment\n\n  \n", "{}"),
        ("---\n", "{}"),
        ("\u{feff}--- # c\na: b\n", "{a=\"b\"}"),
        ("a: b\r\nc: d\r\n", "{a=\"b\" c=\"d\"}"),
        ("a:\n  b: c\n  d:\n      e: f\ng: h", "{a={b=\"c\" d={e=\"f\"}} g=\"h\"}"),
        ("a:\nb: ~\nc: null\nd: # e\nf: ''\ng: \"\"", "{a=~ b=~ c=~ d=~ f=\"\" g=\"\"}"),
        ("a: {}\nb: { } # c\nd: []", "{a={} b={} d=[]}"),
        ("a: $2y$10$a.b/C\nb: 1.5\nc: true\nd: -x\ne: :x\nf: ?x", {
            "{a=\"$2y$10$a.b/C\" b=\"1.5\" c=\"true\" d=\"-x\" e=\":x\" f=\"?x\"}"
        }),
        ("a: b c  # d\ne: b#c\nf: b:c, [d]", "{a=\"b c\" e=\"b#c\" f=\"b:c, [d]\"}"),
        ("a: 'it''s'\nb: '# \"'\n'c d' : e\n\"f\": g", "{a=\"it's\" b=\"# \\\"\" c d=\"e\" f=\"g\"}"),
        (r#"a: "\x41\u00e9\U0001f600\n\t\\\"\/\ ""#, "{a=\"Aé😀\\n\\t\\\\\\\"/ \"}"),
        ("a:\n- b\n- 'c' # d\n-   e\nf: g", r#"{a=["b", "c", "e"] f="g"}"#),
        ("a:\n  - b\n  # x\n\n  - c\nf: g", r#"{a=["b", "c"] f="g"}"#),
        ("a: [b, 'c, d' ,\"e\",f g,]", r#"{a=["b", "c, d", "e", "f g"]}"#),
        ("a: |\n  b\n\n    c # d\n  # e\n\nf: g", "{a=\"b\\n\\n  c # d\\n# e\\n\" f=\"g\"}"),
        ("a: |- # x\n  b\n\nf: g", "{a=\"b\" f=\"g\"}"),
        ("a: |\nf: g", "{a=\"\" f=\"g\"}"),
        ("a:\n  b: |\n    c\n  d: e", "{a={b=\"c\\n\" d=\"e\"}}"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn everything_else_is_refused_with_its_line() {
    let (long, deep) = ("x".repeat(257) + ": y", {
        let lines = (0..9).map(|depth| format!("{}a:\n", " ".repeat(depth)));
        lines.collect::<String>() + "          a: b"
    });
    let many: String = (0..1025).map(|number| format!("k{number}:\n")).collect();
    for (text, expected) in [
        ("a: &b c", "line 1: anchors and aliases are not supported"),
        ("a: *b", "line 1: anchors and aliases are not supported"),
        ("a: !!str b", "line 1: tags are not supported"),
        ("a:\n  <<: b", "line 2: merge keys are not supported"),
        ("a:\n\tb: c", "line 2: tab; use spaces"),
        ("a: b\tc", "line 1: tab; use spaces"),
        ("a: b\u{0}", "line 1: control character"),
        ("a: b\rc: d", "line 1: control character"),
        ("a: b\u{2028}", "line 1: control character"),
        ("a: b\n---\nc: d", "line 2: more than one document"),
        ("a: b\n...\n", "line 2: more than one document"),
        ("--- a: b", "line 1: more than one document"),
        ("%YAML 1.2\n---\na: b", "line 1: a text that begins with this character needs quotes"),
        ("a: >\n  b", "line 1: a text of several lines is not supported here"),
        ("a: |2\n  b", "line 1: only | and |- are supported"),
        ("a: |+\n  b", "line 1: only | and |- are supported"),
        ("a: |\n     \n  b", "line 1: the first line of the text is indented less"),
        ("- a", "line 1: expected a key, not a list item"),
        ("a: b\n- c", "line 2: expected a key, not a list item"),
        ("a", "line 1: expected a key with a colon"),
        ("a:b", "line 1: expected a key with a colon"),
        ("\"a\":b", "line 1: expected a key with a colon"),
        ("? a\n: b", "line 1: a text that begins with -, ? or : needs quotes"),
        ("~: a", "line 1: empty key"),
        (" a: b", "line 1: unexpected indentation"),
        ("a: b\n  c: d", "line 2: unexpected indentation"),
        ("a:\n    b: c\n  d: e", "line 3: unexpected indentation"),
        ("a:\n  b", "line 2: expected a key with a colon"),
        ("a: b\na: c", "line 2: a is given twice"),
        ("a:\n  'b\\n': 1\n  \"b\\\\n\": 2", "line 3: b\\\\n is given twice"),
        ("a: b: c", "line 1: unexpected characters after the value"),
        ("a: 'b' c", "line 1: unexpected characters after the value"),
        ("a: 'b'#c", "line 1: unexpected characters after the value"),
        ("a: 'b\n  c'", "line 1: a quoted text has to end on its line"),
        ("a: \"b\\", "line 1: unknown escape sequence"),
        ("a: \"\\q\"", "line 1: unknown escape sequence"),
        ("a: \"\\ud800\"", "line 1: unknown escape sequence"),
        ("a: @b", "line 1: a text that begins with this character needs quotes"),
        ("a: {b: c}", "line 1: mappings in braces are not supported"),
        ("a: [b", "line 1: a list in brackets has to end on its line"),
        ("a: [b,\n  c]", "line 1: a list in brackets has to end on its line"),
        ("a: [b: c]", "line 1: mappings in a list are not supported"),
        ("a: [b, [c]]", "line 1: a text that begins with this character needs quotes"),
        ("a: [b{c]", "line 1: brackets in a list need quotes"),
        ("a: [,]", "line 1: a text that begins with this character needs quotes"),
        ("a: [~]", "line 1: list item without a text"),
        ("a: ['b' 'c']", "line 1: expected a comma between list items"),
        ("a: [b] c", "line 1: unexpected characters after the list"),
        ("a:\n- b: c", "line 2: only texts can be list items"),
        ("a:\n- - b", "line 2: a text that begins with -"),
        ("a:\n-\n  b", "line 2: list item without a text"),
        ("a:\n- b\n  c", "line 3: unexpected indentation"),
        (&long, "line 1: key over 256 bytes"),
        (&deep, "line 9: too many levels, or too many keys"),
        (&many, "line 1025: too many levels, or too many keys"),
    ] {
        assert!(read(text).starts_with(expected), "{text:?}: {}", read(text));
    }
}

/// Compares a value with that of another parser, which takes some texts for numbers or booleans.
fn is_same(value: &Value, json: &Json) -> bool {
    let is_text = |text: &str, json: &Json| match json {
        Json::String(other) => text == other,
        Json::Number(_) | Json::Bool(_) => true,
        _ => false,
    };
    match (value, json) {
        (Value::Empty, Json::Null) => true,
        (Value::Text(text), json) => is_text(text, json),
        (Value::List(items), Json::Array(others)) => {
            items.len() == others.len()
                && items.iter().zip(others).all(|((_, text), json)| is_text(text, json))
        }
        (Value::Map(entries), Json::Object(others)) => {
            let has = |entry: &Entry| others.get(&entry.key).is_some_and(|json| is_same(&entry.value, json));
            entries.len() == others.len() && entries.iter().all(has)
        }
        _ => false,
    }
}

/// Checks that a whole parser agrees with the reader, if that accepts the text. Returns whether it does.
fn agrees(text: &str) -> bool {
    let Ok(entries) = yaml::parse(text) else { return false };
    let whole: Json = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    let is_empty = entries.is_empty() && whole.is_null();
    assert!(
        is_empty || is_same(&Value::Map(entries.clone()), &whole),
        "{text:?}: {} {whole}",
        shown(&entries)
    );
    true
}

/// A document from pieces of the grammar, mostly malformed.
fn soup(random: &mut Random) -> String {
    const PIECES: [&str; 40] = [
        "a", "b", "key", ": ", ":", ": ", ":\n", "\n", "\n  ", "\n  ", "\n    ", "\n", "- ", "-", "\n- ",
        "\n  - ", "'", "\"", "''", "\\n", "#", " # ", " ", "  ", "[", "]", ", ", ",", "{}", "|", "|-", "|\n",
        "~", "null", "x y", "é", "?", "<", "$2y$", "\r\n",
    ];
    (0..random.below(24)).map(|_| random.pick(&PIECES)).collect()
}

#[test]
fn what_is_accepted_is_the_same_for_a_whole_parser() {
    let accepted = Cell::new(0);
    with_seeds(60_000, |_, random| accepted.set(accepted.get() + usize::from(agrees(&soup(random)))));
    let is_one_seed = std::env::var_os("PSYSTRIKE_SEED").is_some();
    assert!(accepted.get() > 1000 || is_one_seed, "only {} documents are accepted", accepted.get());
}

/// Writes a mapping in random styles.
fn write(random: &mut Random, entries: &[Entry], indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    for entry in entries {
        if random.one_in(5) {
            let _ = writeln!(
                out,
                "{}# {}",
                " ".repeat(random.below(indent + 1)),
                random.pick(&["c", "'", "a: b", ""])
            );
        }
        let _ = write!(out, "{pad}{}:", quoted(random, &entry.key));
        match &entry.value {
            Value::Empty => out.push_str(random.pick(&["", " ~", " null", "  "])),
            Value::Text(text) if text.contains('\n') && text.ends_with("x\n") => {
                let inner = " ".repeat(indent + 1 + random.below(4));
                out.push_str(" |");
                text.lines().for_each(|line| {
                    let _ = write!(out, "\n{inner}{line}");
                });
            }
            Value::Text(text) => {
                let _ = write!(out, " {}", quoted(random, text));
            }
            Value::List(items) if items.is_empty() || random.one_in(2) => {
                let items: Vec<String> = items.iter().map(|(_, text)| quoted(random, text)).collect();
                let _ = write!(out, " [{}]", items.join(random.pick(&[",", ", ", " , "])));
            }
            Value::List(items) => {
                let inner = " ".repeat(indent + random.below(3));
                for (_, text) in items {
                    let _ = write!(out, "\n{inner}- {}", quoted(random, text));
                }
            }
            Value::Map(entries) if entries.is_empty() => out.push_str(" {}"),
            Value::Map(entries) => {
                out.push('\n');
                let inner = indent + 1 + random.below(4);
                write(random, entries, inner, out);
                out.truncate(out.trim_end_matches('\n').len());
            }
        }
        // Spaces would belong to a text of several lines.
        let ends = ["\n", "\n\n", "  \n"];
        out.push_str(random.pick(if out.ends_with('x') { &ends[..2] } else { &ends }));
    }
}

/// A text in a style that can hold it.
fn quoted(random: &mut Random, text: &str) -> String {
    let is_plain = !text.is_empty()
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "./$é".contains(character));
    match random.below(3) {
        0 if is_plain => text.to_owned(),
        1 if !text.contains('\n') => format!("'{}'", text.replace('\'', "''")),
        _ => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")),
    }
}

fn text(random: &mut Random) -> String {
    const TEXTS: [&str; 14] = [
        "",
        "a",
        "x/y.pem",
        "$2y$10$abc",
        "a b",
        " a",
        "it's",
        "\"",
        "a: b",
        "# a",
        "- a",
        "é",
        "\\",
        "line\nx\n",
    ];
    random.pick(&TEXTS).to_owned()
}

fn tree(random: &mut Random, depth: usize) -> Vec<Entry> {
    let count = random.below(4) + usize::from(depth == 0);
    let entry = |number| {
        let value = match random.below(if depth < 3 { 5 } else { 3 }) {
            0 => Value::Empty,
            1 => Value::Text(text(random)),
            2 => Value::List((0..random.below(4)).map(|_| (0, text(random))).collect()),
            _ => Value::Map(tree(random, depth + 1)),
        };
        let key = format!("{}{number}", random.pick(&["k", "key ", "é", "'", "\"", "#", "a: "]));
        Entry { line: 0, key, value }
    };
    (0..count).map(entry).collect()
}

/// A document with a few characters changed.
fn changed(random: &mut Random, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(characters.len() + 1);
        match random.below(3) {
            0 => {
                characters.insert(at, random.pick(&[' ', '\n', ':', '-', '#', '\'', '"', ',', '|', '[', 'a']))
            }
            1 if at < characters.len() => drop(characters.remove(at)),
            _ => characters.truncate(at.max(characters.len() / 2)),
        }
    }
    characters.into_iter().collect()
}

#[test]
fn what_is_written_is_read() {
    with_seeds(5_000, |_, random| {
        let entries = tree(random, 0);
        let mut out = if random.one_in(4) { "---\n".to_owned() } else { String::new() };
        write(random, &entries, 0, &mut out);
        assert_eq!(read(&out), shown(&entries), "{out}");
        assert!(agrees(&out));
        for _ in 0..10 {
            agrees(&changed(random, &out));
        }
    });
}

#[test]
fn no_input_makes_it_panic() {
    with_seeds(20_000, |_, random| {
        let bytes: Vec<u8> =
            (0..random.below(40)).map(|_| random.pick(b"a: -\n#'\"[]{},|&*!\\\xc3\xa9~")).collect();
        let _ = yaml::parse(&String::from_utf8_lossy(&bytes));
    });
}
