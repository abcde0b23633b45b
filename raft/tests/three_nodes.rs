//! Three nodes in one process: each promise of replication, one test each.

mod support;

use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_on_any_node_is_decided_by_the_leader_and_readable_everywhere() {
    let cluster = TestCluster::form(3, unchanged).await;
    let leader = cluster.leader().await;
    for id in 1..=3 {
        let served = done(&cluster.on(id), item(&format!("mug-{id}"))).await;
        assert_eq!(served.node_id, leader);
        for reader in 1..=3 {
            let shown = cluster.on(reader).read_index(soon()).await.expect("a read index");
            assert!(shown >= served.answer.log_index, "node {reader} shows {shown}");
            let view = cluster.on(reader);
            let view = view.reader().view().expect("a view");
            assert!(view.item(&sku(&format!("mug-{id}"))).expect("readable").is_some());
        }
    }
    cluster.agree().await;
}
