//! What a shell and `man` need to know of the commands: made of the same definitions that parse them.

use crate::{
    output::to_stdout,
    problem::{Exit, Failure},
};
use clap::Command;
use clap_complete::Shell;
use std::{io::stdout, path::Path};

/// Shown under `stockctl completions`.
pub const COMPLETIONS_HELP: &str = "\
Examples:
  stockctl completions bash > /etc/bash_completion.d/stockctl
  stockctl completions zsh > \"${fpath[1]}/_stockctl\"
  stockctl completions fish > ~/.config/fish/completions/stockctl.fish";

/// Prints what completes the commands in a shell.
///
/// # Errors
/// It cannot be written.
pub fn completions(mut command: Command, shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "stockctl", &mut script);
    to_stdout(stdout(), &script)?;
    Ok(Exit::Ok)
}

/// Prints the first page, or writes a page for each command into a directory.
///
/// # Errors
/// The page or the directory cannot be written.
pub fn man(command: Command, dir: Option<&Path>) -> Result<Exit, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command).render(&mut page);
        rendered.expect("a vector takes any bytes");
        to_stdout(stdout(), &page)?;
        return Ok(Exit::Ok);
    };
    let failed = |error: std::io::Error| Failure::file(&dir.display().to_string(), &error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)?;
    let next = format!("{}: read a page with man -l {}/stockctl.1\n", dir.display(), dir.display());
    to_stdout(stdout(), next.as_bytes())?;
    Ok(Exit::Ok)
}
