//! Scrubs under load and among other faults, and damage that only they can find in time.
//!
//! A scrub reads all that a node has on its disk while the node serves. Where nothing is wrong it must end clean.
//! At times a stretch of a file goes bad before: not a byte that nobody needs, but one bit in each sector of the middle
//! half of what is written, so that it covers something that counts wherever records begin. Then a scrub that ends
//! clean has not looked. The node must stop and name the file; the next start mends tables and snapshots by itself, and
//! a node whose log is damaged is rebuilt from its peers.

use super::rebuild::{self, Down};
use super::{Effect, Entry, Injected, Nemesis, choice, damage, leader_or_any, named};
use crate::cluster::{Cluster, Needs};
use crate::history::{Exit, NodeId};
use anyhow::Context as _;
use async_trait::async_trait;
use futures::future::join_all;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a scrub may take to end while other faults go on.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// How long a node that stopped for damage may take until it is back, or has refused to start.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A file that is not needed any more is gone within this.
const UNUSED_GONE_WITHIN: Duration = Duration::from_secs(2);
/// The least that a disk reads or loses.
const SECTOR: usize = 512;
const FLIPPED: u8 = 0x10;
const NAME: &str = "scrub";
/// What a node says that cannot mend itself, or may not.
const NEXT_STEP: &str = "stockroom rebuild";

/// Files of all kinds, so small that some are full and kept; and scrubs so slow that they meet other faults.
fn small_and_kept() -> Needs {
    let mut settings = damage::small().settings;
    settings.retain(|(flag, _)| !["--log-segment-bytes", "--log-keep-bytes"].contains(flag));
    settings.extend([
        ("--log-segment-bytes", (64 << 10).to_string()),
        ("--entry-max-bytes", (32 << 10).to_string()),
        ("--log-keep-bytes", (8 << 20).to_string()),
        ("--scrub-bytes-per-second", (4 << 20).to_string()),
    ]);
    Needs { nodes: 3, settings, ..Needs::default() }
}

/// Those of this file.
pub const ENTRIES: &[Entry] = &[Entry {
    name: NAME,
    kind: "disk",
    about: "scrubs are started on some nodes or all; at times a stretch of a file has gone bad, and they must find it",
    needs: small_and_kept,
    make: || Box::new(Scrub::default()),
}];

#[derive(Default)]
struct Scrub {
    begun: Option<Begun>,
}

struct Begun {
    nodes: Vec<NodeId>,
    damaged: Option<Damaged>,
}

/// A stretch of a file that went bad while its node runs.
struct Damaged {
    node: NodeId,
    file: PathBuf,
    kind: &'static str,
    inode: u64,
    /// A byte of it, as it is now.
    byte: (u64, u8),
    exits_before: usize,
}

/// A file that is full and needed: of the log one between the oldest, of which a part may be purged, and the two newest,
/// which are in use; the newest snapshot; the largest file of rows.
fn needed(dir: &Path, kind: &'static str) -> anyhow::Result<Option<PathBuf>> {
    let mut found = damage::files(dir, kind)?;
    let about = |path: &PathBuf| path.metadata().ok();
    Ok(match kind {
        "wal" if found.len() > 4 => Some(found.swap_remove(found.len() / 2)),
        "wal" => None,
        "snap" => found.into_iter().max_by_key(|path| about(path).and_then(|about| about.modified().ok())),
        _ => {
            found.retain(|path| path.starts_with(dir.join("state")));
            found.into_iter().max_by_key(|path| about(path).map(|about| about.len()))
        }
    })
}

/// Flips a bit in each sector of the middle half of what is written; gives one of the bytes. `None` where that is less
/// than two sectors.
fn spoil(file: &std::fs::File) -> anyhow::Result<Option<(u64, u8)>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let stretch = written / 4..written * 3 / 4;
    if stretch.len() < 2 * SECTOR {
        return Ok(None);
    }
    let mut one = None;
    for at in stretch.step_by(SECTOR) {
        let byte = bytes[at] ^ FLIPPED;
        file.write_all_at(&[byte], at as u64)?;
        one = Some((at as u64, byte));
    }
    Ok(one)
}

impl Damaged {
    /// `None` where the node has nothing yet that could be damaged so, or is gone.
    fn new(cluster: &Cluster, node: NodeId, rng: &mut StdRng) -> anyhow::Result<Option<Self>> {
        let kind = choice(damage::KINDS, rng).expect("there are some");
        let exits_before = cluster.exits().len();
        let Some(file) = needed(&cluster.node(node).data_dir, kind)? else { return Ok(None) };
        // It may be replaced, and removed, at any moment.
        let Ok(opened) = std::fs::File::options().read(true).write(true).open(&file) else { return Ok(None) };
        let inode = opened.metadata()?.ino();
        let byte = spoil(&opened)?;
        Ok(byte.map(|byte| Damaged { node, file, kind, inode, byte, exits_before }))
    }

    fn name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the file is still there, damaged, and needed.
    fn is_there(&self, cluster: &Cluster) -> bool {
        let (at, expected) = self.byte;
        let mut byte = [0];
        let read = std::fs::File::open(&self.file)
            .and_then(|file| file.read_exact_at(&mut byte, at).and_then(|()| file.metadata()));
        let same = read.is_ok_and(|about| about.ino() == self.inode) && byte == [expected];
        let newest = || needed(&cluster.node(self.node).data_dir, "snap").ok().flatten();
        same && (self.kind != "snap" || newest().as_ref() == Some(&self.file))
    }

    fn ended(&self, cluster: &Cluster, code: i32) -> Option<Exit> {
        let mut exits = cluster.exits().into_iter().skip(self.exits_before);
        exits.rfind(|exit| exit.node == self.node && exit.code == Some(code))
    }

    fn found(&self, cluster: &Cluster) -> Option<Exit> {
        self.ended(cluster, damage::STOPPED_ITSELF).or_else(|| self.ended(cluster, damage::REFUSED))
    }
}

async fn status(cluster: &Cluster, id: NodeId) -> Option<Value> {
    cluster.ask(id, "/v1/admin/scrub").await
}

async fn start(cluster: &Cluster, id: NodeId) -> bool {
    cluster.operate(id, "/v1/admin/scrub", &json!({})).await.is_ok_and(|(status, _)| status == 200)
}

/// One whole scrub, begun after this call: the bytes that it read, where it ended clean. `None` where the node ended,
/// or it came to no end in time.
async fn scrubbed(cluster: &Cluster, id: NodeId, deadline: Instant) -> Option<u64> {
    let mut ends_at: Option<u64> = None;
    while Instant::now() < deadline {
        // A node that is down, or paused, may be back in time.
        let Some(now) = status(cluster, id).await else {
            ends_at = None;
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        let (clean, running) = (now["clean"].as_u64()?, now["running"].as_bool()?);
        match ends_at {
            Some(ends_at) if clean >= ends_at => return now["read_bytes"].as_u64(),
            // One that runs already may have read what was damaged before it was.
            _ if running => {}
            // Also where the node was started again meanwhile, and counts from the beginning.
            _ => ends_at = start(cluster, id).await.then_some(clean + 1),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}

/// The node has damage on its disk: it stops for it, or the file goes away.
async fn finds(cluster: &Cluster, damaged: &Damaged) -> Option<Exit> {
    let deadline = Instant::now() + ENDS_WITHIN;
    let mut clean = 0;
    while Instant::now() < deadline {
        let read = tokio::select! {
            read = scrubbed(cluster, damaged.node, deadline) => read,
            exit = until_found(cluster, damaged) => return Some(exit),
        };
        clean += u64::from(read.is_some());
        if !damaged.is_there(cluster) {
            return damaged.found(cluster);
        }
        // Whatever was about to be removed has had its time.
        if clean >= 2 {
            cluster.find(format!(
                "{clean} scrubs of node {} ended clean, and byte {} of {} is not what was written",
                damaged.node,
                damaged.byte.0,
                damaged.file.display()
            ));
            return None;
        }
        tokio::time::sleep(UNUSED_GONE_WITHIN).await;
    }
    damaged.found(cluster)
}

async fn until_found(cluster: &Cluster, damaged: &Damaged) -> Exit {
    loop {
        if let Some(exit) = damaged.found(cluster) {
            return exit;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// It stopped for damage: the next start mends it, or refuses; then it is rebuilt.
async fn comes_back(cluster: &Cluster, damaged: &Damaged) -> anyhow::Result<String> {
    let (id, deadline) = (damaged.node, Instant::now() + COMES_BACK_WITHIN);
    while Instant::now() < deadline {
        if damaged.ended(cluster, damage::REFUSED).is_some() && cluster.take(id, NAME).await? {
            return Ok(Down::now(cluster, id).await.comes_back(cluster).await?.1);
        }
        let stopped = damaged.ended(cluster, damage::STOPPED_ITSELF).map(|exit| exit.at);
        let running = cluster.running_for(id).await.map(|time| time.as_micros());
        let since_stop = stopped.map(|at| u128::from(cluster.now().saturating_sub(at)));
        let is_new = running.zip(since_stop).is_some_and(|(running, since)| running < since);
        if is_new && cluster.wait_ready(id, Duration::ZERO).await.is_ok() {
            rebuild::unclaim(cluster, id);
            return Ok("and came back whole".to_owned());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok("and is not back yet".to_owned())
}

/// What becomes of a node that has, or had, damage on its disk, in words.
async fn end_of(cluster: &Cluster, damaged: &Damaged, found: Option<Exit>) -> anyhow::Result<String> {
    let id = damaged.node;
    if let Some(exit) = found {
        damage::names_the_place(cluster, &exit);
        if !exit.last_line.contains(NEXT_STEP) {
            cluster
                .find(format!("node {id} ended for damage and does not say what to do: {}", exit.last_line));
        }
        let then = comes_back(cluster, damaged).await?;
        return Ok(format!("node {id} stopped for it ({}), {then}", exit.last_line));
    }
    // Down for other faults all the time: it would find it one day.
    if damaged.is_there(cluster) && cluster.take(id, NAME).await? {
        let rebuilt = Down::now(cluster, id).await.comes_back(cluster).await?.1;
        return Ok(format!("it could not be scrubbed in time; {rebuilt}"));
    }
    rebuild::unclaim(cluster, id);
    Ok(format!("{} was not needed for long enough to be read", damaged.name()))
}

#[async_trait]
impl Nemesis for Scrub {
    async fn inject(&mut self, cluster: &Cluster, rng: &mut StdRng) -> anyhow::Result<Option<Injected>> {
        let one = leader_or_any(cluster, 0.4, rng).await.filter(|id| cluster.ids().contains(id));
        let Some(one) = one else { return Ok(None) };
        let (everywhere, with_damage) = (rng.random_bool(0.5), rng.random_bool(0.6));
        let mut damaged = None;
        if with_damage && cluster.is_up(one).await && rebuild::claim(cluster, one) {
            cluster.excuse(one, NAME, &format!("scrub: a file of node {one} has gone bad")).await;
            damaged = Damaged::new(cluster, one, rng)?;
            if damaged.is_none() {
                cluster.excuse_ends(one, NAME).await;
                rebuild::unclaim(cluster, one);
            }
        }
        let nodes = if everywhere { cluster.ids() } else { vec![one] };
        join_all(nodes.iter().map(|id| start(cluster, *id))).await;
        let bad = damaged.as_ref().map_or(String::new(), |damaged| {
            format!("; the middle half of {} of node {one} has gone bad before", damaged.name())
        });
        let what = format!("{}: scrubbed{bad}", named(&nodes));
        self.begun = Some(Begun { nodes: nodes.clone(), damaged });
        Ok(Some(Injected { what, nodes, hold_ms: Some(rng.random_range(0..2_000)) }))
    }

    async fn heal(&mut self, cluster: &Cluster) -> anyhow::Result<Effect> {
        let Begun { nodes, damaged } = self.begun.take().context("it was injected")?;
        let deadline = Instant::now() + ENDS_WITHIN;
        let sound = nodes.iter().filter(|id| damaged.as_ref().is_none_or(|damaged| damaged.node != **id));
        let clean = join_all(sound.map(|id| scrubbed(cluster, *id, deadline)));
        let found = async {
            match &damaged {
                Some(damaged) => finds(cluster, damaged).await,
                None => None,
            }
        };
        let (clean, found) = tokio::join!(clean, found);
        let read: Vec<u64> = clean.iter().flatten().copied().collect();
        let kib = read.iter().sum::<u64>() >> 10;
        let mut evidence = format!("{} of {} scrubs ended clean, {kib} KiB read", read.len(), clean.len());
        let effective = kib > 0 || found.is_some();
        if let Some(damaged) = damaged {
            evidence += &format!("; {}", end_of(cluster, &damaged, found).await?);
            cluster.excuse_ends(damaged.node, NAME).await;
        }
        Ok(Effect { effective, evidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_each_sector_in_the_middle_of_what_was_written_goes_bad() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let before = [vec![7; 8 * SECTOR], vec![0; 100 * SECTOR]].concat();
        std::io::Write::write_all(&mut file, &before).expect("written");
        let opened = std::fs::File::options().read(true).write(true).open(file.path()).expect("it is there");
        let (at, byte) = spoil(&opened).expect("written").expect("long enough");
        let after = std::fs::read(file.path()).expect("read");
        let differs: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(differs, [2, 3, 4, 5].map(|sector| sector * SECTOR));
        assert_eq!((after[usize::try_from(at).expect("small")], byte), (7 ^ FLIPPED, 7 ^ FLIPPED));
    }

    #[test]
    fn a_file_with_little_in_it_is_left_alone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [7; SECTOR]).expect("written");
        let opened = std::fs::File::options().read(true).write(true).open(file.path()).expect("it is there");
        assert_eq!(spoil(&opened).expect("read"), None);
    }
}
