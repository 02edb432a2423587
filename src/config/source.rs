//! Takes the value of each option from the arguments, or else from its environment variable.
//!
//! Owns usage errors. Knows no individual option, and applies none.

use std::{convert::Infallible, ffi::OsString, fmt, path::PathBuf};

use pico_args::Arguments;

use super::options::{Fallback, Kind, Opt};

/// Options this similar are suggested for an unknown one (0.0 to 1.0).
const SIMILAR: f64 = 0.8;

/// A usage error, in one line.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError(pub(super) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where option values come from.
pub(super) struct Source<V> {
    arguments: Arguments,
    variable: V,
    /// The options whose value came from their variable.
    from_variables: Vec<Opt>,
}

impl<V: Fn(&str) -> Option<OsString>> Source<V> {
    pub(super) fn new(arguments: Arguments, variable: V) -> Self {
        Self { arguments, variable, from_variables: Vec::new() }
    }

    /// Returns the values of an option, and the name that they come from: the option's, or else its variable's. An
    /// empty variable counts as not set, as templates leave variables empty.
    fn texts(&mut self, option: Opt) -> Result<(Vec<String>, String), UsageError> {
        let name = option.name();
        let given = self.arguments.values_from_fn(name, |text| Ok::<_, &str>(text.to_owned()));
        let given = given.map_err(|error| match error {
            pico_args::Error::NonUtf8Argument => UsageError(format!("{name}: the value is not valid UTF-8")),
            _ => UsageError(format!("{name} requires a value")),
        })?;
        if given.is_empty()
            && let Some((variable, text)) = self.of_variable(option)
        {
            self.from_variables.push(option);
            return match text.into_string() {
                Ok(text) => Ok((vec![text], variable)),
                Err(text) => Err(UsageError(format!("{variable} {text:?}: not valid UTF-8"))),
            };
        }
        Ok((given, name.to_owned()))
    }

    /// Returns the value of an option that is given at most once, and the name that it comes from; `None` if it is not
    /// given.
    fn text(&mut self, option: Opt) -> Result<Option<(String, String)>, UsageError> {
        let (mut texts, name) = self.texts(option)?;
        if texts.len() > 1 {
            return Err(given_more_than_once(&name));
        }
        Ok(texts.pop().map(|text| (name, text)))
    }

    /// Returns the values of an option that may be repeated, or its default, and the name that they come from.
    fn parts(&mut self, option: Opt) -> Result<(Vec<String>, String), UsageError> {
        let (mut texts, name) = self.texts(option)?;
        if texts.is_empty() {
            texts = vec![default_text(option).to_owned()];
            texts.retain(|text| !text.is_empty());
        }
        let mut parts = Vec::new();
        for text in &texts {
            // Templates often leave a comma after the last value.
            let whole = text.strip_suffix(',').filter(|rest| !rest.is_empty()).unwrap_or(text);
            parts.extend(whole.split(',').map(|part| part.trim().to_owned()));
        }
        Ok((parts, name))
    }

    /// Returns the name that the value of an option came from: the option's, or its variable's.
    pub(super) fn name(&self, option: Opt) -> String {
        let variable = option.variable().filter(|_| self.from_variables.contains(&option));
        variable.unwrap_or_else(|| option.name().to_owned())
    }

    fn of_variable(&self, option: Opt) -> Option<(String, OsString)> {
        let name = option.variable()?;
        let text = (self.variable)(&name).filter(|text| !text.is_empty())?;
        Some((name, text))
    }

    /// Returns the value of an option that is given at most once, or its default from the table.
    pub(super) fn one<T, E: fmt::Display>(
        &mut self,
        option: Opt,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, UsageError> {
        self.optional(option, &read)?.map_or_else(|| default(option, read), Ok)
    }

    /// Returns the value of an option that is given at most once, if it is given.
    pub(super) fn optional<T, E: fmt::Display>(
        &mut self,
        option: Opt,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, UsageError> {
        self.text(option)?.map(|(name, text)| read_value(&name, &text, read)).transpose()
    }

    /// Returns the values of an option that may be repeated, or its default from the table.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        option: Opt,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, UsageError> {
        let (parts, name) = self.parts(option)?;
        parts.iter().map(|part| read_value(&name, part, &read)).collect()
    }

    /// Returns whether a flag is set.
    pub(super) fn flag(&mut self, option: Opt) -> Result<bool, UsageError> {
        let by_variable = match self.of_variable(option) {
            None => false,
            Some((variable, text)) => read_value(&variable, &text.to_string_lossy(), |text| match text {
                "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err("expected true or false"),
            })?,
        };
        Ok(self.arguments.contains(option.name()) || by_variable)
    }

    /// Returns the path that is the value of an option, if it is given.
    pub(super) fn path(&mut self, option: Opt) -> Result<Option<PathBuf>, UsageError> {
        self.optional(option, |text| Ok::<_, Infallible>(text.into()))
    }

    /// Returns the error that an option needs one of others.
    pub(super) fn requires(&self, option: Opt, one_of: &[Opt]) -> UsageError {
        let names: Vec<String> = one_of.iter().map(|option| option.name().to_owned()).collect();
        UsageError(format!("{} requires {}", self.name(option), alternatives(&names)))
    }

    /// Returns the error that an option cannot be combined with any of others.
    pub(super) fn excludes(&self, option: Opt, others: &[Opt]) -> UsageError {
        let names: Vec<String> = others.iter().map(|&other| self.name(other)).collect();
        UsageError(format!("{} and {} exclude each other", self.name(option), alternatives(&names)))
    }

    /// Rejects the arguments left after all options were read.
    pub(super) fn finish(self) -> Result<(), UsageError> {
        match self.arguments.finish().first() {
            None => Ok(()),
            Some(left) => Err(unused(&left.to_string_lossy())),
        }
    }
}

/// Returns names as in `a, b or c`.
fn alternatives(names: &[String]) -> String {
    match names {
        [others @ .., before, last] => [others, &[format!("{before} or {last}")]].concat().join(", "),
        names => names.concat(),
    }
}

fn unused(argument: &str) -> UsageError {
    let name = argument.split('=').next().unwrap_or(argument);
    let shown = argument.escape_debug();
    if let Some(option) = Opt::ALL.iter().find(|option| option.name() == name) {
        return if argument != name && matches!(option.kind(), Kind::Flag | Kind::Action) {
            UsageError(format!("{shown}: {name} takes no value"))
        } else {
            given_more_than_once(name)
        };
    }
    if !name.starts_with('-') {
        return UsageError(format!("{shown}: unexpected argument; see psystrike --help"));
    }
    let similar = similar(name, Opt::ALL.iter().map(|option| option.name().to_owned()));
    UsageError(format!("{shown}: unknown option; {}", suggestion(similar)))
}

fn given_more_than_once(name: &str) -> UsageError {
    UsageError(format!("{name}: given more than once"))
}

/// Returns the known name that is most similar to an unknown one, if any is similar.
pub(super) fn similar(unknown: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let scored = known.map(|name| (strsim::normalized_damerau_levenshtein(unknown, &name), name));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 >= SIMILAR).then_some(best.1)
}

/// Returns the end of a message about an unknown name.
pub(super) fn suggestion(similar: Option<String>) -> String {
    similar.map_or_else(|| "see psystrike --help".to_owned(), |name| format!("did you mean {name}?"))
}

/// Parses one value. The error names the option, the value, and what is expected.
pub(super) fn read_value<T, E: fmt::Display>(
    name: &str,
    text: &str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, UsageError> {
    read(text).map_err(|expected| wrong(name, text, &expected))
}

fn wrong(name: &str, text: &str, expected: &dyn fmt::Display) -> UsageError {
    UsageError(format!("{name} {text:?}: {expected}"))
}

/// Returns the value of an option's default from the table.
pub(super) fn default<T, E: fmt::Display>(
    option: Opt,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, UsageError> {
    read_value(option.name(), default_text(option), read)
}

/// Returns the default of an option as the text of a value. Empty if the table has none.
fn default_text(option: Opt) -> &'static str {
    match option.default() {
        Fallback::Value(text) => text,
        Fallback::Text(_) | Fallback::Silent => "",
    }
}
