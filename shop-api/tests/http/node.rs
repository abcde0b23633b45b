//! A cluster of one node for a test.

use std::time::Duration;
use stockroom_raft::{Cluster, Phase, RaftOptions, Running, Seams};
use stockroom_storage::StorageOptions;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

/// How long a cluster of one may take to elect itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends with the test.
pub struct Node {
    pub cluster: Cluster,
    _running: Running,
    _dir: tempfile::TempDir,
}

/// `proposals_in_flight` of them are taken at once; more are refused.
pub async fn start(proposals_in_flight: usize) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // sled has one lock for all its instances in a process; a node of its own never meets another.
    let storage = StorageOptions { memory_base: true, ..StorageOptions::new(dir.path()) };
    let options = RaftOptions {
        peer_address: address.clone(),
        http_address: "127.0.0.1:1".into(),
        version: "test".into(),
        // Nobody else could lead: no reason to wait for them.
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 100,
        election_timeout_max_ms: 200,
        proposals_in_flight,
        ..RaftOptions::new(1, dir.path().into(), storage)
    };
    let running = stockroom_raft::start(options, listener, Seams::default()).await.unwrap();
    stockroom_raft::bootstrap(&[(1, address)], Instant::now() + PATIENCE).await.unwrap();
    let mut phase = running.phase.clone();
    let member = async {
        loop {
            if let Phase::Member(cluster) = &*phase.borrow_and_update() {
                return cluster.clone();
            }
            phase.changed().await.unwrap();
        }
    };
    let cluster = timeout(PATIENCE, member).await.expect("the node never became a member");
    let deadline = Instant::now() + PATIENCE;
    cluster.read_index(deadline).await.expect("the node never led");
    while cluster.staleness_ms().is_none() {
        assert!(Instant::now() < deadline, "the node never knew how fresh it is");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Node { cluster, _running: running, _dir: dir }
}
