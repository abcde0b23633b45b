//! Which node a connection comes from.
//!
//! The address does not say: all nodes share 127.0.0.1. The kernel does: `/proc/net/tcp` names the
//! socket behind a local port, and `/proc/PID/fd` the process that holds it. Both can be read without
//! root where the processes are our own children.

use anyhow::Context as _;
use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use crate::history::NodeId;

/// A process may be seen connecting before [`crate::network::Network::started`] has told of it.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A node's process.
    Node(NodeId),
    /// A process that is no node.
    Stranger,
    /// Its socket is closed already: whoever opened it waits for no answer.
    Gone,
}

/// Finds who opened the connection from `local` to `remote`. `pids` is asked anew with every try.
///
/// # Errors
/// Where a node's own descriptors cannot be read: its connections would escape all faults.
pub(super) async fn origin(
    local: SocketAddr,
    remote: SocketAddr,
    pids: impl Fn() -> HashMap<NodeId, u32>,
) -> anyhow::Result<Origin> {
    let mut origin = Origin::Gone;
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let known = pids();
        origin = tokio::task::spawn_blocking(move || look(local, remote, &known)).await??;
        if origin != Origin::Stranger {
            return Ok(origin);
        }
    }
    Ok(origin)
}

fn look(local: SocketAddr, remote: SocketAddr, pids: &HashMap<NodeId, u32>) -> anyhow::Result<Origin> {
    let Some(inode) = inode(local, remote)? else { return Ok(Origin::Gone) };
    for (node, pid) in pids {
        if holds(*pid, inode).with_context(|| format!("cannot tell which connections are node {node}'s"))? {
            return Ok(Origin::Node(*node));
        }
    }
    // A process that died between the two looks would otherwise pass for a stranger.
    Ok(if self::inode(local, remote)? == Some(inode) { Origin::Stranger } else { Origin::Gone })
}

/// The socket with these two addresses, where a process still holds it.
fn inode(local: SocketAddr, remote: SocketAddr) -> anyhow::Result<Option<u64>> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else { return Ok(None) };
    let table = std::fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?;
    Ok(find(&table, local, remote))
}

/// Columns: number, local address, remote address, state, ..., and the inode as the tenth.
fn find(table: &str, local: SocketAddrV4, remote: SocketAddrV4) -> Option<u64> {
    let (local, remote) = (in_proc(local), in_proc(remote));
    table.lines().find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        (columns.nth(1)? == local && columns.next()? == remote).then_some(())?;
        columns.nth(6)?.parse().ok().filter(|inode| *inode != 0)
    })
}

/// As `/proc/net/tcp` writes it: the address as one number in the machine's own byte order.
fn in_proc(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// Whether a process has the socket open. A process that has ended has not.
fn holds(pid: u32, inode: u64) -> std::io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    let entries = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in entries {
        // A descriptor may be closed while we look; a process may end.
        let Ok(entry) = entry else { return Ok(false) };
        if std::fs::read_link(entry.path()).is_ok_and(|link| link == Path::new(&wanted)) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_socket_of_both_addresses() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:2EE0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n   \
             1: 0100007F:8000 0100007F:2EE1 01 00000000:00000000 00:00000000 00000000     0        0 22 1 0\n   \
             2: 0100007F:8000 0100007F:2EE0 01 00000000:00000000 00:00000000 00000000     0        0 33 1 0\n   \
             3: 0100007F:8001 0100007F:2EE0 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0\n";
        let at = |port| SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        assert_eq!(find(table, at(0x8000), at(0x2EE0)), Some(33));
        assert_eq!(find(table, at(0x8001), at(0x2EE0)), None, "held by no process");
        assert_eq!(find(table, at(0x8002), at(0x2EE0)), None);
    }
}
