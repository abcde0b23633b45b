//! Snapshot files on a disk that fails, and two of them at a time.

use super::*;
use crate::codec::LogId;
use crate::fs::{FileSystem, Lock};
use crate::memory_fs::{Faults, MemoryDisk, MemoryFileSystem};
use crate::shop::version::SERVED;
use crate::store::BaseKind;
use openraft::vote::leader_id_std::CommittedLeaderId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Mutex;
use std::time::Duration;
use std::{fmt, io};

const EIO: i32 = 5;

fn on(fs: Arc<dyn FileSystem>) -> Snapshots {
    Snapshots {
        fs,
        dir: "/snapshot".into(),
        cluster_id: 7,
        group_id: 0,
        served: SERVED,
        underway: Underway::default(),
    }
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

type Meanwhile = Box<dyn FnOnce() + Send>;

/// A disk on which something else happens just before a file gets its name.
struct Interrupted {
    disk: Arc<MemoryFileSystem>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupted({:?})", self.disk)
    }
}

impl FileSystem for Interrupted {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create_new(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn lock(&self, dir: &Path) -> io::Result<Lock> {
        self.disk.lock(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

/// What arrives must not take away the files of what is being built: neither where it gets its name, nor where it is given up.
#[test]
fn one_that_is_built_keeps_its_files_while_another_arrives() {
    let sent = build(&on(MemoryDisk::new().mount()), 20).unwrap();
    for fails in [false, true] {
        let disk = MemoryDisk::new();
        let mount = disk.mount();
        let fs = Arc::new(Interrupted { disk: mount, meanwhile: Mutex::default() });
        let (snapshots, faults, newer) = (on(fs.clone()), disk.clone(), sent.clone());
        let to = snapshots.clone();
        *fs.meanwhile.lock().unwrap() = Some(Box::new(move || {
            let fail_sync = fails.then_some((2, EIO));
            faults.set_faults(Faults { fail_sync, ..Faults::default() });
            assert_eq!(receive(&to, &newer).is_err(), fails);
        }));
        let built = build(&snapshots, 9).unwrap();
        built.scrub(&|_| Ok(())).unwrap();
        let newest = snapshots.newest(true).unwrap().unwrap();
        assert_eq!(newest.log_index(), if fails { 9 } else { 20 });
        // Nor does anything stay for ever.
        build(&snapshots, 30).unwrap();
        let of_it = |path: &PathBuf| path.to_string_lossy().contains("/snapshot/00000000000000000030-");
        assert!(disk.paths().iter().filter(|path| path.starts_with("/snapshot")).all(of_it));
    }
}

/// Two that have the same name have the same names for their files.
#[test]
fn two_of_one_name_take_turns() {
    let underway = Underway::default();
    let begun = underway.begin(Path::new("a"));
    drop(underway.begin(Path::new("b")));
    let (other, (began, told)) = (underway.clone(), std::sync::mpsc::channel());
    let waiting = std::thread::spawn(move || {
        let _begun = other.begin(Path::new("a"));
        began.send(()).unwrap();
    });
    // Too short a time can only hide that it does not wait.
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    drop(begun);
    told.recv().unwrap();
    waiting.join().unwrap();
}
