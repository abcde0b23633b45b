//! Files that rot: a bit flipped, an end cut off.
//!
//! The node is stopped cleanly before. Then it has sealed its log, and all that is in it is claimed to be
//! durable: whatever damage is done can be told from a torn tail, and no entry may be lost by it in
//! silence. A node that refuses to start and names the file does right; so does one that mends itself from
//! what it has or from the others. One that refused at once gets its file back from the copy that was made
//! before, as its operator would. One that had started meanwhile has written since: the copy would take back
//! what it has acknowledged, so a new node replaces it. Only a minority is damaged at a time.
//!
//! Of sealed files of the shelf a start reads little: their rows are looked at when somebody wants them. So a node that
//! is ready is audited, which reads all of them. Then it has to stop by itself, naming the file, and to come back whole.

use super::{Effect, Entry, Injected, Nemesis, leader_or_any, wipe};
use crate::cluster::{Cluster, Needs};
use crate::history::{Exit, NodeId};
use anyhow::Context as _;
use async_trait::async_trait;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Those of rows that are written once are sealed at this size, so that a short run has some.
const SEALED_AT_BYTES: u64 = 16 << 10;
/// How long a node may take until it is ready, or has refused.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long one that stopped may take until it is whole again, with a snapshot from a peer.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Exit code of a node that refuses to start.
pub(super) const REFUSED: i32 = 1;
/// Exit code of a node that stopped itself.
pub(super) const STOPPED_ITSELF: i32 = 3;
/// The claim to a node whose files are damaged, a minority at a time.
pub(super) const CLAIM: &str = "damaged";
/// What a node prints when it has opened its data.
const STARTED: &str = "listening";

/// Small files of all kinds, and sealed ones.
pub(super) fn small() -> Needs {
    let mut settings = super::small_files();
    settings.push(("--shelf-segment-bytes", SEALED_AT_BYTES.to_string()));
    Needs { nodes: 3, settings, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "bit-flip",
        kind: "disk",
        about: "one bit of a log, snapshot or shelf file of a stopped node flips; it must refuse, stop or mend itself",
        needs: small,
        make: || Box::new(Damage::new("bit-flip", How::Flip)),
    },
    Entry {
        name: "truncate",
        kind: "disk",
        about: "a log, snapshot or shelf file of a stopped node loses its end; it must refuse, stop or mend itself",
        needs: small,
        make: || Box::new(Damage::new("truncate", How::Cut)),
    },
];

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum How {
    Flip,
    Cut,
}

struct Damage {
    name: &'static str,
    how: How,
    done: Option<Done>,
}

struct Done {
    node: NodeId,
    file: PathBuf,
    copy: PathBuf,
    exits_before: usize,
    starts_before: usize,
}

impl Damage {
    fn new(name: &'static str, how: How) -> Self {
        Damage { name, how, done: None }
    }
}

/// Files that may be harmed: of the log, snapshots, and rows that are written once.
pub(super) const KINDS: &[&str] = &["wal", "snap", "rows"];

/// The files of one kind below a data directory.
pub(super) fn files(dir: &Path, kind: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, kind)?);
        } else if path.extension().is_some_and(|extension| extension == kind) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Harms one file within what was written to it; says what was changed.
fn harm(file: &Path, how: How, rng: &mut StdRng) -> anyhow::Result<String> {
    let bytes = std::fs::read(file)?;
    // Segments are zeroed ahead of use, and their headers have a page to themselves: of what is zero there is
    // much, and little of it could be missed.
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = *written.choose(rng).with_context(|| format!("{} is empty", file.display()))?;
    let used = written.last().map_or(0, |last| last + 1);
    let opened = OpenOptions::new().read(true).write(true).open(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match how {
        How::Flip => {
            let bit = rng.random_range(0..8);
            opened.write_all_at(&[bytes[at] ^ (1 << bit)], at as u64)?;
            let mut now = [0];
            opened.read_exact_at(&mut now, at as u64)?;
            let (was, is) = (bytes[at], now[0]);
            anyhow::ensure!(was != is, "the bit of {} did not flip", file.display());
            Ok(format!("byte {at} of {used} in {name} was {was:#04x} and is {is:#04x}"))
        }
        How::Cut => {
            opened.set_len(at as u64)?;
            let now = opened.metadata()?.len();
            Ok(format!("{name} had {used} bytes that were not zero and has {now}"))
        }
    }
}

/// Any file that may be harmed, of each kind as often, however many files it has.
fn choose(dir: &Path, rng: &mut StdRng) -> anyhow::Result<PathBuf> {
    let kind = KINDS.choose(rng).expect("there are some");
    let mut found = files(dir, kind)?;
    if found.is_empty() {
        found = files(dir, "wal")?;
    }
    Ok(found.choose(rng).context("a node has a log")?.clone())
}

/// Harms one of them; says what was changed.
pub(super) fn any_file(dir: &Path, how: How, rng: &mut StdRng) -> anyhow::Result<String> {
    harm(&choose(dir, rng)?, how, rng)
}

/// How it ended since it was damaged, where it ended with this code.
fn ended_since(cluster: &Cluster, done: &Done, code: i32) -> Option<Exit> {
    let mut exits = cluster.exits().into_iter().skip(done.exits_before);
    exits.rfind(|exit| exit.node == done.node && exit.code == Some(code))
}

/// Whoever stops for damage says where it is.
pub(super) fn names_the_place(cluster: &Cluster, exit: &Exit) {
    let dir = cluster.node(exit.node).data_dir.display().to_string();
    if !exit.last_line.contains(&dir) {
        cluster.find(format!("node {} ended for damage and names no file: {}", exit.node, exit.last_line));
    }
}

/// The verdict of an audit, which reads every row of a node; `None` where it did not come to one.
async fn audited(cluster: &Cluster, id: NodeId) -> Option<bool> {
    let url = format!("http://{}/v1/audit", cluster.node(id).addresses.http_listen);
    let request = cluster.admin().post(url).timeout(ANSWER_WITHIN).json(&json!({}));
    let request = request.header("Idempotency-Key", format!("damage-{id}"));
    let text = request.send().await.ok()?.text().await.ok()?;
    let last: Value = serde_json::from_str(text.lines().last()?).ok()?;
    last["verdict"].as_str().map(|verdict| verdict == "clean")
}

/// A node that started in spite of the damage: all its rows are read. Where that finds it, it has to stop and to come back.
async fn read_all(cluster: &Cluster, done: &Done) -> String {
    let id = done.node;
    let deadline = Instant::now() + COMES_BACK_WITHIN;
    loop {
        let stopped = ended_since(cluster, done, STOPPED_ITSELF);
        match (audited(cluster, id).await, stopped) {
            (Some(false), _) => {
                cluster.find(format!(
                    "the audit of node {id} has findings, after {} was damaged",
                    done.file.display()
                ));
                return "it served what was damaged".to_owned();
            }
            (Some(true), None) => {
                return "it started, and all its rows are right: it did without these bytes".into();
            }
            (Some(true), Some(exit)) => {
                names_the_place(cluster, &exit);
                return format!(
                    "it started, stopped when it read them ({}), and came back whole",
                    exit.last_line
                );
            }
            // It may be down, held up by another fault, or on its way to notice.
            (None, _) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            (None, Some(exit)) => {
                return format!("it stopped when it read them ({}), and is not back yet", exit.last_line);
            }
            (None, None) => return "it started, and could not be audited".to_owned(),
        }
    }
}

impl Damage {
    /// What an operator does with a node that refuses its data.
    async fn mend(&self, cluster: &Cluster, done: &Done) -> anyhow::Result<String> {
        let id = done.node;
        if cluster.said(id, STARTED)? > done.starts_before {
            anyhow::ensure!(cluster.claim(wipe::NAME, id), "node {id} is one more than may be lost in a run");
            let new = wipe::replace(cluster, id).await?;
            return Ok(format!("it had started before and written since, so node {new} takes its place"));
        }
        std::fs::copy(&done.copy, &done.file)?;
        cluster.give_back(id, self.name).await?;
        let ready = cluster.wait_ready(id, ANSWER_WITHIN).await.is_ok();
        let again = if ready { "ready again" } else { "not ready yet" };
        Ok(format!("with the file from the copy it is {again}"))
    }
}

#[async_trait]
impl Nemesis for Damage {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let Some(id) = leader_or_any(cluster, 0.3, rng).await else { return Ok(None) };
        if !cluster.claim(CLAIM, id) {
            return Ok(None);
        }
        if !cluster.take_cleanly(id, self.name).await? {
            cluster.unclaim(CLAIM, id);
            return Ok(None);
        }
        let file = choose(&cluster.node(id).data_dir, rng)?;
        let copy = cluster.dir().join(format!("node-{id}.{}.copy", self.name));
        std::fs::copy(&file, &copy)?;
        let changed = harm(&file, self.how, rng)?;
        let what = format!("{} of node {id}, stopped cleanly before: {changed}", self.name);
        cluster.excuse(id, self.name, &what).await;
        let (exits_before, starts_before) = (cluster.exits().len(), cluster.said(id, STARTED)?);
        self.done = Some(Done { node: id, file, copy, exits_before, starts_before });
        cluster.give_back(id, self.name).await?;
        Ok(Some(Injected { what, nodes: vec![id], hold_ms: None }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let done = self.done.take().context("it was injected")?;
        let id = done.node;
        let refusal = || ended_since(cluster, &done, REFUSED);
        let deadline = Instant::now() + ANSWER_WITHIN;
        let ready = || cluster.wait_ready(id, Duration::ZERO);
        while refusal().is_none() && ready().await.is_err() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let evidence = match refusal() {
            Some(exit) => {
                // Until it is taken, the supervisor starts it again and again, and it refuses again.
                while !cluster.take(id, self.name).await? && Instant::now() < deadline {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                names_the_place(cluster, &exit);
                format!("it refused to start: {}; {}", exit.last_line, self.mend(cluster, &done).await?)
            }
            None => match ready().await {
                Ok(()) => read_all(cluster, &done).await,
                Err(error) => format!("it neither refused nor got ready: {error:#}"),
            },
        };
        cluster.excuse_ends(id, self.name).await;
        cluster.unclaim(CLAIM, id);
        std::fs::remove_file(&done.copy)?;
        Ok(Effect { effective: true, evidence: format!("read back as changed; {evidence}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn one_bit_flips_or_the_end_is_cut_within_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("1.wal");
        let before: Vec<u8> = [vec![7; 100], vec![0; 900]].concat();
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            std::fs::write(&file, &before).expect("written");
            harm(&file, How::Flip, &mut rng).expect("harmed");
            let after = std::fs::read(&file).expect("read");
            let differs: Vec<usize> = (0..1_000).filter(|at| before[*at] != after[*at]).collect();
            assert!(matches!(differs[..], [at] if at < 100), "{differs:?}");
            assert_eq!((before[differs[0]] ^ after[differs[0]]).count_ones(), 1);

            std::fs::write(&file, &before).expect("written");
            harm(&file, How::Cut, &mut rng).expect("harmed");
            assert!(std::fs::read(&file).expect("read").len() < 100);
        }
    }
}
