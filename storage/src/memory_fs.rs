//! A disk in memory that can lose power: the simulation's twin of [`crate::fs::RealFileSystem`].
//!
//! What was written and not synced survives or not, sector by sector; names that were not synced survive
//! up to some point in their order; a sync that failed leaves bytes that read well and are on no disk.

use crate::fs::{DiskFile, FileSystem, Lock, Space};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

/// Bytes that a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Writes, syncs and removals that are to go wrong; each counts calls from now, 1 is the next one.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// This sync fails with this error number; what it should have synced never is.
    pub fail_sync: Option<(u64, i32)>,
    /// This write fails with this error number and writes nothing.
    pub fail_write: Option<(u64, i32)>,
    /// This write writes so many bytes and then fails for want of space.
    pub short_write: Option<(u64, usize)>,
    /// With this call that changes something, whatever it is, the power goes.
    pub power_off: Option<u64>,
}

/// A disk, with what is on it and what is only in the page cache of the machine that mounted it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    disk: Arc<Mutex<Disk>>,
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryDisk({} files)", self.lock().names.len())
    }
}

/// A mounted disk. Dead after the next loss of power or [`MemoryDisk::kill`]: what is left running
/// of the old process can do no harm.
#[derive(Debug, Clone)]
pub struct MemoryFileSystem {
    disk: MemoryDisk,
    epoch: u64,
}

#[derive(Debug)]
struct MemoryFile {
    mount: MemoryFileSystem,
    inode: u64,
}

#[derive(Clone, Default)]
struct Disk {
    epoch: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that no directory sync has made durable, in order.
    pending_names: Vec<NameChange>,
    faults: Faults,
    syncs: u64,
    /// Bytes that fit onto it; `None`: any number.
    capacity: Option<u64>,
}

#[derive(Clone, Default)]
struct Inode {
    contents: Vec<u8>,
    on_disk: Vec<u8>,
    /// Sectors that differ, or whose sync failed.
    unsynced: BTreeSet<usize>,
    /// Sectors whose sync failed: the next one thinks they are clean.
    abandoned: BTreeSet<usize>,
    open: u64,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            NameChange::Unlink(path) => drop(names.remove(path)),
        }
    }

    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Link(path, _) | NameChange::Rename(_, path) | NameChange::Unlink(path) => {
                path.parent()
            }
        }
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.contents.len() < end {
            self.contents.resize(end, 0);
        }
        self.contents[offset..end].copy_from_slice(bytes);
        self.unsynced.extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    fn copy_to_disk(&mut self, sectors: impl IntoIterator<Item = usize>) {
        for sector in sectors {
            let from = sector * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(self.contents.len()).min(self.on_disk.len());
            if from < to {
                self.on_disk[from..to].copy_from_slice(&self.contents[from..to]);
            }
        }
    }

    fn sync(&mut self) {
        self.on_disk.resize(self.contents.len(), 0);
        let sectors = std::mem::take(&mut self.unsynced);
        self.copy_to_disk(sectors);
    }

    fn lose_power(&mut self, rng: &mut impl Rng) {
        if rng.random_bool(0.5) {
            self.on_disk.resize(self.contents.len(), 0);
        }
        let sectors: BTreeSet<usize> = self.unsynced.union(&self.abandoned).copied().collect();
        let share = *[0.0, 0.1, 0.5, 0.9, 1.0].get(rng.random_range(0..5)).expect("five of them");
        let survivors: Vec<usize> = sectors.into_iter().filter(|_| rng.random_bool(share)).collect();
        self.copy_to_disk(survivors);
        *self = Inode { contents: self.on_disk.clone(), on_disk: self.on_disk.clone(), ..Inode::default() };
    }
}

/// Counts a fault down; answers it when it is due.
fn due<T: Copy>(fault: &mut Option<(u64, T)>) -> Option<T> {
    let (calls, what) = fault.as_mut()?;
    *calls -= 1;
    if *calls > 0 {
        return None;
    }
    let what = *what;
    *fault = None;
    Some(what)
}

impl Disk {
    /// Bytes of all files.
    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.contents.len() as u64).sum()
    }

    /// Refuses what does not fit: a file that becomes so long.
    fn has_room(&self, inode: u64, length: usize) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let now = self.inodes.get(&inode).map_or(0, |inode| inode.contents.len());
        let more = length.saturating_sub(now) as u64;
        // Files that grow no more go on, also on a disk that was made smaller than what is on it.
        if more > 0 && self.used() + more > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Drops what has no name and nobody holds open.
    fn collect(&mut self) {
        let named: BTreeSet<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let pending: BTreeSet<u64> = self
            .pending_names
            .iter()
            .filter_map(|change| match change {
                NameChange::Link(_, inode) => Some(*inode),
                _ => None,
            })
            .collect();
        self.inodes.retain(|inode, file| file.open > 0 || named.contains(inode) || pending.contains(inode));
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn power_off_if_due(&mut self) {
        let mut fault = self.faults.power_off.take().map(|calls| (calls, ()));
        if due(&mut fault).is_some() {
            self.epoch += 1;
        }
        self.faults.power_off = fault.map(|(calls, ())| calls);
    }
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as a running machine sees it.
    #[must_use]
    pub fn mount(&self) -> Arc<MemoryFileSystem> {
        let epoch = self.lock().epoch;
        Arc::new(MemoryFileSystem { disk: self.clone(), epoch })
    }

    /// A copy of the disk as it is, page cache included.
    #[must_use]
    pub fn fork(&self) -> MemoryDisk {
        let mut copy = self.lock().clone();
        copy.inodes.values_mut().for_each(|inode| inode.open = 0);
        MemoryDisk { disk: Arc::new(Mutex::new(copy)) }
    }

    /// Kills the process that mounted the disk; what it wrote stays, synced or not.
    pub fn kill(&self) {
        let mut disk = self.lock();
        disk.epoch += 1;
        disk.faults = Faults::default();
        disk.inodes.values_mut().for_each(|inode| inode.open = 0);
        disk.collect();
    }

    /// Takes the power away: of what was not synced, `rng` says what survives.
    pub fn lose_power(&self, rng: &mut impl Rng) {
        let mut disk = self.lock();
        let directories: BTreeSet<PathBuf> =
            disk.pending_names.iter().filter_map(|change| change.directory().map(Path::to_owned)).collect();
        let pending = std::mem::take(&mut disk.pending_names);
        for directory in directories {
            let here: Vec<&NameChange> =
                pending.iter().filter(|change| change.directory() == Some(&directory)).collect();
            let survive = rng.random_range(0..=here.len());
            here[..survive].iter().for_each(|change| change.apply(&mut disk.durable_names));
        }
        disk.names = disk.durable_names.clone();
        disk.inodes.values_mut().for_each(|inode| inode.lose_power(rng));
        drop(disk);
        self.kill();
    }

    /// What is to go wrong from now on, in place of what was to.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// So many bytes fit onto it from now on; `None`: any number. What is there stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files.
    #[must_use]
    pub fn used(&self) -> u64 {
        let mut disk = self.lock();
        disk.collect();
        disk.used()
    }

    /// Whether the power went with [`Faults::power_off`] since `mount`, or the disk was taken away.
    #[must_use]
    pub fn is_gone_for(&self, mount: &MemoryFileSystem) -> bool {
        self.lock().epoch != mount.epoch
    }

    /// How often a file was synced, failures included.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// All files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// What a file holds.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.lock();
        Some(disk.inodes.get(disk.names.get(path)?)?.contents.clone())
    }

    /// Changes a file behind the back of whoever has written it, on the disk too. `false` where
    /// there is none of this name.
    pub fn damage(&self, path: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut disk = self.lock();
        let Some(inode) = disk.names.get(path).copied() else { return false };
        let Some(file) = disk.inodes.get_mut(&inode) else { return false };
        damage(&mut file.contents);
        file.on_disk.clone_from(&file.contents);
        file.unsynced.clear();
        true
    }
}

impl MemoryFileSystem {
    /// The disk, where the power is still on.
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        if disk.epoch == self.epoch { Ok(disk) } else { Err(io::Error::other("the power is off")) }
    }

    fn file(&self, disk: &mut Disk, inode: u64) -> io::Result<Arc<dyn DiskFile>> {
        disk.inodes.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?.open += 1;
        Ok(Arc::new(MemoryFile { mount: self.clone(), inode }))
    }
}

impl FileSystem for MemoryFileSystem {
    /// A machine in a simulation runs one node.
    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Arc::new(()))
    }

    /// Directories are durable at once.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        disk.directories.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let disk = self.disk()?;
        if !disk.directories.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(disk.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut disk = self.disk()?;
        if !path.parent().is_some_and(|dir| disk.directories.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.next_inode += 1;
        let inode = disk.next_inode;
        disk.inodes.insert(inode, Inode::default());
        disk.change_name(NameChange::Link(path.to_owned(), inode));
        disk.power_off_if_due();
        self.file(&mut disk, inode)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut disk = self.disk()?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.file(&mut disk, inode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        if !disk.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()));
        disk.power_off_if_due();
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if disk.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.change_name(NameChange::Link(to.to_owned(), inode));
        disk.power_off_if_due();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        if !disk.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Unlink(path.to_owned()));
        disk.power_off_if_due();
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk()?;
        let pending = std::mem::take(&mut disk.pending_names);
        for change in pending {
            if change.directory() == Some(dir) {
                change.apply(&mut disk.durable_names);
            } else {
                disk.pending_names.push(change);
            }
        }
        disk.collect();
        disk.power_off_if_due();
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let mut disk = self.disk()?;
        disk.collect();
        let total = disk.capacity.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Space { total, free: total.saturating_sub(disk.used()) })
    }
}

impl MemoryFile {
    fn with<T>(&self, work: impl FnOnce(&mut Disk, u64) -> io::Result<T>) -> io::Result<T> {
        work(&mut *self.mount.disk()?, self.inode)
    }
}

fn inode(disk: &mut Disk, inode: u64) -> io::Result<&mut Inode> {
    disk.inodes.get_mut(&inode).ok_or_else(|| io::Error::other("a file without an inode"))
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|disk, id| {
            let (from, file) = (position(offset)?, inode(disk, id)?);
            let bytes = file.contents.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|disk, id| {
            if let Some(number) = due(&mut disk.faults.fail_write) {
                return Err(io::Error::from_raw_os_error(number));
            }
            disk.has_room(id, position(offset)? + bytes.len())?;
            let short = due(&mut disk.faults.short_write).map(|length| length.min(bytes.len()));
            let written = &bytes[..short.unwrap_or(bytes.len())];
            inode(disk, id)?.write(written, position(offset)?);
            disk.power_off_if_due();
            if short.is_some() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk, id| {
            disk.syncs += 1;
            let fault = due(&mut disk.faults.fail_sync);
            let file = inode(disk, id)?;
            if let Some(number) = fault {
                file.abandoned.append(&mut file.unsynced);
                return Err(io::Error::from_raw_os_error(number));
            }
            file.sync();
            disk.power_off_if_due();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk, id| Ok(inode(disk, id)?.contents.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|disk, id| {
            let length = position(bytes)?;
            disk.has_room(id, length)?;
            let file = inode(disk, id)?;
            let changed = file.contents.len().min(length)..file.contents.len().max(length);
            file.contents.resize(length, 0);
            file.unsynced.extend(changed.start / SECTOR_BYTES..changed.end.div_ceil(SECTOR_BYTES));
            disk.power_off_if_due();
            Ok(())
        })
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if let Ok(mut disk) = self.mount.disk()
            && let Some(file) = disk.inodes.get_mut(&self.inode)
        {
            file.open = file.open.saturating_sub(1);
        }
    }
}
