//! Three nodes over sled and real files, stopped in order and started again.

#[path = "three_nodes/support.rs"]
#[allow(dead_code, reason = "shared with the larger suite")]
mod support;

use support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_three_nodes_acknowledged_is_there_after_a_clean_restart_of_all() {
    let mut cluster = TestCluster::form(3, |options| options.storage.memory_base = false).await;
    for id in 1..=3 {
        done(&cluster.on(id), item(&format!("mug-{id}"))).await;
        done(&cluster.on(id), receive(&format!("mug-{id}"), 10)).await;
        done(&cluster.on(id), order(&format!("order-{id}"), &format!("mug-{id}"), 4)).await;
    }
    cluster.agree().await;
    for id in 1..=3 {
        cluster.node_mut(id).shut_down().await;
    }
    for id in 1..=3 {
        cluster.node_mut(id).restart().await;
    }
    cluster.leader().await;
    for id in 1..=3 {
        let on = cluster.on(id);
        on.read_index(soon()).await.expect("a read index");
        let view = on.reader().view().expect("a view");
        for n in 1..=3 {
            assert!(view.order(&order_name(&format!("order-{n}"))).expect("readable").is_some());
            let stock = view.stock(&sku(&format!("mug-{n}"))).expect("readable");
            assert_eq!((stock[0].counters.on_hand, stock[0].counters.allocated), (10, 4));
        }
    }
    cluster.agree().await;
    for id in 1..=3 {
        cluster.node_mut(id).shut_down().await;
    }
}
