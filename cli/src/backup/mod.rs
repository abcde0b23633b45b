//! `stockctl backup`: taking backups of a running cluster, and a first look at the files.
//!
//! A file has its name only once every byte of it is here, was checked, and is synced: until then it is called
//! `NAME.part`. What needs the rows themselves (proving them, restoring them) needs no server and is done by
//! `stockroom verify` and `stockroom restore`.

mod archive;
mod frames;
mod verify;

use crate::{
    client::{Call, Client, base_url},
    import::Progress,
    output::{Format, count, note},
    problem::{Exit, Failure},
    view::views,
};
use frames::{About, Frames, Kind};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a node may take before the first byte: it writes its state into a file first.
const FIRST_BYTE: Duration = Duration::from_secs(600);
/// How long it may say nothing after that.
const SILENCE: Duration = Duration::from_secs(60);

/// What can be done with backups.
#[derive(Debug, clap::Subcommand)]
pub enum Backup {
    /// Take a backup of the running cluster, consistent at one log index
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// Keep the log beside a backup, from where the files there end: then any point in time can be restored
    #[command(after_help = archive::HELP)]
    Archive(archive::ArchiveArgs),
    /// Prove a backup: every checksum here, and all sums by `stockroom verify`, which restores it into a scratch store
    #[command(after_help = verify::HELP)]
    Verify(verify::VerifyArgs),
}

const CREATE_HELP: &str = "\
Everything that was acknowledged before the command began is in the file. Any node can give it, also a follower, which
is asked first; it goes on serving meanwhile. Without a leader: --consistency stale, and the node's own state is taken.

Examples:
  stockctl backup create --to /backups/                # named after cluster, index and time
  stockctl backup create --to monday.bak --from http://10.0.0.2:8081
  stockctl backup verify monday.bak
  stockroom restore monday.bak --dir d1 --dir d2 --dir d3";

/// What `backup create` takes.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The file to write, or a directory to write it into
    #[arg(long, value_name = "FILE|DIR")]
    to: PathBuf,
    /// The node to take it from, by its HTTP address; any of --endpoints where absent
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// `linearizable` asks the leader for the newest index first; `stale` takes what the node has
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = ["linearizable", "stale"])]
    consistency: String,
    /// Replace the file if it is there
    #[arg(long)]
    overwrite: bool,
}

/// Runs one of them.
///
/// # Errors
/// It could not be done; no file looks as if it had been.
pub async fn run(client: &Client, backup: &Backup, format: Format) -> Result<Exit, Failure> {
    match backup {
        Backup::Create(args) => create(client, args, format).await,
        Backup::Archive(args) => archive::run(client, args, format).await,
        Backup::Verify(args) => verify(args, format),
    }
}

async fn create(client: &Client, args: &CreateArgs, format: Format) -> Result<Exit, Failure> {
    let target = Target::new(args)?;
    let nodes = match &args.from {
        Some(url) => vec![base_url(url)?],
        None => followers_first(client).await,
    };
    let begun = Instant::now();
    let mut last = None;
    for node in &nodes {
        match take(client, node, args, &target).await {
            Ok(taken) => {
                print(&taken, node, begun.elapsed(), format);
                return Ok(Exit::Ok);
            }
            // Another node may do better; what is wrong on this side will not.
            Err(failure) if failure.exit == Exit::Unavailable && nodes.len() > 1 => {
                note(&format!("note: {}", failure.of_node(node)));
                last = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    let failure = last.expect("there is at least one endpoint");
    Err(failure.step("without a leader, take what one node has: --from URL --consistency stale"))
}

/// The leader has most to do.
async fn followers_first(client: &Client) -> Vec<String> {
    let mut views = views(client).await;
    let rank = |view: &Result<crate::view::View, Failure>| match view {
        Ok(view) => u8::from(view.leader == Some(view.node_id)),
        Err(_) => 2,
    };
    views.sort_by_key(|(_, view)| rank(view));
    views.into_iter().map(|(endpoint, _)| endpoint).collect()
}

/// `stockctl backup verify`, which asks no node.
///
/// # Errors
/// The file is damaged, or nothing is here to restore it with.
pub fn verify(args: &verify::VerifyArgs, format: Format) -> Result<Exit, Failure> {
    verify::run(args, format)
}

/// Where the file goes.
struct Target {
    to: PathBuf,
    is_dir: bool,
    overwrite: bool,
}

impl Target {
    fn new(args: &CreateArgs) -> Result<Self, Failure> {
        let is_dir = args.to.is_dir() || args.to.as_os_str().to_string_lossy().ends_with('/');
        let target = Target { to: args.to.clone(), is_dir, overwrite: args.overwrite };
        if is_dir && !args.to.is_dir() {
            let detail = format!("{}: there is no such directory", args.to.display());
            return Err(Failure::local(Exit::NotFound, "no_directory", "There is no such directory", detail)
                .step("make it first"));
        }
        if !is_dir {
            target.must_be_free(&args.to)?;
        }
        Ok(target)
    }

    fn must_be_free(&self, path: &Path) -> Result<(), Failure> {
        if self.overwrite || !path.exists() {
            return Ok(());
        }
        let detail = format!("{} is there already; it was not touched", path.display());
        Err(Failure::local(Exit::Conflict, "file_exists", "The file is there already", detail)
            .step("choose another name with --to, or replace it with --overwrite"))
    }

    fn unfinished(&self) -> PathBuf {
        let name = if self.is_dir { self.to.join("backup") } else { self.to.clone() };
        let mut name = name.into_os_string();
        name.push(format!(".{}.part", std::process::id()));
        name.into()
    }

    /// The name it gets, once it is whole.
    fn finished(&self, about: &About) -> PathBuf {
        if !self.is_dir {
            return self.to.clone();
        }
        let short = &about.cluster_id[..about.cluster_id.len().min(8)];
        let time = about.created_at.replace([':', '-'], "");
        self.to.join(format!("stockroom-{short}-{:012}-{time}.bak", about.log_index))
    }
}

/// A file that gets its name only when it is whole.
struct Unfinished {
    path: PathBuf,
    file: File,
}

impl Unfinished {
    fn create(path: PathBuf) -> Result<Self, Failure> {
        // It holds what customers bought: nobody else's business.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failed(&path, &error))?;
        Ok(Unfinished { path, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))
    }

    fn finish(self, name: &Path) -> Result<(), Failure> {
        let named = self.file.sync_all().and_then(|()| std::fs::rename(&self.path, name)).and_then(|()| {
            let dir = name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir)?.sync_all()
        });
        named.map_err(|error| failed(name, &error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more where it has its name.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::file(&path.display().to_string(), error).step(
        "nothing that looks like a backup was left; choose a place with room with --to, and run it again",
    )
}

struct Taken {
    path: PathBuf,
    header: Value,
    about: About,
    bytes: u64,
}

async fn take(client: &Client, node: &str, args: &CreateArgs, target: &Target) -> Result<Taken, Failure> {
    let mut call = Call::get("/v1/admin/backup");
    call.headers.push(("Stockroom-Consistency", args.consistency.clone()));
    let download = download(client, node, &call, Kind::Backup, || target.unfinished()).await?;
    let path = target.finished(&download.about);
    target.must_be_free(&path)?;
    download.file.finish(&path)?;
    let Download { header, about, bytes, .. } = download;
    Ok(Taken { path, header, about, bytes })
}

/// A whole file that has no name yet.
struct Download {
    file: Unfinished,
    header: Value,
    about: About,
    bytes: u64,
}

/// Receives a file of frames; each is checked as it comes.
async fn download(
    client: &Client,
    node: &str,
    call: &Call,
    kind: Kind,
    unfinished: impl FnOnce() -> PathBuf,
) -> Result<Download, Failure> {
    let mut response = client.open(node, call, FIRST_BYTE).await?;
    let mut file = Unfinished::create(unfinished())?;
    let broken = |why: String| {
        let detail = format!("{node}: {why}");
        Failure::local(Exit::Unavailable, "backup_interrupted", "The backup was cut off", detail)
            .step("run it again; nothing that looks like a backup was left")
    };
    let mut frames = Frames::new(kind);
    let mut progress: Option<Progress> = None;
    let mut bytes = 0u64;
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE, response.chunk()) => match chunk {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return Err(broken(error.to_string())),
                Err(_) => return Err(broken("it says nothing any more".into())),
            },
            _ = tokio::signal::ctrl_c() => return Err(crate::client::interrupted()),
        };
        let Some(chunk) = chunk else { break };
        frames.push(&chunk).map_err(|why| Failure::contract(node, why))?;
        file.write(&chunk)?;
        bytes += chunk.len() as u64;
        if let Some(about) = frames.about() {
            let progress = progress.get_or_insert_with(|| Progress::new("backup", about.snapshot_bytes));
            progress
                .show(frames.plain_bytes(), || format!("index {}, {} bytes", about.log_index, count(bytes)));
        }
    }
    drop(progress);
    let about = frames.finish().map_err(broken)?.clone();
    Ok(Download { file, header: frames.header.unwrap_or_default(), about, bytes })
}

fn print(taken: &Taken, node: &str, took: Duration, format: Format) {
    let Taken { path, header, about, bytes } = taken;
    let value =
        json!({"file": path, "bytes": bytes, "from": node, "seconds": took.as_secs_f64(), "backup": header});
    format.print(&value, "", || {
        let About { cluster_id, log_index, digest, state_hash, node_id, .. } = about;
        format!(
            "{path}\n\
             cluster {cluster_id}, log index {log_index}, {} orders, digest {digest}, state hash {state_hash}\n\
             {} bytes ({} before compression) from node {node_id} in {:.1} s; every checksum is right\n\
             prove that it can be restored: stockroom verify {path}\n",
            count(about.orders_placed),
            count(*bytes),
            count(about.snapshot_bytes.unwrap_or_default()),
            took.as_secs_f64(),
            path = path.display(),
        )
    });
}
