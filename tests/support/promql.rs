//! Extracts the metrics, the labels and the label values of a PromQL expression. Not a parser: promtool checks the
//! syntax.

use std::collections::BTreeSet;

/// The names in an expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub metrics: BTreeSet<String>,
    pub labels: BTreeSet<String>,
    /// Labels with a selected value, the alternatives of a regular expression one by one.
    pub values: BTreeSet<(String, String)>,
}

/// Keywords. Functions and aggregations are recognised by the text after them.
const WORDS: [&str; 5] = ["bool", "offset", "and", "or", "unless"];

/// Before a list of labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

impl Names {
    pub fn of(expression: &str) -> Self {
        let mut names = Self::default();
        let mut rest = expression;
        let (mut in_braces, mut in_labels) = (false, false);
        let mut last = "";
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
            let token = match first {
                '"' => {
                    let closing = rest[1..].find('"').unwrap_or_else(|| panic!("no end of {rest}"));
                    &rest[..closing + 2]
                }
                '[' => &rest[..=rest.find(']').unwrap_or_else(|| panic!("no end of {rest}"))],
                _ if is_word(first) => &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())],
                _ => &rest[..first.len_utf8()],
            };
            rest = &rest[token.len()..];
            match token {
                "{" => in_braces = true,
                "}" => in_braces = false,
                "(" => in_labels = BEFORE_LABELS.contains(&last),
                ")" => (in_labels, last) = (false, ""),
                _ if first == '"' && in_braces => names.value(last, token.trim_matches('"')),
                _ if !is_word(first) || first.is_ascii_digit() => (),
                _ if in_braces || in_labels => _ = names.labels.insert(token.to_owned()),
                _ if WORDS.contains(&token) || is_called(rest) => (),
                _ => _ = names.metrics.insert(token.to_owned()),
            }
            if is_word(first) {
                last = token;
            }
        }
        names
    }

    fn value(&mut self, label: &str, value: &str) {
        let alternatives = value.split('|').filter(|one| !one.is_empty());
        self.values.extend(alternatives.map(|one| (label.to_owned(), one.to_owned())));
    }
}

/// Returns whether the word before `rest` is a function or an aggregation.
fn is_called(rest: &str) -> bool {
    ["(", "by ", "without "].iter().any(|next| rest.trim_start().starts_with(next))
}
