//! What a shell and `man` need to know of the commands: made of the same definitions that parse them.

use crate::problem::{Exit, Failure};
use clap::Command;
use clap_complete::Shell;
use std::{io::Write as _, path::Path};

/// Shown under `stockctl completions`.
pub const COMPLETIONS_HELP: &str = "\
Examples:
  stockctl completions bash > /etc/bash_completion.d/stockctl
  stockctl completions zsh > \"${fpath[1]}/_stockctl\"
  stockctl completions fish > ~/.config/fish/completions/stockctl.fish";

/// Prints what completes the commands in a shell.
pub fn completions(mut command: Command, shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "stockctl", &mut script);
    // A reader that has seen enough is no failure.
    let _ = std::io::stdout().write_all(&script);
    Exit::Ok
}

/// Prints the first page, or writes a page for each command into a directory.
///
/// # Errors
/// The directory cannot be written.
pub fn man(command: Command, dir: Option<&Path>) -> Result<Exit, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.expect("a vector takes any bytes");
        let _ = std::io::stdout().write_all(&page);
        return Ok(Exit::Ok);
    };
    let failed = |error: std::io::Error| Failure::file(&dir.display().to_string(), &error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)?;
    println!("{}: read a page with man -l {}/stockctl.1", dir.display(), dir.display());
    Ok(Exit::Ok)
}
