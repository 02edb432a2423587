//! Prepares the arguments for pico-args: what it cannot express, and other spellings of an option.

use std::ffi::OsString;

use super::options::Opt;

/// The name that `--web-config-file` has in Prometheus and its exporters.
const WEB_CONFIG_FILE: &str = "--web.config.file";

/// Removes `--healthcheck` from the arguments, and the URL after it or after its `=`. (In pico-args an option either
/// always has a value or never.)
pub(super) fn take_healthcheck(arguments: &mut Vec<OsString>) -> Option<Option<String>> {
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    let at = arguments
        .iter()
        .position(|argument| text(argument).split('=').next() == Some(Opt::Healthcheck.name()))?;
    if let Some((_, url)) = text(&arguments.remove(at)).split_once('=') {
        return Some(Some(url.to_owned()));
    }
    let url = arguments.get(at).map(text).filter(|next| !next.starts_with('-'));
    Some(url.inspect(|_| drop(arguments.remove(at))))
}

/// Replaces the spelling of an option that Prometheus's exporters have.
pub(super) fn spell_as_here(argument: &mut OsString) {
    if !cfg!(feature = "web-config") {
        return;
    }
    let value = argument.to_str().and_then(|text| text.strip_prefix(WEB_CONFIG_FILE));
    if let Some(value) = value.filter(|value| value.is_empty() || value.starts_with('=')) {
        *argument = format!("{}{value}", Opt::WebConfigFile.name()).into();
    }
}
