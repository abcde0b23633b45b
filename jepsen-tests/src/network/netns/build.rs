//! Builds and takes down the namespaces, by `ip` and `nft`.
//!
//! The bridge lives in a namespace of its own, so that no firewall of the host acts between nodes; one
//! virtual wire leads from it to the host, where the harness is. Everything is named after the harness's
//! process, so that what a killed harness left behind can be told from what a living one uses.

use crate::history::NodeId;
use crate::network::End;
use anyhow::{Context as _, bail, ensure};
use std::ffi::OsString;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "stockroom-";
const RUN_NETNS: &str = "/run/netns";
/// The last parts of the addresses: of clients, of the harness's own look at nodes, and of node 0.
const CLIENTS: u8 = 1;
const ADMIN: u8 = 2;
const NODE_ZERO: u8 = 10;
const NODES_MAX: u64 = 200;

/// The names and addresses of one network.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// `stockroom-PID-COUNT`.
    name: String,
    /// The host's end of the wire. Names of interfaces have at most 15 characters.
    wire: String,
    /// The first three numbers of all addresses.
    range: [u8; 3],
}

impl Plan {
    /// Chooses names and addresses that nothing uses.
    pub(super) fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Ok(Plan {
            name: format!("{PREFIX}{pid}-{count}"),
            wire: format!("sr{pid}x{}", count % 10_000),
            range: free_range()?,
        })
    }

    pub(super) fn namespace(&self, node: NodeId) -> String {
        format!("{}-n{node}", self.name)
    }

    pub(super) fn namespace_path(&self, node: NodeId) -> PathBuf {
        Path::new(RUN_NETNS).join(self.namespace(node))
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.range;
        Ipv4Addr::new(a, b, c, last)
    }

    pub(super) fn clients(&self) -> Ipv4Addr {
        self.at(CLIENTS)
    }

    pub(super) fn admin(&self) -> Ipv4Addr {
        self.at(ADMIN)
    }

    /// # Panics
    /// Beyond the nodes that a range has room for.
    pub(super) fn node(&self, node: NodeId) -> Ipv4Addr {
        assert!(node <= NODES_MAX, "a network of namespaces has room for {NODES_MAX} nodes");
        self.at(NODE_ZERO + u8::try_from(node).expect("at most 200"))
    }

    /// Whose an address is.
    pub(super) fn end(&self, address: Ipv4Addr) -> Option<End> {
        let [a, b, c, last] = address.octets();
        match last.checked_sub(NODE_ZERO) {
            _ if [a, b, c] != self.range => None,
            _ if last == CLIENTS => Some(End::Clients),
            Some(node) if node > 0 => Some(End::Node(node.into())),
            _ => None,
        }
    }

    /// The bridge, and the wire to the host.
    pub(super) fn build_switch(&self) -> anyhow::Result<()> {
        let (switch, wire) = (self.switch(), &self.wire);
        ip(&[&format!("netns add {switch}")])?;
        ip(&[
            &format!("-n {switch} link add bridge type bridge stp_state 0 forward_delay 0"),
            &format!("-n {switch} link set bridge up"),
            &format!("link add {wire} type veth peer name host netns {switch}"),
            &format!("-n {switch} link set host master bridge up"),
            // The first address is the one that clients get when they ask for none.
            &format!("addr add {}/24 dev {wire}", self.clients()),
            &format!("addr add {}/24 dev {wire}", self.admin()),
            &format!("link set {wire} up"),
        ])
    }

    /// A node's place, on the bridge.
    pub(super) fn build_node(&self, node: NodeId) -> anyhow::Result<()> {
        let (place, switch, address) = (self.namespace(node), self.switch(), self.node(node));
        ip(&[
            &format!("netns add {place}"),
            &format!("-n {place} link set lo up"),
            &format!("-n {place} link add eth0 type veth peer name n{node} netns {switch}"),
            &format!("-n {switch} link set n{node} master bridge up"),
            &format!("-n {place} addr add {address}/24 dev eth0"),
            &format!("-n {place} link set eth0 up"),
        ])
    }

    /// Takes all of it down. What is not there is no error.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        remove_all(&format!("{}-", self.name))
    }
}

/// Removes what harnesses left behind that are no more.
pub(super) fn remove_leftovers() -> anyhow::Result<()> {
    for name in namespaces() {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            // Another harness may be doing the same just now: what counts is that it is gone.
            let removed = ip(&[&format!("netns del {name}")]);
            ensure!(!namespaces().contains(&name), "a dead run left {name} behind: {removed:?}");
        }
    }
    Ok(())
}

fn remove_all(prefix: &str) -> anyhow::Result<()> {
    // With the namespaces go their ends of the wires, and with those the other ends.
    for name in namespaces().iter().filter(|name| name.starts_with(prefix)) {
        ip(&[&format!("netns del {name}")])?;
    }
    Ok(())
}

fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir(RUN_NETNS).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A range of 256 private addresses to which no route leads. Chosen at random, so that two harnesses
/// that begin together choose differently.
fn free_range() -> anyhow::Result<[u8; 3]> {
    let routes = std::fs::read_to_string("/proc/net/route").context("cannot read /proc/net/route")?;
    let taken: Vec<(u32, u32)> = routes.lines().skip(1).filter_map(route).collect();
    for _ in 0..1000 {
        let range = [10, rand::random_range(64..=254), rand::random()];
        let first = u32::from_be_bytes([range[0], range[1], range[2], 0]);
        if taken.iter().all(|(to, mask)| (first & mask) != (to & mask) && (to & 0xFFFF_FF00) != first) {
            return Ok(range);
        }
    }
    bail!("this machine has routes to all of 10.0.0.0/8: there is no free range of addresses for the nodes")
}

/// Destination and mask of one line, which has them as numbers in the machine's own byte order. The
/// default route is none: it leads everywhere.
fn route(line: &str) -> Option<(u32, u32)> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |at: usize| {
        u32::from_str_radix(columns.get(at)?, 16).ok().map(|number| u32::from_be_bytes(number.to_ne_bytes()))
    };
    let (to, mask) = (number(1)?, number(7)?);
    (mask != 0).then_some((to, mask))
}

/// Runs lines of `ip`, one after another, until one fails.
fn ip(lines: &[&str]) -> anyhow::Result<()> {
    for line in lines {
        let words: Vec<OsString> =
            std::iter::once("ip").chain(line.split_ascii_whitespace()).map(OsString::from).collect();
        run(&words, "")?;
    }
    Ok(())
}

/// Runs a program to its end and gives what it printed.
pub(super) fn run(words: &[OsString], input: &str) -> anyhow::Result<String> {
    let line = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let written = child.stdin.take().context("it was just made")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed: {}", said.trim());
    written.with_context(|| format!("`{line}` did not read its input"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_route_but_not_the_default() {
        let line = "eth0\t000A010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        let (to, mask) = route(line).expect("a route");
        assert_eq!(
            (Ipv4Addr::from(to), Ipv4Addr::from(mask)),
            ([10, 1, 10, 0].into(), [255, 255, 255, 0].into())
        );
        assert_eq!(route("eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"), None);
    }
}
