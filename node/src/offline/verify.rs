//! `stockroom verify`: restores a backup into a scratch store and recomputes every sum.

use super::restore::{describe, unpack};
use super::{Exit, Progress, Refusal, scratch, scratch_options};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stockroom_storage::audit::{AuditProgress, AuditReport};
use stockroom_storage::backup::{About, BackupFile};
use stockroom_storage::error::StorageError;
use stockroom_storage::identity::Identity;
use stockroom_storage::open;

/// What `verify` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// A file that `stockctl backup create` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the scratch store goes; the system's temporary directory where absent. It takes about three times the
    /// size of the state
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Proves each checksum of the file, restores it into a scratch store as a node would, adds up the hash of every row
(state hash), and recomputes every sum from movements, orders and reservations (audit): what is on hand, reserved,
allocated, never oversold; that each order and each receipt is found under its name. The rolling digest of the
history cannot be recomputed from a state; it is compared with the one in the header.

Exit codes: 0 clean, 1 error, 5 no such file, 8 the backup is damaged or something does not add up";

/// Verifies.
///
/// # Errors
/// [`Refusal`], where it could not be verified or does not even unpack.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let file = BackupFile::open(&options.file).map_err(Refusal::from)?;
    let scratch = scratch(options.scratch.as_deref(), &std::env::temp_dir())?;
    if !options.json {
        println!("{}", describe(file.about()));
    }
    let report = runtime.block_on(restored(&file, scratch.path()))?;
    let findings = findings(file.about(), &report);
    if options.json {
        println!("{}", as_json(file.about(), &report, &findings));
    } else {
        print(&report, &findings);
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(Exit::Findings as u8) })
}

/// Opens the backup as a node's storage, from its snapshot file alone, and audits that.
async fn restored(file: &BackupFile, scratch: &Path) -> Result<AuditReport, Refusal> {
    let io = |error: std::io::Error| Refusal::from(StorageError::io("making the scratch store", &error));
    let node = scratch.join("node");
    std::fs::create_dir_all(node.join("snapshot")).map_err(io)?;
    drop(unpack(file, scratch)?);
    std::fs::rename(scratch.join("unpacked.snap"), node.join("snapshot/00000000000000000000.snap"))
        .map_err(io)?;
    let cluster_id = file.cluster_id()?;
    let identity = Identity { cluster_id, node_id: file.about().node_id, incarnation: 1, group_id: 0 };
    audited(&node, &identity).await
}

/// Opens a scratch directory as a node's storage, and audits that.
///
/// # Errors
/// Where it cannot be opened; what does not add up is a finding.
pub async fn audited(node: &Path, identity: &Identity) -> Result<AuditReport, Refusal> {
    let storage = open(scratch_options(node), identity).await?;
    let mut progress = Progress::count("auditing", 0);
    let show = move |AuditProgress { done, total, .. }| {
        progress.set_total(total);
        progress.show(done);
    };
    let report = storage.reader.audit(show).await?;
    storage.close().await?;
    Ok(report)
}

fn findings(about: &About, report: &AuditReport) -> Vec<String> {
    let mut findings = report.findings.clone();
    let seen = report.fingerprint;
    for (what, said, seen) in [
        ("log index", &about.log_index.to_string(), seen.log_index.to_string()),
        ("digest", &about.digest, format!("{:032x}", seen.digest)),
        ("state hash", &about.state_hash, format!("{:032x}", seen.state_hash)),
    ] {
        if *said != seen {
            findings.push(format!("the header says {what} {said}, restored is {seen}"));
        }
    }
    findings
}

fn print(report: &AuditReport, findings: &[String]) {
    let AuditReport { items, stocks, movements, orders, reservations, receipts, .. } = report;
    println!(
        "restored and added up: {items} items, {stocks} stocks, {movements} movements, {orders} orders, {reservations} \
         reservations, {receipts} receipts"
    );
    println!("digest {:032x}, state hash {:032x}", report.fingerprint.digest, report.fingerprint.state_hash);
    findings.iter().for_each(|finding| println!("FINDING: {finding}"));
    println!(
        "{}",
        if findings.is_empty() {
            "clean: this backup can be restored"
        } else {
            "NOT clean: keep it for whoever looks into it, and use another one"
        }
    );
}

fn as_json(about: &About, report: &AuditReport, findings: &[String]) -> serde_json::Value {
    json!({
        "verdict": if findings.is_empty() { "clean" } else { "findings" },
        "findings": findings,
        "backup": about,
        "checked": {
            "items": report.items, "stocks": report.stocks, "movements": report.movements,
            "orders": report.orders, "reservations": report.reservations, "receipts": report.receipts,
        },
    })
}
