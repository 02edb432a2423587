//! The text of `--help`, from the table of options.

use super::options::{Fallback, Group, Opt};

/// Columns of a line.
const WIDTH: usize = 96;
/// Columns of an option's name and value, before its description.
const INDENT: usize = 29;

/// A space at which no line is broken, until the lines are complete.
const UNBROKEN: &str = "\u{1}";

const USAGE: &str = "\
psystrike forwards Prometheus scrapes to pods that Prometheus cannot reach. In a scrape job, set
proxy_url: http://PSYSTRIKE:8080, or rewrite the path to /pods/{host}/{port}/{path}.

Usage: psystrike [OPTIONS]
";

const NOTES: &str = "
Environment variables set options as well: --connect-timeout is PSYSTRIKE_CONNECT_TIMEOUT. If
both are set, the option takes precedence. Empty variables are ignored. Separate several values
with commas.
Exit status: 0 after SIGTERM or SIGINT, 2 for an invalid option or value, 1 for any other error,
143 if a second signal ended psystrike early.
";

/// Renders the text that `--help` prints.
pub fn help() -> String {
    let mut text = USAGE.to_owned();
    for group in Group::ALL {
        text.extend(["\n", group.title(), ":\n"]);
        for option in Opt::ALL.iter().filter(|option| option.group() == *group) {
            describe(&mut text, *option);
        }
    }
    text + NOTES
}

fn describe(text: &mut String, option: Opt) {
    let mut line = ["  ", option.short().unwrap_or_default()].concat();
    line.push_str(if option.short().is_some() { ", " } else { "" });
    line.extend([option.name(), " ", option.kind().placeholder()]);
    let default = match option.default() {
        Fallback::Value(value) | Fallback::Text(value) => ["[default: ", value, "]"].concat(),
        Fallback::Silent => String::new(),
    };
    // A short default stays on one line.
    let default = if default.len() < WIDTH / 3 { default.replace(' ', UNBROKEN) } else { default };
    let words = [option.description(), " ", &default.replace(',', ", ")].concat().replace('`', "");
    let mut is_full = line.trim_end().len() + 1 > INDENT;
    for word in words.split_ascii_whitespace() {
        if is_full || line.len() + 1 + word.len() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clear();
        }
        is_full = false;
        line.push_str(" ".repeat(INDENT.saturating_sub(line.len()).max(1)).as_str());
        line.push_str(word);
    }
    text.push_str(&line.replace(UNBROKEN, " "));
    text.push('\n');
}
