//! Who leads, as all parts of a node hear of it.

use crate::core::Core;
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::Arc;
use tokio::sync::watch::Sender;

/// Who leads, as far as is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Leadership {
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// This node does.
    pub(crate) mine: bool,
}

impl Leadership {
    /// What openraft reports now, after this was seen. `leader` is whom it takes for the leader; the vote
    /// is (term, whom it is for).
    fn seen(self, leader: Option<u64>, vote: (u64, u64), leads: bool) -> Self {
        let (term, voted_for) = vote;
        Leadership {
            // openraft knows of a new leader a moment before it reports the vote for it: until then the term is that
            // of the leader before.
            leader: leader.filter(|leader| *leader == voted_for),
            // What it reports before it has read its vote is no term.
            term: term.max(self.term),
            mine: leads,
        }
    }
}

/// Tells all who want to know who leads.
pub(crate) async fn watch(core: Arc<Core>, sender: Sender<Leadership>) {
    let mut metrics = core.raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.state.is_leader() && metrics.current_leader == Some(core.node_id());
            let vote = (metrics.vote.leader_id.term, metrics.vote.leader_id.voted_for);
            sender.borrow().seen(metrics.current_leader, vote, leads)
        };
        sender.send_if_modified(|before| {
            if before.leader != now.leader && now.leader.is_some() {
                metrics::counter!("stockroom_raft_leader_changes_total").increment(1);
                tracing::info!(leader = now.leader, term = now.term, "a leader was elected");
            }
            let changed = *before != now;
            *before = now;
            changed
        });
        if metrics.changed().await.is_err() {
            // openraft ended; keep the sender, so that nobody spins on its loss.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Leadership;

    #[test]
    fn a_leader_is_named_beside_its_own_term_only() {
        let first = Leadership { leader: Some(1), term: 4, mine: false };
        // Node 2 leads term 5, and the vote that is reported is still that for node 1 in term 4.
        let between = first.seen(Some(2), (4, 1), false);
        assert_eq!(between, Leadership { leader: None, term: 4, mine: false });
        let after = between.seen(Some(2), (5, 2), false);
        assert_eq!(after, Leadership { leader: Some(2), term: 5, mine: false });
        // Just after a start openraft reports no vote yet.
        assert_eq!(Leadership { term: 5, ..Leadership::default() }.seen(None, (0, 0), false).term, 5);
    }
}
