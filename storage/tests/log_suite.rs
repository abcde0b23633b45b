//! openraft's own suite on the real log, with the smallest state machine that it accepts.

use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{StorageError, StoredMembership};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use stockroom_storage::fs::RealFileSystem;
use stockroom_storage::identity::Identity;
use stockroom_storage::log_store::{LogOptions, LogStore};
use stockroom_storage::memory_fs::MemoryDisk;
use stockroom_storage::type_config::TypeConfig;

type Applied = (Option<stockroom_storage::codec::LogId>, StoredMembershipOf<TypeConfig>);

/// Keeps what was applied last, and nothing else.
#[derive(Debug, Clone, Default)]
struct LastApplied {
    applied: Applied,
    snapshot: Option<Applied>,
}

#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<LastApplied>>);

impl Machine {
    fn state(&self) -> MutexGuard<'_, LastApplied> {
        self.0.lock().expect("no test panics while it holds it")
    }
}

fn snapshot_of((last_log_id, last_membership): Applied) -> SnapshotOf<TypeConfig, Applied> {
    let snapshot = (last_log_id, last_membership.clone());
    Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Applied;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Applied>, io::Error> {
        let mut state = self.state();
        state.snapshot = Some(state.applied.clone());
        Ok(snapshot_of(state.applied.clone()))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Applied;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<Applied, io::Error> {
        Ok(self.state().applied.clone())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let mut state = self.state();
            if let EntryPayload::Membership(membership) = entry.payload {
                state.applied.1 = StoredMembership::new(Some(entry.log_id), membership);
            }
            state.applied.0 = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Default::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMetaOf<TypeConfig>,
        snapshot: Applied,
    ) -> Result<(), io::Error> {
        let mut state = self.state();
        state.applied = snapshot.clone();
        state.snapshot = Some(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Applied>>, io::Error> {
        Ok(self.state().snapshot.clone().map(snapshot_of))
    }
}

const IDENTITY: Identity = Identity { cluster_id: 7, node_id: 1, incarnation: 3, group_id: 0 };
/// Small, so that the suite crosses from segment to segment.
const OPTIONS: LogOptions = LogOptions { segment_bytes: 16 << 10, cache_bytes: 200 };

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, Machine> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let log = LogStore::open(MemoryDisk::new().mount(), Path::new("/log"), &IDENTITY, OPTIONS)
            .expect("an empty directory opens");
        Ok(((), log, Machine::default()))
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = LogStore::open(Arc::new(RealFileSystem), dir.path(), &IDENTITY, OPTIONS)
            .expect("an empty directory opens");
        Ok((dir, log, Machine::default()))
    }
}

#[tokio::test]
async fn openraft_accepts_the_log_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

#[tokio::test]
async fn openraft_accepts_the_log_on_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}
