//! A leader that loses power between submit and sync, and is started again at once.

use crate::support::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use stockroom_raft::RaftOptions;
use stockroom_storage::fs::{DiskFile, FileSystem, Lock, RealFileSystem};
use stockroom_storage::memory_fs::MemoryDisk;

const EIO: i32 = 5;

/// Holds back syncs while it is shut.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().expect("no panic") = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().expect("no panic");
        drop(self.changed.wait_while(shut, |shut| *shut).expect("no panic"));
    }
}

#[derive(Debug)]
struct GatedFileSystem {
    inner: Arc<dyn FileSystem>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl GatedFileSystem {
    fn gated(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile { inner, gate: Arc::clone(&self.gate) })
    }
}

impl FileSystem for GatedFileSystem {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(dir)
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.create_new(path).map(|file| self.gated(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path).map(|file| self.gated(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        self.inner.lock(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
}

impl DiskFile for GatedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
}

/// A node's disk, which can lose power, behind a gate.
struct Disk {
    disk: MemoryDisk,
    gate: Arc<Gate>,
}

impl Disk {
    fn new() -> Self {
        Disk { disk: MemoryDisk::new(), gate: Arc::default() }
    }

    fn mount(&self) -> Option<Arc<dyn FileSystem>> {
        Some(Arc::new(GatedFileSystem { inner: self.disk.mount(), gate: Arc::clone(&self.gate) }))
    }
}

fn in_memory(options: &mut RaftOptions) {
    options.storage.log.segment_bytes = 256 << 10;
}

/// Nodes 1 to 3, and their disks in this order.
async fn three_on_disks() -> ([Disk; 3], TestCluster) {
    let disks = [(); 3].map(|()| Disk::new());
    let mut nodes = Vec::new();
    for (id, disk) in (1..).zip(&disks) {
        nodes.push(Node::start_on(id, Vec::new(), in_memory, disk.mount()).await);
    }
    (disks, TestCluster::form_of(nodes).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_between_submit_and_sync_and_restarted_at_once_loses_nothing_acknowledged() {
    let (disks, mut cluster) = three_on_disks().await;
    done(&cluster.on(1), item("mug")).await;
    done(&cluster.on(1), receive("mug", 1_000)).await;
    let mut acknowledged = Vec::new();
    for round in 0..4_u64 {
        let leader = cluster.leader().await;
        let follower = cluster.follower().await;
        let term = cluster.on(leader).status().term;
        let disk = &disks[leader as usize - 1];
        // From here on the leader's log reaches no disk; the other two are a quorum without it.
        disk.gate.set(true);
        for n in 0..10 {
            let id = format!("order-{round}-{n}");
            let served = done(&cluster.on(follower), order(&id, "mug", 1)).await;
            assert_eq!(served.node_id, leader);
            acknowledged.push(id);
        }
        disk.disk.lose_power(&mut StdRng::seed_from_u64(round));
        disk.gate.set(false);
        cluster.node_mut(leader).halt().await;
        cluster.node_mut(leader).fs = disk.mount();
        cluster.node_mut(leader).restart().await;
        let next = cluster.leader().await;
        let now = cluster.on(next).status().term;
        assert!(now > term, "round {round}: node {next} leads on in term {term}, in which a tail was lost");
        insist(|| cluster.on(leader), receive("mug", 1)).await.expect("the shop agrees");
        // Compares digest and state hash of all three at one index.
        cluster.agree().await;
    }
    for id in 1..=3 {
        let on = cluster.on(id);
        on.read_index(soon()).await.expect("a read index");
        let view = on.reader().view().expect("a view");
        for order in &acknowledged {
            assert!(view.order(&order_name(order)).expect("readable").is_some(), "node {id} has no {order}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_and_says_so_while_the_others_go_on() {
    let (disks, mut cluster) = three_on_disks().await;
    done(&cluster.on(1), item("mug")).await;
    let leader = cluster.leader().await;
    let survivor = cluster.follower().await;
    let faults = stockroom_storage::memory_fs::Faults { fail_sync: Some((1, EIO)), ..Default::default() };
    disks[leader as usize - 1].disk.set_faults(faults);
    // Whether the write that met the failing disk passed is unknown; its key settles it.
    insist(|| cluster.on(survivor), receive("mug", 7)).await.expect("the shop agrees");
    let why = cluster.node(leader).stopped().await;
    assert!(why.contains("its log cannot be written"), "{why}");
    cluster.node_mut(leader).halt().await;
    done(&cluster.on(survivor), receive("mug", 1)).await;
    let on = cluster.on(survivor);
    // The other one may have decided it: a plain view could still be without it.
    on.read_index(soon()).await.expect("a read index");
    let stock = on.reader().view().expect("a view").stock(&sku("mug")).expect("readable");
    assert_eq!(stock[0].counters.on_hand, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_while_nothing_is_written_does_not_wait_for_the_next_write() {
    let disk = Disk::new();
    let node = Node::start_on(1, Vec::new(), in_memory, disk.mount()).await;
    let mut cluster = TestCluster::form_of(vec![node]).await;
    done(&cluster.on(1), item("mug")).await;
    // The first sync is that of the entry; the next one that of the seal that an idle log sets by itself.
    let faults = stockroom_storage::memory_fs::Faults { fail_sync: Some((2, EIO)), ..Default::default() };
    disk.disk.set_faults(faults);
    let _ = cluster.on(1).propose(proposal(receive("mug", 1)), soon()).await;
    let why = cluster.node(1).stopped().await;
    assert!(why.contains("its log cannot be written"), "{why}");
    cluster.node_mut(1).halt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_halts_a_node_finds_its_directory_free() {
    let held = HeldWorker::new("log-segments");
    let node = Node::start_with(1, Arc::new(held.clone())).await;
    let mut cluster = TestCluster::form_of(vec![node]).await;
    done(&cluster.on(1), item("mug")).await;
    held.hold(true);
    tokio::spawn(async move {
        // Time for a halt that does not wait to come back too soon; one that waits ends whenever this is over.
        tokio::time::sleep(Duration::from_millis(300)).await;
        held.hold(false);
    });
    cluster.node_mut(1).halt().await;
    let taken = RealFileSystem.lock(&cluster.node(1).dir.join("log"));
    assert!(taken.is_ok(), "a worker of its storage still has it: {taken:?}");
}
