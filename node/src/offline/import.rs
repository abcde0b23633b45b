//! `stockroom import`: a new cluster out of an export.

use super::restore::{Addresses, Founders, tell};
use super::verify::audited;
use super::{Exit, Refusal, scratch};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stockroom_raft::refound;
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::refound::open_snapshot;
use stockroom_storage::text;

/// What `import` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// A directory that `stockctl export` wrote
    #[arg(value_name = "EXPORT")]
    export: PathBuf,
    #[command(flatten)]
    founders: Founders,
    /// Where intermediate files go; beside the first --dir where absent. They take about four times the size of the
    /// export
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

const HELP: &str = "\
Items, stock, reservations, orders and movements become what they were, to the last field: ids, times and history too.
Every sum is recomputed before anything is founded; what does not add up is refused. Receipts are not in an export: a
write that is sent again with its old key is done again. To keep them, restore a backup instead.

To add items and orders to a shop that runs, use stockctl import.

Example:
  stockctl export --to monday/
  stockroom import monday/ --dir d1 --member 1=127.0.0.1:9081,127.0.0.1:8081

Exit codes: 0 imported, 1 error, 2 usage, 4 a directory is not empty, 5 no such file, 8 a line is wrong or missing, or
something does not add up";

/// Imports.
///
/// # Errors
/// [`Refusal`]; the directories are as they were.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // An export knows no members: each directory needs its own.
    let known: [Addresses; 0] = [];
    let voters = options.founders.voters(&known)?;
    let scratch = scratch(options.scratch.as_deref(), options.founders.beside())?;
    eprintln!("reading {}", options.export.display());
    let (about, file) = text::import(&options.export, scratch.path()).map_err(wrong)?;
    let copy = copied(&file_path(scratch.path())?, scratch.path()).map_err(Refusal::from)?;
    let identity = Identity { cluster_id: file.cluster_id(), node_id: 1, incarnation: 1, group_id: 0 };
    let report = runtime.block_on(audited(&copy, &identity))?;
    if !report.findings.is_empty() {
        let detail = report.findings.join("\n  ");
        return Err(Refusal::new(Exit::Findings, "does_not_add_up", "The export does not add up", detail)
            .step("undo what was changed in it, or take a new one: stockctl export --to DIR")
            .into());
    }
    let lines: Vec<String> = about.lines.iter().map(|(file, lines)| format!("{lines} {file}")).collect();
    eprintln!(
        "export of cluster {} at log index {}: {}",
        about.cluster_id,
        about.log_index,
        lines.join(", ")
    );
    let source = open_snapshot(&file_path(scratch.path())?, file.cluster_id()).map_err(Refusal::from)?;
    tell(&refound(&source, &voters).map_err(Refusal::from)?, &voters);
    Ok(ExitCode::SUCCESS)
}

fn wrong(error: StorageError) -> Refusal {
    match &error {
        StorageError::Corrupt { file, why, .. } => {
            let detail = format!("{}, {why}", file.display());
            Refusal::new(Exit::Findings, "wrong_line", "The export cannot be read", detail)
                .step("correct that line, or take a new export: stockctl export --to DIR")
        }
        _ => error.into(),
    }
}

/// The one snapshot file in a scratch directory.
fn file_path(scratch: &Path) -> Result<PathBuf, Refusal> {
    let dir = scratch.join("snapshot");
    let io =
        |error: std::io::Error| Refusal::from(StorageError::io(format!("listing {}", dir.display()), &error));
    let entry = std::fs::read_dir(&dir).map_err(io)?.next();
    let entry = entry.ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
    Ok(entry.map_err(io)?.path())
}

/// A directory for a node, with a link to the file: its storage may do with it what it wants.
fn copied(file: &Path, scratch: &Path) -> Result<PathBuf, StorageError> {
    let node = scratch.join("node");
    let io = |error: std::io::Error| StorageError::io("making the scratch store", &error);
    std::fs::create_dir_all(node.join("snapshot")).map_err(io)?;
    std::fs::hard_link(file, node.join("snapshot/00000000000000000000.snap")).map_err(io)?;
    Ok(node)
}
