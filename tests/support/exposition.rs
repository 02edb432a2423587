//! Parses Prometheus's text format 0.0.4, as far as tests compare pages: series and their values. Strict: a page that
//! cannot be parsed is a failure.

use std::collections::BTreeMap;

/// The labels of a series, including `__name__`. Prometheus treats an empty label as absent, so there are none here.
pub type Labels = BTreeMap<String, String>;

/// Series and their values, as text in Rust's shortest form, so that equal values, including NaN, compare equal.
pub type Samples = BTreeMap<Labels, String>;

/// The samples of a page.
pub fn parse(page: &str) -> Samples {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples = lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}")));
    let mut all = Samples::new();
    for (labels, value) in samples {
        let earlier = all.insert(labels.clone(), value);
        assert!(earlier.is_none(), "the page has {labels:?} twice");
    }
    all
}

/// A value as `Samples` holds it.
pub fn value(text: &str) -> Option<String> {
    text.parse::<f64>().ok().map(|number| number.to_string())
}

/// A line's series and value.
pub fn sample(line: &str) -> Option<(Labels, String)> {
    let name_end = line.find(['{', ' '])?;
    let mut labels = Labels::from([("__name__".to_owned(), line[..name_end].to_owned())]);
    let mut rest = &line[name_end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (name, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if !value.is_empty() {
                labels.insert(name.to_owned(), value);
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let text = rest.trim_start().split(' ').next()?;
    Some((labels, value(text)?))
}

/// A label's value up to its closing quote, and what comes after that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped => escaped,
            }),
            (_, plain) => value.push(plain),
        }
    }
}
