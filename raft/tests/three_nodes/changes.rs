//! What operators do to the members, by way of any node.

use crate::support::*;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stockroom_raft::{Change, ChangeError, Cluster, Intent, Plan, Role};
use stockroom_storage::fs::{DiskFile, FileSystem, Lock, RealFileSystem};
use tokio::net::TcpListener;

const DO: Intent = Intent { force: false, plan_only: false };
const FORCE: Intent = Intent { force: true, plan_only: false };
const PLAN: Intent = Intent { force: false, plan_only: true };

async fn refused(cluster: &Cluster, change: Change, id: u64, intent: Intent) -> Plan {
    match cluster.change(change, id, intent, soon()).await {
        Err(ChangeError::Unsafe(plan)) => *plan,
        other => panic!("{other:?}"),
    }
}

async fn until_role(cluster: &TestCluster, on: u64, id: u64, role: Option<Role>) {
    until("it has its role", || async { cluster.role_of(on, id).await == role }).await;
}

/// The leader has heard of all: else a plan counts nodes as silent.
async fn until_all_answer(cluster: &TestCluster) {
    until("all answer", || async {
        let leader = cluster.leader().await;
        let plan = cluster.on(leader).change(Change::Demote, leader, PLAN, soon()).await.expect("a plan");
        plan.before.live == plan.before.voters
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_takes_a_change_and_what_is_unsafe_needs_force() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    until_all_answer(&cluster).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let asked = cluster.on(others[0]);
    let plan = asked.change(Change::Demote, others[1], PLAN, soon()).await.expect("a plan");
    assert_eq!((plan.before.fault_tolerance(), plan.after.fault_tolerance()), (Some(1), Some(0)));
    assert_eq!(plan.unsafe_because[0].code, "loses_fault_tolerance");
    let plan = refused(&asked, Change::Demote, others[1], DO).await;
    assert_eq!(plan.unsafe_because[0].code, "loses_fault_tolerance");
    assert_eq!(cluster.role_of(leader, others[1]).await, Some(Role::Voter), "a refusal changes nothing");

    asked.change(Change::Demote, others[1], FORCE, soon()).await.expect("done");
    until_role(&cluster, others[0], others[1], Some(Role::Learner)).await;
    let again = asked.change(Change::Demote, others[1], DO, soon()).await.expect("it is so");
    assert!(again.already, "{again:?}");
    // It stays one: nobody promotes what was demoted. A leader that did would take it before the node that comes now,
    // which has a higher number and is not caught up yet.
    done(&asked, item("mug")).await;
    let join = vec![cluster.node(leader).address.to_string()];
    cluster.nodes.push(Node::start(4, join, unchanged).await);
    until_role(&cluster, others[0], 4, Some(Role::Voter)).await;
    assert_eq!(cluster.role_of(others[0], others[1]).await, Some(Role::Learner));
    asked.change(Change::Promote, others[1], DO, soon()).await.expect("done");
    until_role(&cluster, others[0], others[1], Some(Role::Voter)).await;
    let nobody = asked.change(Change::Remove, 9, FORCE, soon()).await;
    assert!(matches!(nobody, Err(ChangeError::NoSuchMember(_))), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_first() {
    let cluster = TestCluster::form(3, unchanged).await;
    until_all_answer(&cluster).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    let plan = cluster.on(other).change(Change::Remove, leader, FORCE, soon()).await.expect("done");
    assert!(plan.notes.iter().any(|note| note.contains("handed over")), "{plan:?}");
    until_role(&cluster, other, leader, None).await;
    done(&cluster.on(other), item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_not_done_by_force_either() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    until_all_answer(&cluster).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.node_mut(others[0]).halt().await;
    until("its silence is noticed", || async {
        let plan = cluster.on(leader).change(Change::Remove, others[1], PLAN, soon()).await.expect("a plan");
        plan.before.live == 2
    })
    .await;
    let plan = refused(&cluster.on(others[1]), Change::Remove, others[1], FORCE).await;
    assert_eq!(plan.unsafe_because[0].code, "loses_quorum");
    // The dead one may go, and when it comes back it hears of it.
    cluster.on(others[1]).change(Change::Remove, others[0], DO, soon()).await.expect("done");
    cluster.node_mut(others[0]).restart().await;
    let why = cluster.node(others[0]).stopped().await;
    assert!(why.contains("was removed from the cluster"), "{why}");
    done(&cluster.on(others[1]), item("mug")).await;
}

/// The leader came to the cluster when this one was down, and is no address that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_told_also_where_it_does_not_know_who_leads() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    until_all_answer(&cluster).await;
    let gone = cluster.follower().await;
    cluster.node_mut(gone).halt().await;
    let left: Vec<u64> = (1..=3).filter(|id| *id != gone).collect();
    let join = left.iter().map(|id| cluster.node(*id).address.to_string()).collect();
    cluster.nodes.push(Node::start(4, join, unchanged).await);
    until_role(&cluster, left[0], 4, Some(Role::Voter)).await;
    cluster.on(left[0]).change(Change::Remove, gone, DO, soon()).await.expect("done");
    until("node 4 leads", || async {
        let _ = cluster.on(left[0]).hand_leadership_over(Some(4), soon()).await;
        cluster.leader().await == 4
    })
    .await;
    cluster.node_mut(gone).restart().await;
    let why = cluster.node(gone).stopped().await;
    assert!(why.contains("was removed from the cluster"), "{why}");
}

/// It joined, but nobody could reach it: it never saw who the members are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_never_heard_anything_is_told_that_it_was_removed() {
    let cluster = TestCluster::form(3, unchanged).await;
    let join = cluster.nodes.iter().map(|node| node.address.to_string()).collect();
    let unreachable = |options: &mut stockroom_raft::RaftOptions| options.peer_address = "127.0.0.1:1".into();
    let joining = Node::start(4, join, unreachable).await;
    joining.member().await;
    until_role(&cluster, 1, 4, Some(Role::Learner)).await;
    assert_eq!(joining.cluster().status().members, Vec::new());
    until_all_answer(&cluster).await;
    cluster.on(1).change(Change::Remove, 4, DO, soon()).await.expect("done");
    let why = joining.stopped().await;
    assert!(why.contains("was removed from the cluster"), "{why}");
}

/// The leader dies when the first half of a promotion is in its log and cannot be committed yet, and with it whoever
/// would have seen to the second half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_broke_off_half_way_is_completed() {
    let held = HeldWorker::new("log-writer");
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(match id {
            2 => Node::start_with(id, Arc::new(held.clone())).await,
            _ => Node::start(id, Vec::new(), unchanged).await,
        });
    }
    let mut cluster = TestCluster::form_of(nodes).await;
    until_all_answer(&cluster).await;
    until("node 1 leads", || async {
        let _ = cluster.on(2).hand_leadership_over(Some(1), soon()).await;
        cluster.leader().await == 1
    })
    .await;
    until_all_answer(&cluster).await;
    cluster.on(1).change(Change::Demote, 3, FORCE, soon()).await.expect("done");
    until_role(&cluster, 2, 3, Some(Role::Learner)).await;
    held.hold(true);
    let asked = cluster.on(1);
    let asking = tokio::spawn(async move { asked.change(Change::Promote, 3, FORCE, soon()).await });
    until_role(&cluster, 1, 3, Some(Role::Voter)).await;
    assert!(!asking.is_finished(), "the first half needs node 2");
    asking.abort();
    cluster.node_mut(1).halt().await;
    held.hold(false);
    cluster.node_mut(1).restart().await;
    // And then others can be made, and node 3 is one or the other.
    cluster.on(3).change(Change::Promote, 3, DO, soon()).await.expect("done");
    until_role(&cluster, 2, 3, Some(Role::Voter)).await;
    cluster.on(2).change(Change::Demote, 3, FORCE, soon()).await.expect("done");
    done(&cluster.on(3), item("mug")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_by_way_of_any_node() {
    let cluster = TestCluster::form(3, unchanged).await;
    let mut leader = cluster.leader().await;
    for _ in 0..3 {
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        until_all_answer(&cluster).await;
        let handed = cluster.on(others[0]).hand_leadership_over(Some(others[1]), soon()).await.expect("done");
        assert_eq!((handed.leader, handed.already), (others[1], false));
        leader = cluster.leader().await;
        assert_eq!(leader, others[1]);
    }
    let again = cluster.on(leader).hand_leadership_over(Some(leader), soon()).await.expect("it is so");
    assert!(again.already);
    let nobody = cluster.on(leader).hand_leadership_over(Some(9), soon()).await;
    assert!(matches!(nobody, Err(ChangeError::Refused(_))), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_node_comes_back_under_its_id_at_its_new_address() {
    let mut cluster = TestCluster::form(3, unchanged).await;
    done(&cluster.on(1), item("mug")).await;
    // A follower, and then the leader.
    for round in 0..2 {
        let leader = cluster.leader().await;
        let moving = if round == 0 { cluster.follower().await } else { leader };
        cluster.node_mut(moving).halt().await;
        // Nothing else takes its new port, and its old one is left to nobody.
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        cluster.node_mut(moving).address = elsewhere.local_addr().expect("it is bound");
        drop(elsewhere);
        cluster.node_mut(moving).restart().await;
        let address = cluster.node(moving).address.to_string();
        until("all know where it is", || async {
            cluster.running().all(|node| {
                let members = node.cluster().status().members;
                members.iter().any(|member| member.node_id == moving && member.peer_address == address)
            })
        })
        .await;
        until_all_answer(&cluster).await;
        done(&cluster.on(moving), receive("mug", 1)).await;
        cluster.agree().await;
        let to = cluster.on(moving).hand_leadership_over(Some(moving), soon()).await.expect("it can lead");
        assert_eq!(to.leader, moving);
    }
}

/// The machine's file system with syncs that take longer.
#[derive(Debug, Default)]
struct SlowDisk(Arc<AtomicU64>);

#[derive(Debug)]
struct SlowFile(Arc<dyn DiskFile>, Arc<AtomicU64>);

impl SlowDisk {
    fn slow(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile(file, Arc::clone(&self.0)))
    }
}

impl FileSystem for SlowDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealFileSystem.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(RealFileSystem.create_new(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(RealFileSystem.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove(path)
    }
    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        RealFileSystem.lock(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealFileSystem.sync_dir(dir)
    }
}

impl DiskFile for SlowFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.1.load(Ordering::Relaxed)));
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_hands_over() {
    let mut disks = Vec::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let disk = SlowDisk::default();
        disks.push(Arc::clone(&disk.0));
        nodes.push(Node::start_on(id, Vec::new(), unchanged, Some(Arc::new(disk))).await);
    }
    let cluster = TestCluster::form_of(nodes).await;
    let slow = cluster.leader().await;
    // Far above what the machine's own disk takes while other work goes on.
    disks[usize::try_from(slow).expect("small") - 1].store(1_500, Ordering::Relaxed);
    let other = cluster.follower().await;
    until("another one leads", || async {
        insist(|| cluster.on(other), item("mug")).await.expect("an item");
        cluster.leader().await != slow
    })
    .await;
    insist(|| cluster.on(other), receive("mug", 1)).await.expect("received");
}
