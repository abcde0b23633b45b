//! `stockroom restore`: a new cluster out of a backup.

use super::{Exit, Progress, Refusal, scratch};
use crate::config::Address;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use stockroom_raft::{NewVoter, refound};
use stockroom_storage::archive::{Until, pieces, replay};
use stockroom_storage::backup::{About, BackupFile};
use stockroom_storage::refound::{Refounded, must_be_empty, open_snapshot};
use stockroom_storage::shop::ids::TimestampMs;
use stockroom_storage::snapshot::SnapshotFile;

/// What `restore` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    /// A file that `stockctl backup create` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    founders: Founders,
    /// Go on from the backup with the pieces of the log in this directory (`stockctl backup archive`)
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// ... up to this entry of the log
    #[arg(long, value_name = "INDEX", requires = "archive", conflicts_with = "to_time")]
    to_index: Option<u64>,
    /// ... up to the last entry that is not later, in RFC 3339 such as 2026-11-20T17:59:00Z
    #[arg(long, value_name = "TIME", requires = "archive", value_parser = time)]
    to_time: Option<jiff::Timestamp>,
    /// Where intermediate files go; beside the first --dir where absent. They take as much room as the state, with
    /// --archive about four times that
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

fn time(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|error| format!("{error}"))
}

const HELP: &str = "\
The cluster is a new one: it has an id of its own, and session tokens and nodes of the old one are refused. Stock,
orders, reservations, movements and receipts are as they were, so a write that is sent again with its old key within
the retention hears its old answer. What the old cluster acknowledged after the backup is not in it.

A directory may be moved to its machine before its node is started for the first time; not after.

Examples:
  # the members of the backup, on this machine
  stockroom restore monday.bak --dir d1 --dir d2 --dir d3
  # one node first; the others join it afterwards with --join 10.0.0.1:9081 and empty directories
  stockroom restore monday.bak --dir /var/lib/stockroom --member 1=10.0.0.1:9081,10.0.0.1:8081
  # as it was at a moment after the backup
  stockroom restore monday.bak --archive /backups/ --to-time 2026-11-20T17:59:00Z --dir d1 --dir d2 --dir d3

Exit codes: 0 restored, 1 error, 2 usage, 4 a directory is not empty, 5 no such file, 8 the backup is damaged";

/// The nodes of a new cluster.
#[derive(Debug, clap::Args)]
pub struct Founders {
    /// Becomes the data directory of a node: empty, or not there yet. Once for each node
    #[arg(long, required = true, value_name = "DIR")]
    dir: Vec<PathBuf>,
    /// The node of each --dir, in the same order: its id, its address for peers and its address for HTTP. Where
    /// absent, the members of the backup, in order of id
    #[arg(long, value_name = "ID=PEER,HTTP")]
    member: Vec<Addresses>,
}

/// A node and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Its id.
    pub id: u64,
    /// `host:port` for peers.
    pub peer: String,
    /// `host:port` for HTTP.
    pub http: String,
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use crate::config::Value as _;
        let why = || format!("must be ID=PEER,HTTP such as 1=10.0.0.1:9081,10.0.0.1:8081, not {text:?}");
        let (id, addresses) = text.split_once('=').ok_or_else(why)?;
        let (peer, http) = addresses.split_once(',').ok_or_else(why)?;
        let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(why)?;
        let (peer, http) = (Address::parse(peer)?.to_string(), Address::parse(http)?.to_string());
        Ok(Addresses { id, peer, http })
    }
}

impl Founders {
    /// Each directory with its node. `known` are the members that the state had.
    ///
    /// # Errors
    /// Where they do not fit together, or a directory is not empty.
    pub fn voters(&self, known: &[Addresses]) -> Result<Vec<NewVoter>, Refusal> {
        let usage =
            |detail: String| Refusal::new(Exit::Usage, "usage", "The command line makes no sense", detail);
        let members = if self.member.is_empty() { known } else { &self.member[..] };
        if members.len() != self.dir.len() {
            let (dirs, count) = (self.dir.len(), members.len());
            let whose = if self.member.is_empty() { "the old cluster had" } else { "--member names" };
            return Err(usage(format!("--dir names {dirs} directories, and {whose} {count} voters"))
                .step("say for each --dir which node it is: --member ID=PEER,HTTP, in the same order"));
        }
        for (at, member) in members.iter().enumerate() {
            let others = &members[at + 1..];
            if others
                .iter()
                .any(|other| other.id == member.id || other.peer == member.peer || other.http == member.http)
                || self.dir[at + 1..].contains(&self.dir[at])
            {
                return Err(usage(format!(
                    "node {} or its directory or an address of it is named twice",
                    member.id
                )));
            }
        }
        for dir in &self.dir {
            must_be_empty(dir)?;
        }
        let voter = |(dir, member): (&PathBuf, &Addresses)| NewVoter {
            dir: dir.clone(),
            node_id: member.id,
            peer_address: member.peer.clone(),
            http_address: member.http.clone(),
        };
        Ok(self.dir.iter().zip(members).map(voter).collect())
    }

    /// Where intermediate files go if nobody says: on the same disk.
    pub fn beside(&self) -> &Path {
        self.dir.first().and_then(|dir| dir.parent()).unwrap_or(Path::new("."))
    }
}

/// The voters of a backup.
pub fn members_of(about: &About) -> Vec<Addresses> {
    let voters = about.members.iter().filter(|member| member.voter);
    let addresses = |member: &stockroom_storage::backup::AboutMember| Addresses {
        id: member.id,
        peer: member.peer_address.clone(),
        http: member.http_address.clone(),
    };
    voters.map(addresses).collect()
}

/// The snapshot file inside a backup, unpacked into a directory, with every checksum proved.
///
/// # Errors
/// Where one does not match, or the header says something else than the state.
pub fn unpack(file: &BackupFile, into: &Path) -> Result<SnapshotFile, Refusal> {
    let path = into.join("unpacked.snap");
    let mut progress = Progress::bytes("unpacking", file.about().snapshot_bytes);
    file.unpack(&path, |bytes| progress.show(bytes))?;
    drop(progress);
    let snapshot = open_snapshot(&path, file.cluster_id()?)?;
    let fingerprint = snapshot.fingerprint();
    let about = file.about();
    let inside = (
        fingerprint.log_index,
        format!("{:032x}", fingerprint.digest),
        format!("{:032x}", fingerprint.state_hash),
    );
    if inside != (about.log_index, about.digest.clone(), about.state_hash.clone()) {
        let detail = format!("its header says index {}, inside is index {}", about.log_index, inside.0);
        return Err(Refusal::new(
            Exit::Findings,
            "damaged",
            "The header of the backup is of another state",
            detail,
        ));
    }
    Ok(snapshot)
}

/// Restores.
///
/// # Errors
/// [`Refusal`]; the directories are as they were.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let file = BackupFile::open(&options.file).map_err(Refusal::from)?;
    let voters = options.founders.voters(&members_of(file.about()))?;
    let scratch = scratch(options.scratch.as_deref(), options.founders.beside())?;
    eprintln!("{}", describe(file.about()));
    let snapshot = unpack(&file, scratch.path())?;
    let snapshot = match &options.archive {
        Some(archive) => replayed(options, archive, &file, scratch.path())?,
        None => snapshot,
    };
    let made = refound(&snapshot, &voters).map_err(Refusal::from)?;
    tell(&made, &voters);
    Ok(ExitCode::SUCCESS)
}

/// The state that the backup and the archived log lead to.
fn replayed(
    options: &Options,
    archive: &Path,
    file: &BackupFile,
    scratch: &Path,
) -> Result<SnapshotFile, Refusal> {
    let about = file.about();
    let until = match (options.to_index, options.to_time) {
        (Some(index), _) => Until::Index(index),
        (_, Some(time)) => Until::Time(TimestampMs(u64::try_from(time.as_millisecond()).unwrap_or(0))),
        _ => Until::End,
    };
    let before = match until {
        Until::Index(index) => index < about.log_index,
        Until::Time(time) => time.0 < about.clock_ms,
        Until::End => false,
    };
    let refuse =
        |detail: String| Refusal::new(Exit::Error, "out_of_reach", "That point cannot be restored", detail);
    if before {
        let detail = format!("the backup is of log index {}, which is after it", about.log_index);
        return Err(refuse(detail).step("use an older backup, with the archive that goes on from it"));
    }
    let cluster_id = file.cluster_id()?;
    let pieces = pieces(archive, cluster_id)?;
    eprintln!("applying {} pieces of the log", pieces.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Refusal::new(Exit::Error, "runtime", "No threads", error.to_string()))?;
    let unpacked = scratch.join("unpacked.snap");
    let replayed =
        runtime.block_on(replay(&unpacked, cluster_id, &pieces, until, &scratch.join("replayed")))?;
    let (index, clock) = (replayed.log_index, replayed.clock);
    let short = match until {
        Until::Index(wanted) => index < wanted,
        Until::Time(wanted) => !replayed.passed && clock < wanted,
        Until::End => false,
    };
    let when =
        jiff::Timestamp::from_millisecond(i64::try_from(clock.0).unwrap_or(i64::MAX)).unwrap_or_default();
    if short {
        let detail = format!("the archive in {} ends with entry {index}, at {when:.3}", archive.display());
        return Err(refuse(detail).step("leave out --to-index and --to-time to restore all that is there"));
    }
    eprintln!("came to log index {index}, at {when:.3} on the replicated clock");
    Ok(replayed.file)
}

/// One line on what a backup is of.
pub fn describe(about: &About) -> String {
    format!(
        "backup of cluster {} at log index {}, taken {} by node {}: {} orders, state {}",
        about.cluster_id,
        about.log_index,
        about.created_at,
        about.node_id,
        about.orders_placed,
        about.state_hash
    )
}

/// Says what there is now and how to start it; the new cluster's id on stdout, for scripts.
pub fn tell(made: &Refounded, voters: &[NewVoter]) {
    let Refounded { cluster_id, epoch, fingerprint } = made;
    eprintln!("new cluster {cluster_id:032x}, epoch {epoch}, at log index {}", fingerprint.log_index);
    eprintln!(
        "start {}:",
        if voters.len() == 1 { "its node" } else { "its nodes (a majority of them makes a leader)" }
    );
    for voter in voters {
        eprintln!(
            "  stockroom serve --node-id {} --data-dir {} --peer-listen {} --http-listen {}",
            voter.node_id,
            voter.dir.display(),
            voter.peer_address,
            voter.http_address
        );
    }
    if let [only] = voters {
        eprintln!("then each further node, with an id and an empty directory of its own:");
        eprintln!("  stockroom serve --node-id N --data-dir EMPTY --join {} ...", only.peer_address);
    }
    println!("{cluster_id:032x}");
}
