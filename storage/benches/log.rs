//! Appending to the log: through its writer to a disk in memory (what it costs), and to a real one with its
//! syncs (what it takes).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use openraft::alias::EntryOf;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::RaftLogStorageExt;
use openraft::vote::leader_id_std::CommittedLeaderId;
use std::path::Path;
use std::sync::Arc;
use stockroom_storage::codec::LogId;
use stockroom_storage::fs::{FileSystem, RealFileSystem};
use stockroom_storage::identity::Identity;
use stockroom_storage::log_store::{LogOptions, LogStore};
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::type_config::{BatchBytes, TypeConfig};
use tokio::runtime::Runtime;

const IDENTITY: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 9, group_id: 0 };
/// An entry of about 100 orders.
const BYTES: usize = 8 << 10;

fn entry(index: u64) -> EntryOf<TypeConfig> {
    let log_id = LogId::new(CommittedLeaderId::new(1), index);
    EntryOf::<TypeConfig>::new(log_id, EntryPayload::Normal(BatchBytes(vec![7; BYTES].into())))
}

fn bench_on(c: &mut Criterion, name: &str, fs: Arc<dyn FileSystem>, dir: &Path) {
    let runtime = Runtime::new().expect("a runtime");
    let options = LogOptions { cache_bytes: 4 << 20, ..LogOptions::default() };
    let mut log = LogStore::open(fs, dir, &IDENTITY, options).expect("an empty directory");
    let mut last = 0;
    let mut group = c.benchmark_group(format!("append of 8 KiB, {name}"));
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    for entries in [1, 8] {
        group.bench_function(format!("{entries} at once"), |b| {
            b.iter(|| {
                let appended = log.blocking_append((last + 1..=last + entries).map(entry));
                runtime.block_on(appended).expect("a sound disk");
                last += entries;
            });
        });
        // What was written is not needed: the disk stays small.
        let id = log.log_id(last).expect("appended");
        runtime.block_on(openraft::storage::RaftLogStorage::purge(&mut log, id)).expect("a sound disk");
    }
    group.finish();
}

fn bench(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    bench_on(c, "in memory", MemoryDisk::default().mount(), Path::new("/data/log"));
    bench_on(c, "with syncs", Arc::new(RealFileSystem), &dir.path().join("log"));
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(std::time::Duration::from_secs(2));
    targets = bench
}
criterion_main!(benches);
