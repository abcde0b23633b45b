//! Snapshot files on a disk that fails, and two of them at a time.

use super::*;
use crate::codec::LogId;
use crate::fs::FileSystem;
use crate::memory_fs::{Faults, MemoryDisk};
use crate::shop::version::SERVED;
use crate::store::BaseKind;
use openraft::vote::leader_id_std::CommittedLeaderId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const EIO: i32 = 5;

fn on(fs: Arc<dyn FileSystem>) -> Snapshots {
    Snapshots { fs, dir: "/snapshot".into(), cluster_id: 7, group_id: 0, served: SERVED }
}

/// A state of rows that are written once, most of them in sealed files, and how far it has come.
fn state(fs: Arc<dyn FileSystem>, index: u64) -> (Shelf, Progress) {
    let place = shelf::Place { fs, dir: format!("/state/{index}").into(), segment_bytes: 20_000 };
    let shelf = Shelf::open(place, &Manifest::default(), false).unwrap();
    let mut rng = StdRng::seed_from_u64(index);
    let row = |number: u64| {
        let mut value = vec![0; 3_000];
        rng.fill(&mut value[..]);
        ([&[16][..], &number.to_be_bytes()].concat(), Some(Bytes::from(value)))
    };
    let written = shelf.write(&(0..30).map(row).collect::<Vec<_>>()).unwrap();
    let mut sums = Sums::default();
    written.manifest.add_to(&mut sums);
    let log_id = LogId::new(CommittedLeaderId::new(1), index);
    let mut progress = Progress { log_id: Some(log_id), cluster_version: 1, ..Progress::default() };
    sums.give(&mut progress);
    assert!(shelf.sealed().manifest.files().count() > 1);
    (shelf, progress)
}

fn build(snapshots: &Snapshots, index: u64) -> Result<SnapshotFile, StorageError> {
    let (shelf, progress) = state(snapshots.fs.clone(), index);
    snapshots.write_sharing(progress, shelf.loose(), &shelf.sealed())
}

fn receive(to: &Snapshots, file: &SnapshotFile) -> Result<SnapshotFile, StorageError> {
    let mut receiver = to.receive(&file.id(), file.bytes(), &BaseKind::Memory)?;
    let offset = receiver.offset();
    receiver.write(offset, &file.read_at(offset, file.bytes() as usize)?)?;
    receiver.finish()
}

#[test]
fn a_file_that_arrived_and_whose_sync_failed_arrives_again() {
    let sent = build(&on(MemoryDisk::new().mount()), 9).unwrap();
    for failing in 1.. {
        let disk = MemoryDisk::new();
        let to = on(disk.mount());
        disk.set_faults(Faults { fail_sync: Some((failing, EIO)), ..Faults::default() });
        if receive(&to, &sent).is_ok() {
            assert!(failing > 3, "sealed files are synced, and its own");
            return;
        }
        assert_eq!(disk.paths(), Vec::<PathBuf>::new(), "nothing of it is left");
        receive(&to, &sent).unwrap();
        for seed in 0..10 {
            let disk = disk.fork();
            disk.lose_power(&mut StdRng::seed_from_u64(seed));
            let newest = on(disk.mount()).newest(true).unwrap();
            assert_eq!(newest.map(|file| file.id()), Some(sent.id()), "sync {failing}, seed {seed}");
        }
    }
}
