//! What this machine has, and what it lacks.

use super::Needs;
use std::path::{Path, PathBuf};

/// Where distributions put libfaketime: below one of these, in a folder of the architecture or not.
const LIBRARIES: &[&str] = &["/usr/lib", "/usr/local/lib", "/usr/lib64", "/lib"];

/// What this machine lacks of it, in words with what would help; `None` where it has everything.
pub fn missing(needs: &Needs) -> Option<String> {
    let mut lacks: Vec<String> = Vec::new();
    if (needs.root || needs.own_disks || needs.cgroups) && !is_root() {
        lacks.push("root".to_owned());
    }
    let tools = [
        (needs.own_disks, &[("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("umount", "mount")][..]),
        (needs.shim, &[("cc", "gcc")][..]),
        (true, &needs.programs[..]),
    ];
    for (program, package) in tools.iter().filter(|(wanted, _)| *wanted).flat_map(|(_, tools)| *tools) {
        if program_path(program).is_none() {
            lacks.push(format!("the program {program} (Debian package {package})"));
        }
    }
    if needs.own_disks && !Path::new("/dev/loop-control").exists() {
        lacks.push("loop devices (/dev/loop-control)".to_owned());
    }
    if needs.faketime && libfaketime().is_none() {
        lacks.push("libfaketime (Debian package libfaketime)".to_owned());
    }
    if needs.cgroups && super::resources::place().is_none() {
        lacks.push("control groups that can be written to, below /sys/fs/cgroup".to_owned());
    }
    if needs.other_program && other_program().is_none() {
        lacks.push(format!("another build of the server (its path in {OTHER_PROGRAM})"));
    }
    (!lacks.is_empty()).then(|| lacks.join(", "))
}

/// Names another build of the server: the one before, or the next.
const OTHER_PROGRAM: &str = "STOCKROOM_OTHER_BIN";

/// Another build of the server, to and from which nodes are upgraded. A variable, so that the runs of a matrix have it, too.
pub fn other_program() -> Option<PathBuf> {
    let named = std::env::var_os(OTHER_PROGRAM).map(PathBuf::from)?;
    named.canonicalize().ok().filter(|file| file.is_file())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program lies: on the path, or where system programs lie.
pub fn program_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The library that fakes time in a multi-threaded process.
pub fn libfaketime() -> Option<PathBuf> {
    let in_folder = |folder: PathBuf| {
        let file = folder.join("faketime/libfaketimeMT.so.1");
        file.is_file().then_some(file)
    };
    LIBRARIES.iter().find_map(|root| {
        let folders = std::fs::read_dir(root).ok()?.flatten().map(|entry| entry.path());
        std::iter::once(PathBuf::from(root)).chain(folders).find_map(in_folder)
    })
}
