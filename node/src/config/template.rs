//! Settings as a TOML file: the commented template, and what is in force.

use super::value::Kind;
use super::{Resolved, SETTINGS, Setting};
use std::fmt::Write as _;

const HEAD: &str = "\
# Settings of a Stockroom node, each with its unit and its default.
#
# Flags win over STOCKROOM_* variables, those over this file, this file over the defaults. A key
# that is no setting is an error. `stockroom config` prints what is in force and where it came from;
# `stockroom config --template` prints this file.
";

/// `deploy/stockroom.toml`: every setting, commented out, with help, unit and default.
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            let _ = write!(text, "\n# ---- {section}\n");
        }
        let _ = write!(text, "\n{}", described(setting));
        let line = format!("# {} = {}", setting.name, literal(setting.kind, setting.default));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Each setting that is in force, as TOML, with its source.
pub fn print_effective(resolved: &Resolved) -> String {
    let mut text = String::new();
    for setting in SETTINGS {
        let (value, source) = resolved.text(setting);
        let unit = if setting.unit.is_empty() { String::new() } else { format!("{}, ", setting.unit) };
        let assignment = format!("{} = {}", setting.name, literal(setting.kind, value));
        // A setting without a value cannot be written as TOML where it is a number.
        let comment = if setting.kind == Kind::Integer && value.is_empty() { "# " } else { "" };
        let _ = writeln!(text, "{comment}{assignment:<50} # {unit}{source}");
    }
    text
}

fn described(setting: &Setting) -> String {
    let mut notes = Vec::new();
    if !setting.unit.is_empty() {
        notes.push(format!("Unit: {}.", setting.unit));
    }
    if let Some(range) = setting.range.as_ref().filter(|range| *range.end() != u64::MAX) {
        notes.push(format!("Allowed: {} to {}.", range.start(), range.end()));
    }
    let mut text = String::new();
    for line in wrap(&format!("{} {}", setting.help.trim(), notes.join(" ")), 100) {
        let _ = writeln!(text, "# {line}");
    }
    text
}

fn literal(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Integer => value.to_owned(),
        Kind::Text => toml::Value::String(value.to_owned()).to_string(),
        Kind::List => {
            let parts: Vec<toml::Value> = value
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(|part| part.into())
                .collect();
            toml::Value::Array(parts).to_string()
        }
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("starts with one line");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
