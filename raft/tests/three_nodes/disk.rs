//! Disks that run out of room: what is refused, what goes on, and that it clears by itself.

use crate::support::*;
use std::sync::Arc;
use stockroom_raft::{Cluster, DiskMarks, ProposeError, RaftOptions, Room};
use stockroom_storage::codec::ProposalBytes;
use stockroom_storage::fs::FileSystem;
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::shop::command::Command;
use stockroom_storage::shop::ids::ReservationId;
use stockroom_storage::shop::reservation::ReservationStatus;
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

fn small_marks(options: &mut RaftOptions) {
    options.storage.log.segment_bytes = 256 << 10;
    options.disk_marks = DiskMarks { low_bytes: Some(24 * MIB), full_bytes: Some(16 * MIB) };
}

/// Nodes 1 to 3, each with a disk of its own that has enough room.
struct Disks {
    disks: Vec<MemoryDisk>,
    cluster: TestCluster,
}

impl Disks {
    async fn form() -> Self {
        let (mut disks, mut nodes) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let disk = MemoryDisk::new();
            disk.set_capacity(Some(1_000 * MIB));
            let fs: Arc<dyn FileSystem> = disk.mount();
            disks.push(disk);
            nodes.push(Node::start_on(id, Vec::new(), small_marks, Some(fs)).await);
        }
        let cluster = TestCluster::form_of(nodes).await;
        let disks = Disks { disks, cluster };
        done(&disks.on_leader().await, item("mug")).await;
        done(&disks.on_leader().await, receive("mug", 100)).await;
        disks
    }

    async fn on_leader(&self) -> Cluster {
        self.cluster.on(self.cluster.leader().await)
    }

    /// Leaves a node's disk so much room.
    fn leave(&self, id: u64, bytes: u64) {
        let disk = &self.disks[usize::try_from(id).expect("small") - 1];
        disk.set_capacity(Some(disk.used() + bytes));
    }

    /// Waits until all nodes have heard what room a node has.
    async fn until_known(&self, id: u64, room: Room) {
        until(&format!("all know that node {id} has {room:?}"), || async {
            self.cluster.running().all(|node| {
                let members = node.cluster().status().members;
                let member = members.into_iter().find(|member| member.node_id == id);
                let report = member.and_then(|member| member.report);
                report.and_then(|report| report.disk).is_some_and(|disk| disk.room == room)
            })
        })
        .await;
    }

    fn others_than(id: u64) -> Vec<u64> {
        (1..=3).filter(|other| *other != id).collect()
    }
}

async fn propose(cluster: &Cluster, proposal: ProposalBytes) -> Result<bool, ProposeError> {
    let served = cluster.propose(proposal, soon()).await?;
    Ok(served.answer.outcome.is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_disk_is_an_alarm_and_takes_nobody_down() {
    let disks = Disks::form().await;
    let follower = disks.cluster.follower().await;
    disks.leave(follower, 20 * MIB);
    disks.until_known(follower, Room::Low).await;
    disks.leave(follower, 10 * MIB);
    disks.until_known(follower, Room::Full).await;
    for node in disks.cluster.running() {
        let members = node.cluster().status().members;
        let alarms = |id| {
            let member = members.iter().find(|member| member.node_id == id);
            member.and_then(|member| member.report.clone()).map(|report| report.alarms).unwrap_or_default()
        };
        let [alarm] = &alarms(follower)[..] else { panic!("{members:?}") };
        assert_eq!(alarm.code, "disk_full");
        assert!(alarm.what.contains("10.0 MiB") || alarm.what.contains("9.9 MiB"), "{alarm:?}");
        assert!(alarm.next.contains("RUNBOOK"), "{alarm:?}");
        assert!(Disks::others_than(follower).into_iter().all(|id| alarms(id).is_empty()));
    }
    // By way of any node, the full one too.
    for id in 1..=3 {
        done(&disks.cluster.on(id), order(&format!("o{id}"), "mug", 1)).await;
    }
    assert!(disks.cluster.on(follower).readiness().iter().all(|(_, ok, _)| *ok), "it is ready");
    disks.leave(follower, 100 * MIB);
    disks.until_known(follower, Room::Enough).await;
    until("the alarm is over", || async { disks.cluster.on(follower).alarms().is_empty() }).await;
    disks.cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_on_a_majority_nothing_new_is_begun_and_what_was_begun_goes_on() {
    let disks = Disks::form().await;
    let hold = ReservationId::chosen("hold").expect("an id");
    done(&disks.on_leader().await, reserve("hold", "mug", 5, 600_000)).await;
    let known = proposal(order("known", "mug", 1));
    assert!(propose(&disks.on_leader().await, known.clone()).await.expect("an answer"));
    let leader = disks.cluster.leader().await;
    let full = Disks::others_than(leader);
    for id in &full {
        disks.leave(*id, 10 * MIB);
    }
    for id in &full {
        disks.until_known(*id, Room::Full).await;
    }
    // What is refused was not done: the same key is taken later.
    let refused = proposal(order("refused", "mug", 1));
    until("new orders are refused", || async {
        match propose(&disks.cluster.on(leader), proposal(reserve("x", "mug", 1, 1))).await {
            Err(ProposeError::DiskFull { nodes }) => nodes == full,
            // Before the leader has looked.
            Ok(_) => false,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    for id in 1..=3 {
        let on = disks.cluster.on(id);
        let answer = propose(&on, refused.clone()).await;
        assert_eq!(answer, Err(ProposeError::DiskFull { nodes: full.clone() }), "by way of node {id}");
        let begun = [item("cup"), receive("mug", 1), reserve("y", "mug", 1, 60_000)];
        for command in begun {
            let answer = propose(&on, proposal(command.clone())).await;
            assert!(matches!(answer, Err(ProposeError::DiskFull { .. })), "{command:?}: {answer:?}");
        }
        // Done before the disks were full: it hears its answer again.
        assert!(propose(&on, known.clone()).await.expect("the answer that is kept"));
        on.read_index(soon()).await.expect("reads go on");
    }
    // In one batch, each for itself.
    let both = vec![proposal(Command::CancelReservation(hold)), proposal(reserve("z", "mug", 1, 60_000))];
    let answers = disks.cluster.on(full[0]).propose_all(both, soon()).await;
    assert!(answers[0].as_ref().is_ok_and(|served| served.answer.outcome.is_ok()), "{answers:?}");
    assert!(matches!(answers[1], Err(ProposeError::DiskFull { .. })), "{answers:?}");
    disks.cluster.agree().await;
    for node in disks.cluster.running() {
        assert_eq!(reservation(&node.cluster(), "hold"), Some(ReservationStatus::Cancelled));
        assert_eq!(reservation(&node.cluster(), "y"), None, "refused is not done");
    }
    // Room on one of them is a majority with room; it clears by itself.
    disks.leave(full[0], 100 * MIB);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match propose(&disks.cluster.on(full[1]), refused.clone()).await {
            Ok(placed) => break assert!(placed),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
    disks.cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_hands_over_and_nothing_is_refused_for_it() {
    let disks = Disks::form().await;
    let leader = disks.cluster.leader().await;
    disks.leave(leader, 10 * MIB);
    until("another one leads", || async {
        let placed = propose(&disks.cluster.on(leader), proposal(receive("mug", 1))).await;
        assert!(!matches!(placed, Err(ProposeError::DiskFull { .. })), "{placed:?}");
        disks.cluster.leader().await != leader
    })
    .await;
    done(&disks.cluster.on(leader), order("after", "mug", 1)).await;
    disks.cluster.agree().await;
}
