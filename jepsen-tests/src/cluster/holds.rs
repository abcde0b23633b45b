//! What nemeses of one run have to know of one another: who holds a node down, who may break how many, and
//! which node may end by itself.

use super::Cluster;
use crate::history::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a fault still excuses a node that ends, after it was taken away: what it broke may come to
/// light a little later, and the supervisor looks now and then only.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Why a node may end by itself.
#[derive(Debug)]
pub(super) struct Excuse {
    why: String,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Excuses(BTreeMap<&'static str, Excuse>);

impl Excuses {
    pub(super) fn in_force(&self) -> Option<String> {
        let now = Instant::now();
        let in_force = self.0.values().filter(|excuse| excuse.until.is_none_or(|until| now < until));
        let why: Vec<&str> = in_force.map(|excuse| excuse.why.as_str()).collect();
        (!why.is_empty()).then(|| why.join("; "))
    }
}

impl Cluster {
    /// Says why this node may stop itself from now on: its disk fails, its files are damaged. `by` is the
    /// nemesis that says so.
    pub async fn excuse(&self, id: NodeId, by: &'static str, why: &str) {
        let excuse = Excuse { why: why.to_owned(), until: None };
        self.node(id).process.lock().await.excuses.0.insert(by, excuse);
    }

    /// Takes that back, in a little while.
    pub async fn excuse_ends(&self, id: NodeId, by: &'static str) {
        if let Some(excuse) = self.node(id).process.lock().await.excuses.0.get_mut(by) {
            excuse.until = Some(Instant::now() + AFTERMATH);
        }
    }

    /// Whether the kernel may kill this node from now on, for want of memory.
    pub async fn may_be_killed(&self, id: NodeId, may: bool) {
        self.node(id).process.lock().await.may_be_killed = may;
    }

    /// `kill -9`, and nobody else starts the node until [`Self::give_back`]: its disk or files are worked on.
    /// `false`, and nothing is done, where another nemesis has it down, paused or taken.
    ///
    /// # Errors
    /// Where the process cannot be waited for.
    pub async fn take(&self, id: NodeId, by: &'static str) -> anyhow::Result<bool> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        if !process.holds.is_empty() || process.paused || process.held_down {
            return Ok(false);
        }
        process.holds.insert(by);
        self.kill_process(&node, &mut process).await?;
        Ok(true)
    }

    /// The same with SIGTERM: the node seals its log and ends. `false` also where it did not end cleanly; then
    /// it is started again.
    ///
    /// # Errors
    /// Where it does not end.
    pub async fn take_cleanly(&self, id: NodeId, by: &'static str) -> anyhow::Result<bool> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        let busy = !process.holds.is_empty() || process.paused || process.held_down;
        if busy || process.child.is_none() {
            return Ok(false);
        }
        self.terminate_process(&node, &mut process).await?;
        let clean = self.exits().iter().rev().find(|exit| exit.node == id).is_some_and(|e| e.code == Some(0));
        match clean {
            true => drop(process.holds.insert(by)),
            false => self.spawn(&node, &mut process)?,
        }
        Ok(clean)
    }

    /// Ends what [`Self::take`] began, and starts the node, unless another wants it down.
    ///
    /// # Errors
    /// Where the process cannot be made.
    pub async fn give_back(&self, id: NodeId, by: &'static str) -> anyhow::Result<()> {
        let node = self.node(id);
        let mut process = node.process.lock().await;
        process.holds.remove(by);
        if process.held_down || !process.holds.is_empty() {
            return Ok(());
        }
        self.spawn(&node, &mut process)
    }

    /// Claims a node for a kind of fault of which the cluster stands only a minority, for good or for now.
    /// `false` where that would be one too many, or it is claimed.
    pub fn claim(&self, kind: &'static str, id: NodeId) -> bool {
        let most = usize::try_from((self.options.nodes.saturating_sub(1)) / 2).unwrap_or(usize::MAX);
        let mut claims = self.claims.lock().expect("no panic while held");
        let claimed = claims.entry(kind).or_default();
        claimed.len() < most && claimed.insert(id)
    }

    /// Gives a claim back.
    pub fn unclaim(&self, kind: &'static str, id: NodeId) {
        let mut claims = self.claims.lock().expect("no panic while held");
        claims.entry(kind).or_default().remove(&id);
    }
}

pub(super) type Claims = BTreeMap<&'static str, BTreeSet<NodeId>>;
