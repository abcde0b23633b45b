//! The file of refused rows: what was not stored, why, and the row itself, to be mended and imported again.

use crate::{
    output::count,
    problem::{Failure, Problem},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
};

/// Collects refusals in the order in which they come, and leaves them in the order of the input.
pub struct Refused {
    path: String,
    file: BufWriter<File>,
    rows: Vec<(usize, u64, String)>,
    /// How many for each reason (`code`).
    pub reasons: BTreeMap<String, u64>,
}

impl Refused {
    /// Makes the file, before anything is sent: an import that cannot say what it refused must not begin.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: String) -> Result<Self, Failure> {
        let file = File::create(&path).map_err(|e| {
            Failure::file(&path, &e).step("choose another file for refused rows with --refused")
        })?;
        Ok(Refused { path, file: BufWriter::new(file), rows: Vec::new(), reasons: BTreeMap::new() })
    }

    /// Where the file is.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Notes a refusal. `id` names the row (`"order_id"` or `"sku"`), `row` is its text.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(
        &mut self,
        file: usize,
        line_number: u64,
        id: (&str, Option<&str>),
        problem: &Problem,
        row: (&str, &str),
    ) -> Result<(), Failure> {
        // A line that is no JSON is kept as text.
        let content = serde_json::from_str::<Value>(row.1).unwrap_or_else(|_| json!(row.1));
        let line = json!({
            id.0: id.1, "line_number": line_number, "status": problem.status,
            "code": problem.code, "detail": problem.detail, row.0: content,
        })
        .to_string();
        *self.reasons.entry(problem.code.clone()).or_default() += 1;
        writeln!(self.file, "{line}").map_err(|e| Failure::file(&self.path, &e))?;
        self.rows.push((file, line_number, line));
        Ok(())
    }

    /// How many rows were refused, why, and where they are, for people.
    pub fn describe(&self, what: &str, out: &mut String) {
        out.push_str(&format!("{:<17} {}\n", format!("{what} refused"), count(self.count())));
        out.extend(self.reasons.iter().map(|(code, n)| format!("  {code}: {}\n", count(*n))));
        if self.count() > 0 {
            out.push_str(&format!("refused {what} and why: {}\n", self.path()));
        }
    }

    /// Puts the rows into the order of the input; without any, removes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::file(&self.path, &e);
        self.file.flush().map_err(failed)?;
        if self.rows.is_empty() {
            // A device such as /dev/null is the caller's, and stays.
            let is_file = std::fs::metadata(&self.path).is_ok_and(|m| m.is_file());
            return if is_file { std::fs::remove_file(&self.path).map_err(failed) } else { Ok(()) };
        }
        self.rows.sort_unstable_by_key(|(file, line, _)| (*file, *line));
        if !std::fs::metadata(&self.path).is_ok_and(|m| m.is_file()) {
            return Ok(());
        }
        let sorted = format!("{}.sorted", self.path);
        let text: String = self.rows.iter().flat_map(|(_, _, line)| [line.as_str(), "\n"]).collect();
        std::fs::write(&sorted, text).and_then(|()| std::fs::rename(&sorted, &self.path)).map_err(failed)
    }
}
