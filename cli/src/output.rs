//! How everything is printed: tables for people, three formats for programs. Commands hand over what they found; the
//! format, colours and a reader that goes away are dealt with here and nowhere else.

use crate::problem::{Exit, Failure};
use anstyle::{AnsiColor, Style};
use serde_json::Value;
use std::io::{ErrorKind, Write};

/// What `-o` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: one JSON value, indented; errors as problem+json on stderr
    Json,
    /// For programs that read lines: one JSON value a line, a line for each row
    Ndjson,
    /// YAML, one document
    Yaml,
}

/// What `--color` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// For all that is printed from now on.
    pub fn set(self) {
        let choice = match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

impl Format {
    /// Whether people read it.
    pub fn is_table(self) -> bool {
        self == Format::Table
    }

    /// Prints what was found. `rows` names the list in `value` whose elements are the lines of NDJSON; where it is
    /// empty, the whole is one line. `text` is what people see.
    pub fn print(self, value: &Value, rows: &str, text: impl FnOnce() -> String) {
        self.out(&match self {
            Format::Table => people(&text()),
            Format::Json => json(value),
            Format::Yaml => yaml(value),
            Format::Ndjson => ndjson(value, rows),
        });
    }

    /// Says something while a command goes on: to people only, whatever stdout is used for.
    pub fn say(self, text: &str) {
        match self {
            Format::Table => self.out(&people(&format!("{text}\n"))),
            _ => note(text),
        }
    }

    fn out(self, text: &str) {
        if let Err(failure) = to_stdout(anstream::stdout(), text.as_bytes()) {
            self.fail(&failure.problem, || failure.text());
            std::process::exit(failure.exit as i32);
        }
    }

    /// Prints why it failed, on stderr.
    pub fn fail(self, problem: &impl serde::Serialize, text: impl FnOnce() -> String) {
        let value = || serde_json::to_value(problem).expect("strings, numbers and JSON values always print");
        to_stderr(&match self {
            Format::Table => people(&format!("{}\n", text())),
            Format::Json => json(&value()),
            Format::Yaml => yaml(&value()),
            Format::Ndjson => ndjson(&value(), ""),
        });
    }
}

/// A line beside what was asked for, on stderr.
pub fn note(text: &str) {
    to_stderr(&people(&format!("{text}\n")));
}

/// Writes what was asked for; `to` is stdout, with or without colours. Whoever reads may have seen enough (`| head`):
/// then there is nobody to tell anything more.
///
/// # Errors
/// It cannot be written for any other reason, such as a full disk.
pub fn to_stdout(mut to: impl Write, bytes: &[u8]) -> Result<(), Failure> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            let why = format!("standard output: {error}");
            let mut failure = Failure::local(Exit::Error, "file", "What was found cannot be written", why);
            // What the command does is done by now.
            failure.problem.definite = false;
            Err(failure)
        }
    }
}

/// Where this fails nobody can be told; the exit code still says how the command ended.
fn to_stderr(text: &str) {
    let mut to = anstream::stderr();
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// The words that a line may begin with to catch the eye.
const MARKS: [(&str, AnsiColor); 6] = [
    ("FINDING:", AnsiColor::Red),
    ("ALARM:", AnsiColor::Red),
    ("UNSAFE:", AnsiColor::Red),
    ("error:", AnsiColor::Red),
    ("note:", AnsiColor::Yellow),
    ("next:", AnsiColor::Cyan),
];

fn people(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let begins = line.trim_start();
        let indent = &line[..line.len() - begins.len()];
        match MARKS.iter().find(|(mark, _)| begins.starts_with(mark)) {
            Some((mark, color)) => {
                let style = Style::new().bold().fg_color(Some((*color).into()));
                out.push_str(&format!("{indent}{style}{mark}{style:#}{}", &begins[mark.len()..]));
            }
            None => out.push_str(line),
        }
    }
    out
}

/// Rows under a heading, each column as wide as its widest cell.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Column names; one that starts with `>` is set to the right, as numbers are.
    pub fn new(columns: &[&str]) -> Self {
        let right = columns.iter().map(|c| c.starts_with('>')).collect();
        let heads = columns.iter().map(|c| c.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![heads], right }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.right.len());
        self.rows.push(cells);
    }

    /// The table as text, without white space at line ends; its heading in bold.
    pub fn render(&self) -> String {
        let bold = Style::new().bold();
        let mut lines = self.lines().into_iter();
        let heading = lines.next().filter(|heading| !heading.is_empty());
        let mut out = heading.map_or("\n".into(), |heading| format!("{bold}{heading}{bold:#}\n"));
        lines.for_each(|line| out.extend([line.as_str(), "\n"]));
        out
    }

    /// Its lines without colours, the heading first.
    pub fn lines(&self) -> Vec<String> {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.right);
            let cells: Vec<String> = cells
                .map(
                    |((cell, width), right)| {
                        if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                    },
                )
                .collect();
            cells.join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// JSON, indented, with a line end.
pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

fn ndjson(value: &Value, rows: &str) -> String {
    match value[rows].as_array().filter(|_| !rows.is_empty()) {
        Some(rows) => rows.iter().map(|row| format!("{row}\n")).collect(),
        None => format!("{value}\n"),
    }
}

fn yaml(value: &Value) -> String {
    let text = serde_saphyr::to_string(value).expect("a JSON value is a YAML value");
    if text.ends_with('\n') { text } else { format!("{text}\n") }
}

/// `1234567` as `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount in minor units as people write it: `1250` of USD is `12.50`.
pub fn money(minor: i64, currency: &str) -> String {
    let digits = minor_digits(currency);
    let unit = 10u64.pow(digits);
    let (sign, minor) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    if digits == 0 {
        return format!("{sign}{minor}");
    }
    format!("{sign}{}.{:0width$}", minor / unit, minor % unit, width = digits as usize)
}

/// ISO 4217: most currencies have two digits after the point; these do not.
fn minor_digits(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI"
        | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn money_knows_how_many_digits_a_currency_has() {
        assert_eq!(money(1250, "USD"), "12.50");
        assert_eq!(money(-5, "EUR"), "-0.05");
        assert_eq!(money(1250, "JPY"), "1250");
        assert_eq!(money(1250, "KWD"), "1.250");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["SKU", ">ON HAND"]);
        table.row(vec!["mug".into(), "5".into()]);
        assert_eq!(table.lines(), ["SKU  ON HAND", "mug        5"]);
        let rendered = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(rendered, "SKU  ON HAND\nmug        5\n");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn every_format_says_the_same() {
        let value = json!({"nodes": [{"id": 1, "role": "yes"}, {"id": 2, "role": null}], "text": "a: b\n# c", "n": "007",
            "time": "2026-11-20T17:59:00.000Z", "empty": [], "none": {}, "hex": "0x1f", "float": 1.5, "no": "no"});
        assert_eq!(serde_json::from_str::<Value>(&json(&value)).unwrap(), value);
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml(&value)).unwrap(), value, "{}", yaml(&value));
        let lines = |rows| -> Vec<Value> {
            ndjson(&value, rows).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        assert_eq!(lines("nodes"), [json!({"id": 1, "role": "yes"}), json!({"id": 2, "role": null})]);
        assert_eq!(lines(""), std::slice::from_ref(&value));
        assert_eq!(lines("empty"), [] as [Value; 0]);
    }
}
