//! `stockroom rebuild`: a node whose data directory is damaged, or gone, comes back from its peers.
//!
//! What it voted for and acknowledged may be lost with the directory, so it must not come back under its old id. This
//! command sets the directory aside and leaves a new one in its place, from which the node knows its new id; started as
//! before, it joins as a learner, takes a snapshot from the leader, becomes a voter, and removes the old member. It
//! refuses where the others could not bear that.

use super::{Exit, Refusal};
use crate::config::{Config, ConfigArgs};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use stockroom_raft::{Rebuilt, View, identity_of, known_peers, prepare_rebuild, rebuilt, view_of};
use stockroom_storage::fs::{FileSystem as _, RealFileSystem};

/// What `rebuild` takes: the settings that the node is started with.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Options {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The node's new id: one that no node ever had; the next free one where absent
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    new_id: Option<u64>,
    /// Show what would be done; change nothing
    #[arg(long)]
    plan: bool,
}

const HELP: &str = "\
For a node that stopped itself because its disk or what is on it is damaged, or whose data directory is gone, while a
majority of the others lives. Give it the settings that the node is started with. Nothing is removed: the old directory
is set aside. Afterwards start the node as before: its settings may keep the old id.

Examples:
  stockroom rebuild --config /etc/stockroom.toml
  stockroom rebuild --node-id 3 --data-dir /var/lib/stockroom --join 10.0.0.1:9081,10.0.0.2:9081 --plan

Exit codes: 0 prepared (or planned), 1 error, 2 usage, 4 the node runs, 7 refused as unsafe";

/// How long a peer may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Rebuilds.
///
/// # Errors
/// [`Refusal`]; nothing was changed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let config = options.settings.resolve()?.0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(rebuild(&config, options))?)
}

async fn rebuild(config: &Config, options: &Options) -> Result<ExitCode, Refusal> {
    let dir = &config.data_dir;
    let _stays_stopped = lock(dir)?;
    let mut old = Old::of(config)?;
    let peers = peers_of(config);
    if peers.is_empty() {
        let detail = "neither the settings nor the data directory name another node";
        return Err(Refusal::new(Exit::Usage, "no_peers", "No peer is known", detail)
            .step("name some: --join PEER-ADDRESS,PEER-ADDRESS"));
    }
    let cluster = Others::ask(&peers, &mut old).await?;
    let new = options.new_id.unwrap_or_else(|| cluster.free_id(&old));
    if cluster.members.contains_key(&new) || new == old.node_id {
        let detail = format!("node {new} is, or was, a member");
        return Err(Refusal::new(Exit::Usage, "id_taken", "The new id is taken", detail)
            .step("name one that no node ever had, or leave out --new-id"));
    }
    let aside = aside(dir);
    eprintln!("node {} of cluster {:032x} becomes node {new}", old.node_id, cluster.view.cluster_id);
    let (voters, with) = (cluster.voters.len(), cluster.answering.len());
    eprintln!("  {with} of its {voters} voters answer; node {} leads", cluster.leader);
    if dir_has_files(dir) {
        eprintln!("  {} is set aside as {}", dir.display(), aside.display());
    }
    if options.plan {
        eprintln!("a plan only: nothing was done. To do it: the same without --plan");
        return Ok(ExitCode::SUCCESS);
    }
    set_aside(dir, &aside)?;
    let rebuilt = Rebuilt {
        configured: old.configured,
        replaces: cluster.members.contains_key(&old.node_id).then_some(old.node_id),
        node_id: new,
        join: cluster.addresses(old.node_id),
    };
    prepare_rebuild(dir, &rebuilt)?;
    eprintln!(
        "start it as before; its settings may keep node_id = {}. It joins as a learner, takes a snapshot, becomes a voter, \
         and node {} is removed: stockctl members shows it\nkeep {} until then",
        old.configured,
        old.node_id,
        aside.display()
    );
    println!("{new}");
    Ok(ExitCode::SUCCESS)
}

/// The member that was.
struct Old {
    /// The id in its settings.
    configured: u64,
    /// Its id in the cluster: another one, where it was rebuilt before.
    node_id: u64,
    /// Whether that is only what its settings say: nothing in its directory does.
    guessed: bool,
    peer_address: String,
    cluster_id: Option<u128>,
}

impl Old {
    fn of(config: &Config) -> Result<Self, Refusal> {
        let dir = &config.data_dir;
        // Either may be what is damaged.
        let identity = identity_of(dir).ok().flatten();
        let before = rebuilt(dir).ok().flatten();
        let known =
            identity.map(|identity| identity.node_id).or(before.as_ref().map(|before| before.node_id));
        let configured = config
            .node_id
            .or(before.as_ref().map(|before| before.configured))
            .or(known)
            .ok_or_else(|| {
                Refusal::new(Exit::Usage, "no_node_id", "The node is not known", "node_id is not set")
                    .step("give the settings that the node is started with: --config FILE, or --node-id ID")
            })?;
        let node_id = known.unwrap_or(configured);
        let same = node_id == configured || before.is_some_and(|before| before.configured == configured);
        if !same {
            let detail =
                format!("{} belongs to node {node_id}, the settings say {configured}", dir.display());
            return Err(Refusal::new(Exit::Usage, "other_node", "The directory is another node's", detail)
                .step("give the settings of the node whose directory it is"));
        }
        Ok(Old {
            configured,
            node_id,
            guessed: known.is_none(),
            peer_address: config.peer_address().to_string(),
            cluster_id: identity.map(|identity| identity.cluster_id),
        })
    }

    /// One that was rebuilt before has another id than its settings say. Where that is gone with its directory, the
    /// member at its address is who it was.
    fn find_itself(&mut self, members: &BTreeMap<u64, String>) {
        if self.guessed && !members.contains_key(&self.node_id) {
            let here = members.iter().find(|(_, address)| **address == self.peer_address);
            self.node_id = here.map_or(self.node_id, |(id, _)| *id);
        }
    }
}

fn peers_of(config: &Config) -> Vec<String> {
    let mut peers: BTreeSet<String> = config.join.iter().map(ToString::to_string).collect();
    peers.extend(config.initial_cluster.iter().map(|member| member.address.to_string()));
    peers.extend(known_peers(&config.data_dir));
    peers.remove(&config.peer_address().to_string());
    peers.into_iter().collect()
}

/// The cluster without the node.
struct Others {
    /// As its leader sees it.
    view: View,
    leader: u64,
    members: BTreeMap<u64, String>,
    voters: BTreeSet<u64>,
    /// Voters that answer.
    answering: BTreeSet<u64>,
}

impl Others {
    /// Asks those that are known, and whom they name.
    async fn ask(peers: &[String], old: &mut Old) -> Result<Self, Refusal> {
        let views = Self::views(peers, old).await;
        let is_other = |view: &&View| old.cluster_id.is_some_and(|ours| ours != view.cluster_id);
        if let Some(other) = views.values().find(is_other) {
            return Err(of_another_cluster(other));
        }
        let leads = |view: &&View| view.leader == Some(view.node_id) && view.node_id != old.node_id;
        let view = views.values().find(leads).cloned().ok_or_else(|| nobody_leads(views.len()))?;
        let members =
            view.members.iter().map(|member| (member.node_id, member.peer_address.clone())).collect();
        old.find_itself(&members);
        let voters: BTreeSet<u64> =
            view.members.iter().filter(|member| member.votes).map(|member| member.node_id).collect();
        let answering: BTreeSet<u64> =
            voters.iter().copied().filter(|id| *id != old.node_id && views.contains_key(id)).collect();
        if answering.len() * 2 <= voters.len() {
            return Err(no_majority(old, answering.len(), voters.len()));
        }
        Ok(Others { leader: view.node_id, view, members, voters, answering })
    }

    /// What each node that answers says of the cluster.
    async fn views(peers: &[String], old: &Old) -> BTreeMap<u64, View> {
        let mut views: BTreeMap<u64, View> = BTreeMap::new();
        let (mut asked, mut next) = (BTreeSet::new(), peers.to_vec());
        while !next.is_empty() {
            let answers =
                futures::future::join_all(next.iter().map(|address| view_of(address, ASK_WITHIN))).await;
            asked.extend(next);
            views.extend(answers.into_iter().flatten().map(|view| (view.node_id, view)));
            let named = views.values().flat_map(|view| &view.members);
            let named =
                named.filter(|member| !views.contains_key(&member.node_id) && member.node_id != old.node_id);
            next = named
                .map(|member| member.peer_address.clone())
                .filter(|address| !asked.contains(address))
                .collect();
            next.sort();
            next.dedup();
        }
        views
    }

    fn free_id(&self, old: &Old) -> u64 {
        let highest = self.members.keys().copied().max().unwrap_or(0);
        highest.max(old.node_id).max(old.configured) + 1
    }

    fn addresses(&self, without: u64) -> Vec<String> {
        self.members.iter().filter(|(id, _)| **id != without).map(|(_, address)| address.clone()).collect()
    }
}

fn of_another_cluster(other: &View) -> Refusal {
    let detail = format!("node {} is of cluster {:032x}", other.node_id, other.cluster_id);
    Refusal::new(Exit::Conflict, "other_cluster", "A peer is of another cluster", detail)
        .step("name peers of the node's own cluster with --join")
}

fn nobody_leads(answer: usize) -> Refusal {
    let detail = format!("{answer} of the peers that were asked answer, and none of them leads");
    Refusal::new(Exit::Unsafe, "no_leader", "There is nobody to rebuild it from", detail)
        .step("start the other nodes: a majority of them must live without this one")
        .step("where a majority is lost for good: stockroom recover --plan DIR")
}

fn no_majority(old: &Old, answering: usize, voters: usize) -> Refusal {
    let detail = format!("without node {}, {answering} of the {voters} voters answer", old.node_id);
    Refusal::new(Exit::Unsafe, "quorum_unsafe", "The others are no majority", detail)
        .step("start the other nodes first: what this one has may be needed as long as they are no majority")
        .step("where a majority is lost for good: stockroom recover --plan DIR")
}

/// Nobody may start the node meanwhile, and none may run.
fn lock(dir: &Path) -> Result<Option<stockroom_storage::fs::Lock>, Refusal> {
    match RealFileSystem.lock(&dir.join("log")) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let detail = format!("{} is in use: its node runs", dir.display());
            Err(Refusal::new(Exit::Conflict, "node_runs", "The node runs", detail)
                .step("a node that runs needs no rebuild; to do it all the same stop it first (SIGTERM)"))
        }
        // A disk that is that bad keeps nobody from giving the node another one.
        Err(_) => Ok(None),
    }
}

fn dir_has_files(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// Beside the directory, under a name that says when.
fn aside(dir: &Path) -> PathBuf {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".set-aside-{now}"));
    dir.with_file_name(name)
}

fn set_aside(dir: &Path, aside: &Path) -> Result<(), Refusal> {
    if !dir_has_files(dir) {
        return Ok(());
    }
    std::fs::rename(dir, aside).map_err(|error| {
        let detail = format!("{} cannot be renamed to {}: {error}", dir.display(), aside.display());
        Refusal::new(Exit::Error, "not_set_aside", "The directory cannot be set aside", detail).step(format!(
            "move everything in it to another place by hand (where it is a mount, below another directory), then run this \
             again: it goes on with the empty {}",
            dir.display()
        ))
    })
}
