//! The text of `--help`, from the table of options.

use std::fmt::Write;

use super::options::{Fallback, Group, Opt};

/// Columns of a line.
const WIDTH: usize = 96;
/// Columns of an option's name and value, before its description.
const INDENT: usize = 29;

const USAGE: &str = "\
psystrike forwards Prometheus's scrapes to pods that it cannot reach: for jobs with
proxy_url: http://PSYSTRIKE:8080, and at /pods/{host}/{port}/{path} for jobs that rewrite paths.

Usage: psystrike [OPTIONS]
";

const NOTES: &str = "
Environment variables set options as well: --connect-timeout is PSYSTRIKE_CONNECT_TIMEOUT. The
option takes precedence; an empty variable counts as not set. Lists are comma-separated.
Exit status: 0 after SIGTERM or SIGINT, 2 for a wrong option, 1 for any other error, 143 if a
second signal ended psystrike early.
";

/// Renders the text that `--help` prints.
#[cold]
pub fn help() -> String {
    let mut text = USAGE.to_owned();
    for group in Group::ALL {
        let _ = write!(text, "\n{}:\n", group.title());
        for option in Opt::ALL.iter().filter(|option| option.group() == *group) {
            describe(&mut text, *option);
        }
    }
    text + NOTES
}

#[cold]
fn describe(text: &mut String, option: Opt) {
    let short = option.short().map(|short| format!("{short}, ")).unwrap_or_default();
    let mut line = format!("  {short}{} {}", option.name(), option.kind().placeholder());
    let default = match option.default() {
        Fallback::Value(value) => format!("[default: {}]", value.replace(',', ", ")),
        Fallback::Text(value) => format!("[default: {value}]"),
        Fallback::Silent => String::new(),
    };
    let words = option.description().split(' ');
    // A short default stays on one line.
    let default: Vec<&str> =
        if default.len() < WIDTH / 3 { vec![&default] } else { default.split(' ').collect() };
    let mut is_full = line.trim_end().len() + 1 > INDENT;
    for word in words.chain(default).filter(|word| !word.is_empty()) {
        if is_full || line.len() + 1 + word.replace('`', "").len() > WIDTH {
            let _ = writeln!(text, "{}", line.trim_end());
            line.clear();
        }
        is_full = false;
        if line.len() < INDENT {
            let _ = write!(line, "{:1$}", "", INDENT - line.len());
        } else {
            line.push(' ');
        }
        line.extend(word.chars().filter(|&letter| letter != '`'));
    }
    let _ = writeln!(text, "{line}");
}
