//! A real cluster on both networks, where `NETWORK_TEST_SERVER` names a server: the leader is partitioned away,
//! another leads; healed, one leads again.
//!
//! Not `STOCKROOM_...`: a server refuses to start where its environment has such a name that it does not know.

use super::networks;
use jepsen_tests::client::Mischief;
use jepsen_tests::cluster::{Cluster, Needs, Options};
use jepsen_tests::network::{End, Trouble};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced() {
    let Some(binary) = std::env::var_os("NETWORK_TEST_SERVER").map(PathBuf::from) else {
        return eprintln!("skipped: NETWORK_TEST_SERVER names no server");
    };
    for network in networks(3).await {
        let name = network.name();
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            binary: binary.clone(),
            dir: dir.path().to_owned(),
            nodes: 3,
            needs: Needs::default(),
            environment: Vec::new(),
            network: network.clone(),
            epoch: Instant::now(),
            mischief: Arc::<Mischief>::default(),
        };
        let cluster = Cluster::start(options).await.expect("a cluster");
        let old = agreed(&cluster, &[1, 2, 3]).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
        let ends = others.iter().map(|id| (End::Node(old), End::Node(*id)));
        let links: Vec<_> = ends.flat_map(|(a, b)| [(a, b, Trouble::CUT), (b, a, Trouble::CUT)]).collect();
        network.impose("partition", &links).await.expect("imposed");
        let begun = Instant::now();
        let new = agreed(&cluster, &others).await;
        assert_ne!(new, old);
        println!("{name}: node {old} cut off, node {new} leads after {:?}", begun.elapsed());
        let mut met = 0;
        for (from, to, _) in &links {
            met += network.harmed(*from, *to).await.expect("can be read");
        }
        assert!(met > 0, "{name}: the cut met nothing");
        network.lift("partition").await.expect("lifted");
        let begun = Instant::now();
        let one = agreed(&cluster, &[1, 2, 3]).await;
        println!("{name}: healed, node {one} leads for all after {:?}; {met} were held", begun.elapsed());
        cluster.shutdown().await.expect("ends cleanly");
    }
}

/// Waits until these nodes name one of themselves, all the same and in the same term.
async fn agreed(cluster: &Cluster, nodes: &[u64]) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let samples = futures::future::join_all(nodes.iter().map(|id| cluster.sample(*id))).await;
        let views: Option<Vec<_>> = samples
            .into_iter()
            .map(|sample| sample.and_then(|sample| Some((sample.leader?, sample.term))))
            .collect();
        if let Some(views) = views
            && views.iter().all(|view| *view == views[0])
            && nodes.contains(&views[0].0)
        {
            return views[0].0;
        }
        assert!(Instant::now() < deadline, "nodes {nodes:?} agree on no leader");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
