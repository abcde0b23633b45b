//! `backup archive`: the log beside a backup, piece by piece.

use super::frames::{About, Frames, Kind};
use super::{Call, Client, Download, download};
use crate::{
    client::base_url,
    output::{Format, count, note},
    problem::{Exit, Failure},
    view::views,
};
use serde_json::json;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

/// Shown under the options.
pub const HELP: &str = "\
Looks for the backups (*.bak) and pieces of the log (*.stklog) of this cluster that are in the directory, and adds what
was applied since as a further piece. With --every it goes on until Ctrl-C. A node's log is purged behind its own
snapshot files (log_keep_bytes): every few minutes is often enough for most; a gap is noticed, and asks for a new backup.

Examples:
  stockctl backup create --to /backups/
  stockctl backup archive --dir /backups/ --every 60
  stockroom restore /backups/NAME.bak --archive /backups/ --to-time 2026-11-20T17:59:00Z --dir d1 --dir d2 --dir d3";

/// What `backup archive` takes.
#[derive(Debug, clap::Args)]
pub struct ArchiveArgs {
    /// The directory with at least one backup of this cluster
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Again and again, so many seconds after each piece
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    every: Option<u64>,
    /// The node to take it from, by its HTTP address; any of --endpoints where absent
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

/// Archives, once or again and again.
///
/// # Errors
/// There is no backup to go on from, or the log does not go back that far.
pub async fn run(client: &Client, args: &ArchiveArgs, format: Format) -> Result<Exit, Failure> {
    loop {
        match (piece(client, args, format).await, args.every) {
            (Ok(()), None) => return Ok(Exit::Ok),
            (Ok(()), Some(_)) => {}
            // Whoever archives for weeks sees elections and restarts.
            (Err(failure), Some(_)) if failure.exit == Exit::Unavailable => {
                note(&format!("note: {}", failure.problem.detail));
            }
            (Err(failure), _) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(args.every.unwrap_or(1))) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
    }
}

async fn piece(client: &Client, args: &ArchiveArgs, format: Format) -> Result<(), Failure> {
    let (cluster_id, nodes) = cluster(client, args).await?;
    let after = newest(&args.dir, &cluster_id)?;
    let (mut purged, mut silent) = (None, None);
    for node in &nodes {
        let call = Call::get(format!("/v1/admin/log?after={after}"));
        let unfinished = || args.dir.join(format!("log.{}.part", std::process::id()));
        match download(client, node, &call, Kind::Log, unfinished).await {
            Ok(download) => return keep(download, args, node, after, format),
            // Another node may answer, or may have kept more of its log.
            Err(failure) if failure.exit == Exit::Conflict => purged = Some(failure),
            Err(failure) if failure.exit == Exit::Unavailable => silent = Some((node, failure)),
            Err(failure) => return Err(failure),
        }
    }
    Err(match (purged, silent) {
        // That goes on until somebody does something, also where a node that is away may still have it.
        (Some(mut failure), silent) => {
            if let Some((node, _)) = silent {
                failure = failure.step(format!("start {node}, which does not answer and may have kept more"));
            }
            failure.step(format!("stockctl backup create --to {}", args.dir.display()))
        }
        (None, silent) => silent.expect("there is at least one node").1,
    })
}

/// The id of the running cluster, and whom to ask.
async fn cluster(client: &Client, args: &ArchiveArgs) -> Result<(String, Vec<String>), Failure> {
    let views = views(client).await;
    let id =
        views.iter().find_map(|(_, view)| view.as_ref().ok()?.cluster_id.as_str().map(ToOwned::to_owned));
    let nodes: Vec<String> = views.iter().map(|(endpoint, _)| endpoint.clone()).collect();
    let Some(id) = id else {
        return Err(views.into_iter().find_map(|(_, view)| view.err()).expect("none answered"));
    };
    Ok((
        id,
        match &args.from {
            Some(url) => vec![base_url(url)?],
            None => nodes,
        },
    ))
}

/// The newest entry that the files of the cluster in a directory reach.
fn newest(dir: &Path, cluster_id: &str) -> Result<u64, Failure> {
    let io = |error: std::io::Error| Failure::file(&dir.display().to_string(), &error);
    let (mut newest, mut backup) = (None, false);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("bak") => Kind::Backup,
            Some("stklog") => Kind::Log,
            _ => continue,
        };
        // A damaged one is nothing to go on from; `verify` and `restore` say more.
        if let Some(about) = header(&path, kind).filter(|about| about.cluster_id == cluster_id) {
            backup |= kind == Kind::Backup;
            newest = newest.max(Some(about.log_index));
        }
    }
    newest.filter(|_| backup).ok_or_else(|| {
        let detail = format!("{} has no backup (*.bak) of cluster {cluster_id}", dir.display());
        Failure::local(Exit::NotFound, "no_backup", "There is no backup to go on from", detail)
            .step(format!("stockctl backup create --to {}/", dir.display()))
    })
}

fn header(path: &Path, kind: Kind) -> Option<About> {
    let mut frames = Frames::new(kind);
    let mut file = File::open(path).ok()?;
    let mut buffer = vec![0; 4 << 10];
    while frames.about().is_none() {
        let read = file.read(&mut buffer).ok().filter(|read| *read > 0)?;
        frames.push(&buffer[..read]).ok()?;
    }
    frames.about().cloned()
}

fn keep(
    download: Download,
    args: &ArchiveArgs,
    node: &str,
    after: u64,
    format: Format,
) -> Result<(), Failure> {
    let about = download.about.clone();
    if about.after != Some(after) {
        return Err(Failure::contract(
            node,
            format!("asked for what is behind {after}, got {:?}", about.after),
        ));
    }
    let mut path: Option<PathBuf> = None;
    if about.log_index > after {
        let short = &about.cluster_id[..about.cluster_id.len().min(8)];
        let name = format!("stockroom-{short}-{:012}-{:012}.stklog", after + 1, about.log_index);
        let name = args.dir.join(name);
        download.file.finish(&name)?;
        path = Some(name);
    }
    let value = json!({"file": path, "bytes": download.bytes, "from": node, "piece": download.header});
    format.print(&value, "", || match path {
        Some(path) => {
            let (entries, bytes) = (count(about.log_index - after), count(download.bytes));
            format!("{}: {entries} entries, {bytes} bytes from node {}\n", path.display(), about.node_id)
        }
        None => format!("nothing new behind entry {after}\n"),
    });
    Ok(())
}
