//! `stockctl export`: a shop as lines of JSON, in a directory, all at one log index.
//!
//! The directory has its name only once every line of it is here and was counted: until then it is called
//! `NAME.part`.

use crate::{
    client::{Call, Client, base_url, interrupted},
    import::Progress,
    output::{Format, count, json, note},
    problem::{Exit, Failure, plain},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a node may take before the first byte: it writes its state into a file first.
const FIRST_BYTE: Duration = Duration::from_secs(600);
/// How long it may say nothing after that.
const SILENCE: Duration = Duration::from_secs(60);
/// The files that there may be; a server cannot name others.
const SECTIONS: [&str; 5] = ["items", "stock", "reservations", "orders", "movements"];

/// What `export` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct ExportArgs {
    /// The directory to write, which must not be there yet
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The node to take it from, by its HTTP address; any of --endpoints where absent
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// `linearizable` asks the leader for the newest index first; `stale` takes what the node has
    #[arg(long, value_name = "LEVEL", default_value = "linearizable", value_parser = ["linearizable", "stale"])]
    consistency: String,
}

const HELP: &str = "\
Writes about.json and one file each of items, stock, reservations, orders and movements, a JSON object a line, with
nothing left out. `stockroom import DIR` makes a new cluster of them that has the same items, stock, orders and history.
Receipts (answers kept under idempotency keys) are not in it: to keep those, too, take a backup.

Examples:
  stockctl export --to monday
  jq -r 'select(.available == 0) | .sku' monday/stock.ndjson
  stockroom import monday --dir d1 --member 1=127.0.0.1:9081,127.0.0.1:8081";

/// Exports.
///
/// # Errors
/// It could not be done; no directory of that name was left.
pub async fn run(client: &Client, args: &ExportArgs, format: Format) -> Result<Exit, Failure> {
    if args.to.exists() {
        let detail = format!("{} is there already; it was not touched", args.to.display());
        return Err(Failure::local(Exit::Conflict, "file_exists", "The directory is there already", detail)
            .step("choose another name with --to"));
    }
    let nodes: Vec<String> = match &args.from {
        Some(url) => vec![base_url(url)?],
        None => client.endpoints().map(ToOwned::to_owned).collect(),
    };
    let mut last = None;
    for node in &nodes {
        match take(client, node, args).await {
            Ok(about) => {
                print(&about, args, node, format);
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
    Err(last.expect("there is at least one endpoint"))
}

/// A directory that gets its name only when it is whole.
struct Unfinished {
    dir: PathBuf,
    files: BTreeMap<&'static str, (BufWriter<File>, u64)>,
    current: Option<&'static str>,
    end: Option<Value>,
}

impl Unfinished {
    fn create(name: &Path) -> Result<Self, Failure> {
        let mut dir = name.as_os_str().to_owned();
        dir.push(format!(".{}.part", std::process::id()));
        let dir = PathBuf::from(dir);
        std::fs::create_dir_all(&dir).map_err(|error| failed(&dir, &error))?;
        Ok(Unfinished { dir, files: BTreeMap::new(), current: None, end: None })
    }

    /// Takes one line, with its end.
    fn line(&mut self, node: &str, line: &[u8]) -> Result<(), Failure> {
        if self.end.is_some() {
            return Err(Failure::contract(node, "the export goes on behind its end"));
        }
        // No row has a field of either name at its start.
        let marks = line.starts_with(b"{\"section\":") || line.starts_with(b"{\"end\":");
        if !marks {
            let Some((file, lines)) = self.current.and_then(|name| self.files.get_mut(name)) else {
                return Err(Failure::contract(node, "a line before the first section"));
            };
            *lines += 1;
            return file.write_all(line).map_err(|error| failed(&self.dir, &error));
        }
        let mark: Value = serde_json::from_slice(line).map_err(|error| Failure::contract(node, error))?;
        if let Some(end) = mark.get("end") {
            self.end = Some(end.clone());
            return Ok(());
        }
        let name = SECTIONS.into_iter().find(|name| mark["section"] == *name);
        let name = name.ok_or_else(|| Failure::contract(node, format!("unknown section {mark}")))?;
        let path = self.dir.join(format!("{name}.ndjson"));
        let file = File::create_new(&path).map_err(|error| failed(&path, &error))?;
        self.files.insert(name, (BufWriter::with_capacity(1 << 20, file), 0));
        self.current = Some(name);
        Ok(())
    }

    fn lines(&self) -> u64 {
        self.files.values().map(|(_, lines)| lines).sum()
    }

    /// Counts, syncs, and gives it its name.
    fn finish(mut self, node: &str, name: &Path) -> Result<Value, Failure> {
        let Some(about) = self.end.take() else {
            return Err(cut_off(node, "its last line is missing"));
        };
        let failed = |error: std::io::Error| failed(name, &error);
        for (section, (mut file, lines)) in std::mem::take(&mut self.files) {
            if about["lines"][section].as_u64() != Some(lines) {
                let said = plain(&about["lines"][section]);
                return Err(cut_off(node, &format!("{lines} lines of {section} came, of {said}")));
            }
            file.flush().and_then(|()| file.get_ref().sync_all()).map_err(failed)?;
        }
        let path = self.dir.join("about.json");
        std::fs::write(&path, json(&about)).and_then(|()| File::open(&path)?.sync_all()).map_err(failed)?;
        std::fs::rename(&self.dir, name).map_err(failed)?;
        Ok(about)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more where it has its name.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::file(&path.display().to_string(), error)
        .step("nothing was left; choose a place with room with --to, and run it again")
}

fn cut_off(node: &str, why: &str) -> Failure {
    Failure::local(
        Exit::Unavailable,
        "export_interrupted",
        "The export was cut off",
        format!("{node}: {why}"),
    )
    .step("run it again; nothing was left of this one")
}

async fn take(client: &Client, node: &str, args: &ExportArgs) -> Result<Value, Failure> {
    let mut call = Call::get("/v1/admin/export");
    call.headers.push(("Stockroom-Consistency", args.consistency.clone()));
    let mut response = client.open(node, &call, FIRST_BYTE).await?;
    let mut unfinished = Unfinished::create(&args.to)?;
    let mut progress = Progress::new("export", None);
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(SILENCE, response.chunk()) => match chunk {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(error)) => return Err(cut_off(node, &error.to_string())),
                Err(_) => return Err(cut_off(node, "it says nothing any more")),
            },
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
        };
        let Some(chunk) = chunk else { break };
        buffer.extend_from_slice(&chunk);
        let mut from = 0;
        while let Some(length) = buffer[from..].iter().position(|byte| *byte == b'\n') {
            unfinished.line(node, &buffer[from..=from + length])?;
            from += length + 1;
        }
        buffer.drain(..from);
        progress.show(0, || format!("{} lines", count(unfinished.lines())));
    }
    if !buffer.trim_ascii().is_empty() {
        unfinished.line(node, &buffer)?;
    }
    unfinished.finish(node, &args.to)
}

fn print(about: &Value, args: &ExportArgs, node: &str, format: Format) {
    let value = json!({"directory": args.to, "from": node, "about": about});
    format.print(&value, "", || {
        let lines = SECTIONS.map(|name| format!("{} {name}", plain(&about["lines"][name])));
        let (cluster_id, log_index) = (plain(&about["cluster_id"]), plain(&about["log_index"]));
        let dir = args.to.display();
        format!("{dir}\ncluster {cluster_id} at log index {log_index}: {}\n", lines.join(", "))
    });
}
