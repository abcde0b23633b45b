//! `--once`: orders, a leader killed half way through them, and the verdict.

use super::client::{Client, Outcome};
use super::load::{SHOPPERS, Tally, load};
use super::nodes::{Action, Nodes};
use super::progress::Progress;
use super::sample::Sample;
use super::status;
use super::verify::Evidence;
use anyhow::{Context as _, ensure};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const NEW_LEADER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Places the orders, kills the leader half way, and checks all that must hold. True where it does.
///
/// # Errors
/// Where it cannot get that far.
pub async fn run(nodes: &Nodes, client: &Client, sample: &Sample) -> anyhow::Result<bool> {
    let orders = sample.place_orders();
    let (tally, progress) = (Tally::default(), Progress::new("orders", orders.len()));
    let killing = async {
        tally.reached(orders.len() / 2).await;
        kill_the_leader(nodes, client).await
    };
    let loading = load(client, &orders, SHOPPERS, &tally, &progress);
    let (outcomes, killed_at) = tokio::try_join!(loading, killing)?;
    let silence = tally.longest_silence_after(killed_at);
    println!("failover: no order was acknowledged for {} ms after the kill", silence.as_millis());
    super::wait_until_ready(nodes, client).await?;
    Ok(tell(nodes, client, sample, &orders, &outcomes).await)
}

async fn tell(
    nodes: &Nodes,
    client: &Client,
    sample: &Sample,
    orders: &[super::client::Command],
    outcomes: &[Outcome],
) -> bool {
    let verdicts = Evidence { client, sample, orders, outcomes }.check().await;
    for verdict in &verdicts {
        match verdict {
            Ok(what) => println!("  ok      {what}"),
            Err(what) => println!("  FAILED  {what}"),
        }
    }
    let failed = verdicts.iter().filter(|verdict| verdict.is_err()).count();
    if failed == 0 {
        println!("verdict: all {} checks passed on {} nodes", verdicts.len(), nodes.list().len());
    } else {
        println!("verdict: {failed} of {} checks FAILED", verdicts.len());
    }
    failed == 0
}

/// `kill -9`, a new leader, and the old one started again. Returns when it was killed.
async fn kill_the_leader(nodes: &Nodes, client: &Client) -> anyhow::Result<Instant> {
    let (leader, term) = find_leader(client, None).await?;
    let id = u16::try_from(leader).context("the leader is not a node of this playground")?;
    let pid = nodes.get(id).and_then(|node| node.pid).context("the leader has no process")?;
    nodes.act(id, Action::Kill).await;
    let killed_at = Instant::now();
    println!("half way: the leader, node {leader} of term {term}, was killed with kill -9 (pid {pid})");
    let (new, new_term) = match nodes.list().len() {
        // Alone, it can only lead again itself.
        1 => {
            nodes.act(id, Action::Restart).await;
            find_leader(client, Some(term)).await?
        }
        _ => {
            let found = find_leader(client, Some(term)).await?;
            nodes.act(id, Action::Restart).await;
            found
        }
    };
    println!("node {new} leads in term {new_term}; node {leader} was started again");
    Ok(killed_at)
}

/// The leader, of a term after `term`.
async fn find_leader(client: &Client, after: Option<u64>) -> anyhow::Result<(u64, u64)> {
    let deadline = Instant::now() + NEW_LEADER_WITHIN;
    loop {
        let found = status::leader(&status::ask(client).await);
        if let Some((leader, term)) = found.filter(|(_, term)| after.is_none_or(|after| *term > after)) {
            return Ok((leader, term));
        }
        ensure!(Instant::now() < deadline, "no leader within {NEW_LEADER_WITHIN:?}");
        sleep(LOOK_EVERY).await;
    }
}
