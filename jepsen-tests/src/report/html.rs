//! Text into HTML: escaping, numbers, times.

use crate::history::Micros;
use std::fmt::{self, Display, Write as _};

/// A page, or a part of one, as it grows. Only [`put!`](super::put) writes to it.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    pub(super) fn add(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String does not fail");
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text from outside (a server's line, a SKU, an error), safe between tags and in quoted attributes.
/// Control and text-direction characters are shown as U+FFFD: a log line must not repaint the page.
pub(super) struct Esc<T>(pub(super) T);

impl<T: AsRef<str>> Display for Esc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.as_ref().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(c)?,
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char('\u{fffd}')?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Without the colour codes of a terminal.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1b}[") {
        out.push_str(&rest[..start]);
        let code = &rest[start + 2..];
        let end = code.find(|c: char| c.is_ascii_alphabetic()).map_or(code.len(), |at| at + 1);
        rest = &code[end..];
    }
    out.push_str(rest);
    out
}

/// At most so many characters, the last one an ellipsis where some were cut.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// 1234567 as `1 234 567`, with narrow spaces that do not break.
pub(super) fn count(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// The length of a list, as [`count`] writes it.
pub(super) fn many<T>(list: &[T]) -> String {
    count(list.len() as u64)
}

/// A moment of the run, to the millisecond: `72.345 s`.
pub(super) fn moment(at: Micros) -> String {
    format!("{}.{:03} s", at / 1_000_000, at / 1000 % 1000)
}

/// A span of time with three digits or so: `640 µs`, `4.3 ms`, `1.25 s`, `2 min 5 s`, `1 h 3 min`.
pub(super) fn span(micros: Micros) -> String {
    let ms = micros as f64 / 1e3;
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..10_000 => format!("{ms:.1} ms"),
        10_000..1_000_000 => format!("{ms:.0} ms"),
        1_000_000..10_000_000 => format!("{:.2} s", ms / 1e3),
        10_000_000..120_000_000 => format!("{:.1} s", ms / 1e3),
        120_000_000..3_600_000_000 => format!("{} min {} s", micros / 60_000_000, micros / 1_000_000 % 60),
        _ => format!("{} h {} min", micros / 3_600_000_000, micros / 60_000_000 % 60),
    }
}

/// `1 fault`, `2 faults`.
pub(super) fn plural(number: usize, one: &str, more: &str) -> String {
    format!("{} {}", count(number as u64), if number == 1 { one } else { more })
}

/// Small numbers: `1, 2 and 3` is too long for a table, so `1, 2, 3`.
pub(super) fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// A whole page around its body.
pub(super) fn page(title: &str, body: &Html) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n<div id=\"tip\" role=\"tooltip\" hidden></div>\n<script>\n{}</script>\n</body>\n</html>\n",
        Esc(title),
        include_str!("report.css"),
        include_str!("report.js"),
    )
}
