//! openraft's own suite on the log and the state machine together.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use stockroom_storage::identity::Identity;
use stockroom_storage::log_store::LogStore;
use stockroom_storage::state_machine::StateMachine;
use stockroom_storage::type_config::TypeConfig;
use stockroom_storage::{Storage, StorageOptions, open};

struct Real;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (Storage, tempfile::TempDir)> for Real {
    async fn build(
        &self,
    ) -> Result<((Storage, tempfile::TempDir), LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let identity = Identity { cluster_id: 7, node_id: 1, incarnation: 3, group_id: 0 };
        let options = StorageOptions { memory_base: true, ..StorageOptions::new(dir.path()) };
        let storage = open(options, &identity).await.expect("an empty directory opens");
        let (log, machine) = (storage.log.clone(), storage.state_machine.clone());
        Ok(((storage, dir), log, machine))
    }
}

#[tokio::test]
async fn openraft_accepts_log_and_state_machine() {
    Suite::test_all(Real).await.unwrap();
}
