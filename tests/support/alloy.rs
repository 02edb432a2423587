//! Grafana Alloy's configuration syntax, as far as deploy/prometheus/config.alloy uses it, as serde_json values.

use std::{iter::Peekable, vec};

use serde_json::{Map, Value};

/// The contents of a configuration: a block with a label under its whole name (`prometheus.scrape.pods`), blocks
/// without a label as an array under their name, attributes under their name. A reference to a component's export is a
/// string that begins with `&`.
pub fn parse(text: &str) -> Map<String, Value> {
    let mut tokens = tokens(text).into_iter().peekable();
    let body = body(&mut tokens);
    assert_eq!(tokens.next(), None, "there is text after the last block");
    body
}

type Tokens = Peekable<vec::IntoIter<String>>;

/// Strings with their quotes, names with their dots, and single characters.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => string_length(rest),
            _ if is_name(first) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() && !token.starts_with("//") {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    tokens
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap_or_else(|| panic!("a string without an end: {text}")).0 + 1
}

fn body(tokens: &mut Tokens) -> Map<String, Value> {
    let mut body = Map::new();
    while let Some(name) = tokens.next_if(|token| token != "}") {
        let is_label = |token: &String| token.starts_with('"');
        if tokens.next_if_eq("=").is_some() {
            let value = expression(tokens);
            assert_eq!(body.insert(name.clone(), value), None, "{name} is set twice");
        } else if let Some(label) = tokens.next_if(is_label) {
            let name = format!("{name}.{}", label.trim_matches('"'));
            let block = block(tokens);
            assert_eq!(body.insert(name.clone(), block), None, "{name} occurs twice");
        } else {
            let blocks = body.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            blocks.as_array_mut().expect("a name is either of blocks or of an attribute").push(block(tokens));
        }
    }
    body
}

fn block(tokens: &mut Tokens) -> Value {
    expect(tokens, "{");
    let body = body(tokens);
    expect(tokens, "}");
    Value::Object(body)
}

fn expression(tokens: &mut Tokens) -> Value {
    let token = tokens.next().expect("a value");
    match token.as_str() {
        "[" => {
            let mut list = Vec::new();
            while tokens.next_if_eq("]").is_none() {
                list.push(expression(tokens));
                let _ = tokens.next_if_eq(",");
            }
            Value::Array(list)
        }
        "{" => {
            let mut object = Map::new();
            while tokens.next_if_eq("}").is_none() {
                let key = expression(tokens);
                expect(tokens, "=");
                object.insert(key.as_str().expect("a string").to_owned(), expression(tokens));
                let _ = tokens.next_if_eq(",");
            }
            Value::Object(object)
        }
        // Its escapes in strings include those of JSON.
        _ => serde_json::from_str(&token).unwrap_or_else(|_| Value::String(format!("&{token}"))),
    }
}

fn expect(tokens: &mut Tokens, expected: &str) {
    let token = tokens.next();
    assert_eq!(token.as_deref(), Some(expected), "before {:?}", tokens.next());
}
