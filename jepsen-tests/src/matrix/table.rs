//! Which runs there are.

use crate::cluster::Needs;
use crate::nemesis::{self, Entry};
use crate::run::plan::NetworkKind::{self, Loopback, Netns};
use crate::workload;
use xxhash_rust::xxh3::xxh3_64;

/// One run of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What clients ask for.
    pub workload: &'static str,
    /// What is done meanwhile.
    pub nemeses: Vec<&'static str>,
    /// How many nodes.
    pub nodes: u64,
    /// How long, in seconds.
    pub time_s: u64,
    /// What lies between the nodes.
    pub network: NetworkKind,
}

type Short = (&'static str, &'static [&'static str]);

fn rows(table: &[Short], nodes: u64, time_s: u64, network: NetworkKind) -> Vec<Row> {
    table
        .iter()
        .map(|(workload, nemeses)| Row { workload, nemeses: nemeses.to_vec(), nodes, time_s, network })
        .collect()
}

/// The runs of a matrix.
pub fn of(which: &str) -> Vec<Row> {
    match which {
        "ci" => rows(CI, 3, 24, Loopback),
        "full" => full(),
        _ => rows(QUICK, 3, 40, Loopback),
    }
}

/// A little more than three minutes in all, and many faults in them.
const CI: &[Short] = &[
    ("stock", &["kill", "partition"]),
    ("orders", &["pause", "partition-leader"]),
    ("retries", &["kill-leader", "duplicates"]),
    ("unique", &["kill-all"]),
    ("sessions", &["partition", "pause"]),
    ("orders", &["rolling-restart", "leadership", "backup"]),
];

/// Twenty-five minutes in all: every workload, and every nemesis that needs neither root, nor five nodes, nor more
/// than the C compiler that building needs anyway.
const QUICK: &[Short] = &[
    ("stock", &["kill", "partition"]),
    ("orders", &["kill", "partition", "pause"]),
    ("flash-sale", &["kill-leader", "partition-leader"]),
    ("retries", &["kill", "partition", "duplicates"]),
    ("expiry", &["kill", "partition", "pause"]),
    ("transfers", &["kill-majority", "partition-halves"]),
    ("sessions", &["kill", "partition", "slow-net"]),
    ("stock", &["kill-at-start", "slow-sync"]),
    ("stock", &["pause-kill-resume"]),
    ("stock", &["sync-error", "disk-full"]),
    ("orders", &["kill-majority", "short-write"]),
    ("orders", &["scrub", "partition-one-way"]),
    ("orders", &["bit-flip"]),
    ("retries", &["kill-leader", "torn-tail"]),
    ("retries", &["flapping"]),
    ("transfers", &["partition-bridge", "pause"]),
    ("unique", &["kill-leader", "lossy-net"]),
    ("unique", &["kill-all", "partition"]),
    ("unique", &["lagging"]),
    ("unique", &["kill-in-snapshot", "wipe"]),
    ("unique", &["truncate", "write-error"]),
    ("sessions", &["partition-clients", "slow-net"]),
    ("flash-sale", &["kill", "thin-net"]),
    ("expiry", &["kill-leader", "flapping"]),
    ("orders", &["members", "kill", "partition"]),
    ("unique", &["remove-partitioned", "kill"]),
    ("stock", &["promote-kill", "partition"]),
    ("retries", &["leadership", "pause", "kill"]),
    ("transfers", &["rolling-restart", "partition"]),
    ("unique", &["backup", "members", "leadership"]),
    ("unique", &["rebuild", "kill"]),
];

/// Two to three hours in all. It follows from the list of nemeses, so that none is forgotten: each alone;
/// those of the network again on real packets; every workload under crashes and partitions on five nodes;
/// and what bends clocks, disks, members and resources together with crashes and partitions.
fn full() -> Vec<Row> {
    let mut rows = Vec::new();
    for entry in nemesis::all() {
        let nodes = if hash(entry).is_multiple_of(2) { 5 } else { 3 };
        rows.push(alone(entry, nodes, Loopback));
    }
    for entry in nemesis::all().filter(|entry| entry.kind == "network") {
        rows.push(alone(entry, 5, Netns));
    }
    for workload in workload::ALL {
        let nemeses = vec!["kill", "partition", "pause"];
        rows.push(Row { workload: workload.name, nemeses, nodes: 5, time_s: 120, network: Netns });
    }
    for entry in nemesis::all().filter(|entry| !matches!(entry.kind, "process" | "network")) {
        let together = Row { time_s: 90, ..alone(entry, 5, Netns) };
        rows.push(Row { nemeses: vec![entry.name, "kill", "partition"], ..together });
    }
    for (workload, nemeses) in OPERATORS {
        rows.push(Row { workload, nemeses: nemeses.to_vec(), nodes: 3, time_s: 90, network: Loopback });
    }
    rows
}

/// What operators do at the same time, and while disks and processes fail.
const OPERATORS: &[Short] = &[
    ("unique", &["members", "backup", "leadership", "pause"]),
    ("orders", &["remove-partitioned", "rolling-restart"]),
    ("stock", &["promote-kill", "leadership", "pause"]),
    ("retries", &["members", "lagging"]),
    ("unique", &["wipe", "members", "backup"]),
    ("transfers", &["rolling-restart", "slow-sync", "leadership"]),
    ("orders", &["rebuild", "scrub", "pause"]),
    ("unique", &["rebuild", "members", "partition-leader"]),
    ("stock", &["no-room", "kill-majority"]),
    ("retries", &["no-room", "power-loss", "backup"]),
];

/// Choices come from its name and not from its place, so that a nemesis more does not rename the runs of others.
fn hash(entry: &Entry) -> u64 {
    xxh3_64(entry.name.as_bytes())
}

/// A nemesis alone, with a workload that notices what it may break.
fn alone(entry: &Entry, nodes: u64, network: NetworkKind) -> Row {
    let fitting: &[&'static str] = match entry.kind {
        "clock" => &["expiry", "sessions"],
        "disk" => &["unique", "stock", "orders", "retries"],
        "cluster" => &["unique", "orders", "stock"],
        "network" => &["stock", "sessions", "retries", "orders", "transfers", "flash-sale"],
        _ => &["stock", "retries", "unique", "orders", "transfers", "flash-sale"],
    };
    let choice = usize::try_from(hash(entry) / 2 % fitting.len() as u64).unwrap_or(0);
    let Needs { nodes: fewest, .. } = (entry.needs)();
    let nodes = nodes.max(fewest);
    Row { workload: fitting[choice], nemeses: vec![entry.name], nodes, time_s: 60, network }
}

/// What a planted build with no bug chosen has to pass.
pub fn control() -> Vec<Row> {
    rows(&[("stock", &["kill", "partition"]), ("unique", &["kill-all"])], 3, 30, Loopback)
}

/// Ordinary runs that should notice a bug, the likeliest first. A bug that is not known here is hunted with all
/// kinds.
pub fn against(bug: &str) -> Vec<Row> {
    let table: &[Short] = match bug {
        "ack-before-sync" => {
            &[("unique", &["kill-all"]), ("retries", &["kill-all"]), ("stock", &["kill-all"])]
        }
        "read-without-read-index" => {
            &[("stock", &["partition", "pause"]), ("transfers", &["pause"]), ("orders", &["partition"])]
        }
        "forget-receipts-on-failover" => &[("retries", &["kill-leader"]), ("retries", &["partition-leader"])],
        "apply-twice-after-restart" => {
            &[("transfers", &["kill"]), ("stock", &["kill"]), ("orders", &["kill"])]
        }
        "oversell-within-a-millisecond" => &[("flash-sale", &["kill"]), ("stock", &["kill"])],
        "expire-by-local-clock" => &[("expiry", &["clock-jump"]), ("expiry", &["clock-skew", "kill"])],
        "snapshot-misses-a-row" => &[("unique", &["lagging"]), ("orders", &["lagging"])],
        "lose-memtable-on-checkpoint" | "half-order" => {
            &[("orders", &["kill"]), ("unique", &["kill"]), ("stock", &["kill-all"])]
        }
        "vote-not-synced" => &[
            ("unique", &["kill-majority"]),
            ("stock", &["kill-majority", "partition"]),
            ("retries", &["kill-all"]),
        ],
        "leader-restore" => &[("unique", &["kill-leader", "slow-sync"]), ("unique", &["kill-leader"])],
        "stale-lease-read" => &[
            ("stock", &["partition-leader"]),
            ("transfers", &["partition-leader", "pause"]),
            ("orders", &["partition-leader"]),
        ],
        "duplicate-on-retry" => {
            &[("unique", &["kill-leader", "partition-leader"]), ("retries", &["kill-leader", "pause"])]
        }
        _ => &[
            ("unique", &["kill", "partition"]),
            ("stock", &["kill", "partition", "pause"]),
            ("orders", &["kill-all", "partition"]),
            ("retries", &["kill-leader", "duplicates"]),
        ],
    };
    rows(table, 3, 30, Loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::plan::{find_nemesis, find_workload};
    use std::collections::BTreeSet;

    /// Beside the time of the clients: starting, healing, final reads, audits, stopping, judging.
    const OVERHEAD_S: u64 = 8;

    fn took(rows: &[Row]) -> u64 {
        rows.iter().map(|row| row.time_s + OVERHEAD_S).sum()
    }

    #[test]
    fn each_matrix_keeps_to_its_time() {
        assert!(took(&of("ci")) <= 200, "{} s", took(&of("ci")));
        assert!(took(&of("quick")) <= 25 * 60, "{} s", took(&of("quick")));
        assert!(took(&of("full")) <= 3 * 60 * 60, "{} s", took(&of("full")));
    }

    #[test]
    fn rows_name_what_there_is_and_no_two_are_the_same() {
        for which in ["ci", "quick", "full"] {
            let mut names = BTreeSet::new();
            for row in of(which).into_iter().chain(control()).chain(against("ack-before-sync")) {
                find_workload(row.workload).expect("there is one");
                for name in &row.nemeses {
                    let entry = find_nemesis(name).expect("there is one");
                    assert!((entry.needs)().nodes <= row.nodes, "{}", row.name());
                }
                names.insert(row.name());
            }
            for row in of(which) {
                assert_eq!(of(which).iter().filter(|other| other.name() == row.name()).count(), 1);
            }
        }
    }

    #[test]
    fn ci_and_quick_need_nothing_that_building_does_not() {
        for row in of("ci").into_iter().chain(of("quick")) {
            assert_eq!((row.nodes, row.network), (3, Loopback), "{}", row.name());
            for name in &row.nemeses {
                let needs = (find_nemesis(name).expect("there is one").needs)();
                let Needs { settings, nodes, shim, .. } = needs.clone();
                assert_eq!(needs, Needs { settings, nodes, shim, ..Needs::default() }, "{name}");
            }
        }
    }

    #[test]
    fn quick_has_every_workload_and_every_nemesis_that_it_can_have() {
        let rows = of("quick");
        for workload in workload::ALL {
            assert!(rows.iter().any(|row| row.workload == workload.name), "{}", workload.name);
        }
        for entry in nemesis::all().filter(|entry| matches!(entry.kind, "process" | "network" | "cluster")) {
            let needs = (entry.needs)();
            if needs.nodes <= 3 && !needs.other_program {
                assert!(rows.iter().any(|row| row.nemeses.contains(&entry.name)), "{}", entry.name);
            }
        }
    }

    #[test]
    fn full_has_every_nemesis_alone() {
        let rows = of("full");
        for entry in nemesis::all() {
            assert!(rows.iter().any(|row| row.nemeses == [entry.name]), "{}", entry.name);
        }
    }
}
