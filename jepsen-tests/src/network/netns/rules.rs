//! The rules in a node's namespace: what is cut is dropped and counted by the kernel, what is late, lost
//! or out of order goes to the queue, and everything else is left alone.
//!
//! A node's rules hold all directions that end at it, and the one from it to the clients.

use super::build::{Plan, run};
use crate::history::NodeId;
use crate::network::{End, Trouble};
use anyhow::Context as _;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write as _;

const TABLE: &str = "stockroom";
/// The queue of every namespace.
pub(super) const QUEUE: u16 = 1;

/// The name of a counter: where the packets come from, or that they go to clients.
fn counter(from: End, to: End) -> String {
    match (from, to) {
        (_, End::Clients) => "to_clients".to_owned(),
        (End::Clients, _) => "from_clients".to_owned(),
        (End::Node(from), _) => format!("from_{from}"),
    }
}

/// The node in whose namespace a direction is troubled.
pub(super) fn place(from: End, to: End) -> Option<NodeId> {
    match (from, to) {
        (_, End::Node(node)) | (End::Node(node), End::Clients) => Some(node),
        (End::Clients, End::Clients) => None,
    }
}

/// Makes the table, with chains that do nothing yet.
pub(super) fn prepare(plan: &Plan, node: NodeId) -> anyhow::Result<()> {
    let table = format!(
        "table ip {TABLE} {{\n\
           chain late {{ }}\n\
           chain arriving {{ type filter hook input priority 0; }}\n\
           chain leaving {{ type filter hook output priority 0; }}\n\
         }}\n"
    );
    nft(plan, node, &["-f", "-"], &table).map(drop)
}

/// Puts a node's rules in force, all at once; counters go on.
pub(super) fn apply(plan: &Plan, node: NodeId, troubled: &[(End, End, Trouble)]) -> anyhow::Result<()> {
    let mut text = format!("flush chain ip {TABLE} arriving\nflush chain ip {TABLE} leaving\n");
    for (from, to, trouble) in troubled.iter().filter(|(from, to, _)| place(*from, *to) == Some(node)) {
        let packets = match (from, to) {
            (_, End::Clients) => format!("leaving ip daddr {}", plan.clients()),
            (End::Clients, _) => format!("arriving ip saddr {}", plan.clients()),
            (End::Node(from), _) => format!("arriving ip saddr {}", plan.node(*from)),
        };
        let name = counter(*from, *to);
        let fate = if trouble.cut {
            writeln!(text, "add counter ip {TABLE} {name}")?;
            format!("counter name {name} drop")
        } else {
            "jump late".to_owned()
        };
        writeln!(text, "add rule ip {TABLE} {packets} {fate}")?;
    }
    nft(plan, node, &["-f", "-"], &text).map(drop)
}

/// How many packets of a direction a cut has dropped.
pub(super) fn dropped(plan: &Plan, from: End, to: End) -> anyhow::Result<u64> {
    let Some(node) = place(from, to) else { return Ok(0) };
    let listed = nft(plan, node, &["-j", "list", "counters", "table", "ip", TABLE], "")?;
    let listed: Value = serde_json::from_str(&listed).context("nft does not list its counters as JSON")?;
    let name = counter(from, to);
    let counters = listed["nftables"].as_array().into_iter().flatten().map(|entry| &entry["counter"]);
    let found = counters.filter(|counter| counter["name"] == *name);
    Ok(found.filter_map(|counter| counter["packets"].as_u64()).sum())
}

/// Ends all connections of a node but those with the harness's own look at it. The kernel tells both ends.
pub(super) fn reset(plan: &Plan, node: NodeId) -> anyhow::Result<()> {
    let mut line = enter(plan, node);
    line.extend(["ss", "--kill", "--tcp", "not", "dst"].map(OsString::from));
    line.push(plan.admin().to_string().into());
    run(&line, "").map(drop)
}

fn nft(plan: &Plan, node: NodeId, words: &[&str], input: &str) -> anyhow::Result<String> {
    let mut line = enter(plan, node);
    line.push("nft".into());
    line.extend(words.iter().map(OsString::from));
    run(&line, input)
}

/// Words that run a program in a node's namespace. `nsenter` becomes the program, so that the process
/// number is the program's.
pub(super) fn enter(plan: &Plan, node: NodeId) -> Vec<OsString> {
    let mut net = OsString::from("--net=");
    net.push(plan.namespace_path(node));
    vec!["nsenter".into(), net, "--".into()]
}

/// Adds the rule that hands packets of the chain `late` to the queue, in the calling thread's namespace.
///
/// By hand, as `nft`'s own `queue` needs a part of the kernel (`NFT_QUEUE`) that not every kernel has,
/// while the target of iptables (`XT_TARGET_NFQUEUE`) can be used from any table. Without its flag
/// "bypass" packets are dropped, not let through, where nobody reads the queue.
pub(super) fn add_queue_rule() -> anyhow::Result<()> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, &queue_rule(), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // Header of 16 bytes, of which the fifth and sixth say that it is an answer (2); then the error, negative.
    let error = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error.context("the kernel's answer is too short")? {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(-error)).context("the kernel takes no NFQUEUE rule"),
    }
}

/// Numbers from linux/netfilter/nfnetlink.h, nf_tables.h and nf_tables_compat.h.
fn queue_rule() -> Vec<u8> {
    const BATCH_BEGIN: u16 = 16;
    const BATCH_END: u16 = 17;
    const SUBSYSTEM: u16 = 10;
    const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
    const REQUEST: u16 = 1;
    const ACKNOWLEDGE_CREATE_APPEND: u16 = 4 | 0x400 | 0x800;
    const NESTED: u16 = 0x8000;
    const IPV4: u8 = 2;
    // struct xt_NFQ_info of revision 0: the queue's number, padded to 8 bytes.
    let mut information = QUEUE.to_ne_bytes().to_vec();
    information.resize(8, 0);
    let target =
        [attribute(1, b"NFQUEUE\0"), attribute(2, &0u32.to_be_bytes()), attribute(3, &information)].concat();
    let expression = [attribute(1, b"target\0"), attribute(2 | NESTED, &target)].concat();
    let expressions = attribute(1 | NESTED, &expression);
    let rule = [
        attribute(1, format!("{TABLE}\0").as_bytes()),
        attribute(2, b"late\0"),
        attribute(4 | NESTED, &expressions),
    ]
    .concat();
    [
        message(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &[]),
        message(NEW_RULE, REQUEST | ACKNOWLEDGE_CREATE_APPEND, IPV4, 0, &rule),
        message(BATCH_END, REQUEST, 0, SUBSYSTEM, &[]),
    ]
    .concat()
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 20;
    let length = u32::try_from(HEADERS + body.len()).expect("a short message");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: one message at a time, the kernel knows the sender.
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
