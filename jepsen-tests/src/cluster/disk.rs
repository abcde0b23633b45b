//! A disk of a node's own that can lose power and run full: an ext4 file system in a file, on a loop device.

use anyhow::{Context as _, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Size of the image. It is sparse: it takes what is written.
const BYTES: u64 = 2 << 30;
/// An unmount is refused while anything of a node that was killed is still open: not for long.
const TRIES: u32 = 100;
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// What takes the room away: a file beside the node's data.
const FILLER: &str = "filler";
/// How often what the node writes meanwhile may be in the way of that.
const FILLS: u32 = 100;

/// Goes down to the file system at once and writes nothing more, not even the journal: all that was not
/// synced is gone (Linux: `EXT4_GOING_FLAGS_NOLOGFLUSH`).
const NO_LOG_FLUSH: u32 = 2;

/// The disk. Unmounted when it is dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
    /// Held by whoever changes what is on it, or takes it away for a moment.
    alone: tokio::sync::Mutex<()>,
}

/// What a loss of power did to two files of the harness's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The one that was synced is there, whole.
    pub synced_is_there: bool,
    /// The one that was not synced is there with its contents.
    pub unsynced_is_there: bool,
}

impl Disk {
    /// Makes the image, its file system, and mounts it.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub async fn create(image: &Path, mounted_at: &Path) -> anyhow::Result<Self> {
        let disk =
            Disk { image: image.to_owned(), mounted_at: mounted_at.to_owned(), alone: Default::default() };
        if let Some(dir) = image.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::create_dir_all(mounted_at)?;
        File::create(image)?.set_len(BYTES)?;
        tool("mkfs.ext4", &["-q", "-F", "-m", "0"], &[image]).await?;
        disk.mount().await?;
        std::fs::create_dir_all(disk.data())?;
        File::open(mounted_at)?.sync_all()?;
        Ok(disk)
    }

    /// Where a node's data lies on it.
    pub fn data(&self) -> PathBuf {
        self.mounted_at.join("data")
    }

    /// Takes the power away from a disk whose node is dead, and brings it back.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub async fn lose_power(&self) -> anyhow::Result<Loss> {
        const WORDS: &[u8] = b"written before the power was lost";
        let _alone = self.alone.lock().await;
        let (synced, unsynced) = (self.mounted_at.join("synced"), self.mounted_at.join("unsynced"));
        // In this order: a sync of the directory must not take the second file along.
        let file = File::create(&synced)?;
        std::io::Write::write_all(&mut &file, WORDS)?;
        file.sync_all()?;
        let dir = File::open(&self.mounted_at)?;
        dir.sync_all()?;
        std::fs::write(&unsynced, WORDS)?;
        shut_down(&dir).context("FS_IOC_SHUTDOWN")?;
        drop((file, dir));
        self.unmount().await?;
        self.mount().await?;
        let is_there = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes == WORDS);
        let loss = Loss { synced_is_there: is_there(&synced), unsynced_is_there: is_there(&unsynced) };
        for path in [&synced, &unsynced] {
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        Ok(loss)
    }

    /// Takes all room but so many bytes away; gives how many are left.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub async fn fill(&self, leave: u64) -> anyhow::Result<u64> {
        let _alone = self.alone.lock().await;
        let filler = File::options().create(true).append(true).open(self.mounted_at.join(FILLER))?;
        for _ in 0..FILLS {
            let (now, free) = (filler.metadata()?.len(), self.free()?);
            let length = (now + free).saturating_sub(leave);
            if length <= now {
                break;
            }
            match fallocate(&filler, FallocateFlags::empty(), now, length - now) {
                Ok(()) => {}
                // The node was faster, or the file system needs some of it for itself.
                Err(Errno::NOSPC) => tokio::time::sleep(TRY_AGAIN / 10).await,
                Err(error) => return Err(error).context("filling a disk"),
            }
        }
        self.sync()?;
        self.free()
    }

    /// Gives the room back. Nothing where none was taken.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub async fn make_room(&self) -> anyhow::Result<()> {
        let _alone = self.alone.lock().await;
        match std::fs::remove_file(self.mounted_at.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("making room on a disk");
            }
            _ => {}
        }
        self.sync()
    }

    /// What may still be written to it, in bytes.
    ///
    /// # Errors
    /// Where the machine refuses.
    pub fn free(&self) -> anyhow::Result<u64> {
        let space = statvfs(&self.mounted_at)?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// Of what the harness itself did, none is to be undone by a loss of power.
    fn sync(&self) -> anyhow::Result<()> {
        File::open(&self.mounted_at)?.sync_all().context("syncing a disk")
    }

    async fn mount(&self) -> anyhow::Result<()> {
        tool("mount", &["-t", "ext4", "-o", "loop,noatime"], &[&self.image, &self.mounted_at]).await
    }

    /// Takes it away; the image stays.
    ///
    /// # Errors
    /// Where something of it stays open.
    pub async fn unmount(&self) -> anyhow::Result<()> {
        for _ in 1..TRIES {
            if tool("umount", &[], &[&self.mounted_at]).await.is_ok() || !self.is_mounted() {
                return Ok(());
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        tool("umount", &[], &[&self.mounted_at]).await
    }

    fn is_mounted(&self) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.mounted_at) != self.mounted_at.parent().and_then(device)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted() {
            // Only where a run broke off: its processes may still be ending, so without waiting for them.
            let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.mounted_at).status();
        }
    }
}

async fn tool(program: &str, options: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let path = super::machine::program_path(program).with_context(|| format!("there is no {program}"))?;
    let output = Command::new(path).args(options).args(paths).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}

#[allow(unsafe_code, reason = "the file system's shutdown has no safe wrapper")]
fn shut_down(dir: &File) -> rustix::io::Result<()> {
    use rustix::ioctl::{Setter, ioctl, opcode};
    const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    // SAFETY: the kernel reads one u32 through the pointer that is passed, and writes nothing.
    unsafe { ioctl(dir, Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
}
