//! `backup verify`: the checksums of a file here; all else by `stockroom verify`.

use super::frames::{Frames, Kind};
use crate::{
    output::{Format, count},
    problem::{Exit, Failure},
};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Shown under the options.
pub const HELP: &str = "\
Checks each checksum of the file, then runs `stockroom verify FILE`, found beside this program or on the PATH: it really
restores the backup into a scratch store and recomputes every sum. Where only stockctl is at hand: --checksums-only.

Examples:
  stockctl backup verify monday.bak
  stockctl backup verify --checksums-only /backups/monday.bak";

/// What `backup verify` takes.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A file that `backup create` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not restore it; check that it is as it was written
    #[arg(long)]
    checksums_only: bool,
    /// Where the scratch store goes; it takes about three times the size of the state
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Verifies.
///
/// # Errors
/// The file is damaged, or nothing is here to restore it with.
pub fn run(args: &VerifyArgs, format: Format) -> Result<Exit, Failure> {
    let frames = read(&args.file)?;
    let about = frames.finish().map_err(|why| damaged(&args.file, &why))?;
    if args.checksums_only {
        format.print(&frames.header.clone().unwrap_or_default(), "", || {
            format!(
                "every checksum of {} is right: cluster {}, log index {}, {} orders, taken {}\n",
                args.file.display(),
                about.cluster_id,
                about.log_index,
                count(about.orders_placed),
                about.created_at
            )
        });
        return Ok(Exit::Ok);
    }
    let Some(stockroom) = stockroom() else {
        let detail = format!(
            "every checksum of {} is right, but the program `stockroom`, which restores it, is neither beside stockctl \
             nor on the PATH",
            args.file.display()
        );
        return Err(Failure::local(Exit::Error, "not_restored", "Not verified to the end", detail)
            .step(format!("run on a machine that has it: stockroom verify {}", args.file.display())));
    };
    restore(&stockroom, args, format)
}

fn damaged(path: &Path, why: &str) -> Failure {
    Failure::local(Exit::Findings, "damaged", "The backup is damaged", format!("{}: {why}", path.display()))
        .step("use another copy of it, or an older backup; take a new one: stockctl backup create --to DIR")
}

fn read(path: &Path) -> Result<Frames, Failure> {
    let io = |error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
        Failure { exit, ..Failure::file(&path.display().to_string(), &error) }
    };
    let mut file = File::open(path).map_err(io)?;
    let mut frames = Frames::new(Kind::Backup);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(frames),
            n => frames.push(&buffer[..n]).map_err(|why| damaged(path, &why))?,
        }
    }
}

/// The server's program, beside this one or on the PATH.
fn stockroom() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path));
    places.map(|dir| dir.join("stockroom")).find(|program| program.is_file())
}

fn restore(stockroom: &Path, args: &VerifyArgs, format: Format) -> Result<Exit, Failure> {
    let mut command = Command::new(stockroom);
    command.arg("verify").arg(&args.file);
    if let Some(scratch) = &args.scratch {
        command.arg("--scratch").arg(scratch);
    }
    let failed = |error: std::io::Error| Failure::file(&stockroom.display().to_string(), &error);
    // It says what it found, in its own words and with the same numbers.
    let status = if format.is_table() {
        command.status().map_err(failed)?
    } else {
        let output = command.arg("--json").stderr(Stdio::inherit()).output().map_err(failed)?;
        if let Ok(found) = serde_json::from_slice(&output.stdout) {
            format.print(&found, "", String::new);
        }
        output.status
    };
    Ok(match status.code() {
        Some(0) => Exit::Ok,
        Some(8) => Exit::Findings,
        Some(5) => Exit::NotFound,
        _ => Exit::Error,
    })
}
