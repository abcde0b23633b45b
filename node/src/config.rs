//! Every setting of a node: its unit, default and allowed values, in one table. Flags, variables,
//! file keys and `deploy/stockroom.toml` are all made from it, so they cannot disagree.

mod sources;
mod template;
mod value;

pub use sources::{ConfigArgs, ConfigError, Resolved};
pub use template::{print_effective, template};
pub use value::{Address, LogFormat, Member, Value};

use std::ops::RangeInclusive;
use std::path::PathBuf;
use value::Kind;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Key in the file; `--name-with-dashes` as a flag; `STOCKROOM_NAME` as a variable.
    pub name: &'static str,
    /// Heading it stands under.
    pub section: &'static str,
    /// What it does, as in the documentation of the field.
    pub help: &'static str,
    /// Default, as one would write it in a variable; empty where there is none.
    pub default: &'static str,
    /// Unit, empty where there is none.
    pub unit: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    /// Smallest and largest allowed number.
    pub range: Option<RangeInclusive<u64>>,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE_MS: u64 = 60_000;

macro_rules! settings {
    ($($section:literal { $(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty = $default:literal, $unit:literal $(, $range:expr)?;
    )+ })+) => {
        /// The settings in force.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config { $($(
            $(#[doc = $doc])+
            pub $name: $type,
        )+)+ }

        /// All settings, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[ $($( Setting {
            name: stringify!($name),
            section: $section,
            help: concat!($($doc),+),
            default: $default,
            unit: $unit,
            kind: <$type as Value>::KIND,
            range: settings!(@range $($range)?),
        } ),+),+ ];

        impl Config {
            /// Reads each setting from the text that won.
            fn from_resolved(resolved: &Resolved) -> Result<Self, ConfigError> {
                let config = Config { $($( $name: resolved.get(stringify!($name))?, )+)+ };
                config.check()?;
                Ok(config)
            }
        }
    };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}

settings! {
    "Who this node is, and where it is reached" {
        /// Number of this node, unique in the cluster for ever: a node whose data directory is lost comes
        /// back under a new one. `serve` needs it.
        node_id: Option<u64> = "", "", 1..=u64::MAX;
        /// Directory of the log, the snapshot file and the tables. Made where it is missing; belongs to one node.
        data_dir: PathBuf = "stockroom-data", "";
        /// Address that serves HTTP.
        http_listen: Address = "127.0.0.1:8081", "";
        /// Address at which clients reach this node's HTTP; `http_listen` where empty.
        http_advertise: Option<Address> = "", "";
        /// Address that serves the other nodes.
        peer_listen: Address = "127.0.0.1:9081", "";
        /// Address at which the other nodes reach this one; `peer_listen` where empty.
        peer_advertise: Option<Address> = "", "";
        /// Peer addresses of a running cluster to join as a learner; empty waits for `stockroom bootstrap`, or forms
        /// `initial_cluster`.
        join: Vec<Address> = "", "";
        /// The first voters of a new cluster, each as `id=peer address`, this node among them: nodes that start with the
        /// same list form one cluster, once, by themselves. No meaning for a node that is a member already.
        initial_cluster: Vec<Member> = "", "";
    }
    "Threads" {
        /// Threads that serve clients and peers, beside those of the log, of applying and of checkpoints; 0: one for
        /// each core. Nodes that share a machine are better off with fewer, down to 1.
        worker_threads: u64 = "0", "threads", 0..=1024;
    }
    "Forming a cluster (read by `stockroom bootstrap` only)" {
        /// First voters of a new cluster, each as `id=peer address`.
        bootstrap: Vec<Member> = "", "";
        /// How long `stockroom bootstrap` waits for all of them to answer and to agree.
        bootstrap_timeout_ms: u64 = "30000", "ms", 100..=60 * MINUTE_MS;
    }
    "Logs" {
        /// `text` for people, `json` for machines, `auto` for text on a terminal and JSON elsewhere.
        log_format: LogFormat = "auto", "";
        /// What is logged, as in tracing's EnvFilter: a level, then `target=level` after commas.
        log_filter: String = "info,openraft=error", "";
    }
    "HTTP" {
        /// Connections served at a time; further ones wait in the operating system's queue.
        http_connections_max: u64 = "8192", "connections", 1..=1_000_000;
        /// How long a connection may be idle, or take to send its headers. Above the 90 s for which common
        /// clients keep idle connections, so that it is they who close them.
        http_idle_timeout_ms: u64 = "120000", "ms", 100..=60 * MINUTE_MS;
        /// Deadline of a request that names none in `Stockroom-Timeout-Ms`, and the latest that one may name.
        request_timeout_ms: u64 = "5000", "ms", 10..=10 * MINUTE_MS;
        /// Largest body, but for `/v1/batch`.
        body_max_bytes: u64 = "1048576", "bytes", KIB..=64 * MIB;
        /// Largest body of `/v1/batch`.
        batch_body_max_bytes: u64 = "8388608", "bytes", KIB..=256 * MIB;
        /// Deepest nesting of a JSON body.
        json_depth_max: u64 = "32", "levels", 4..=120;
        /// Lines of one order, reservation or receipt of goods.
        lines_max: u64 = "500", "lines", 1..=10_000;
        /// Ids and keys; more than 128 bytes the shop's own types refuse.
        id_max_bytes: u64 = "128", "bytes", 8..=128;
        /// Entries in the metadata of an order. The cluster's own setting (`stockctl settings show`) holds beside it: the lower of
        /// the two.
        metadata_entries_max: u64 = "16", "entries", 0..=1_000;
        /// Key or value of a metadata entry.
        metadata_max_bytes: u64 = "256", "bytes", 1..=64 * KIB;
        /// Attributes of an item, as JSON.
        attributes_max_bytes: u64 = "4096", "bytes", 2..=256 * KIB;
        /// Names, reasons and references.
        text_max_bytes: u64 = "512", "bytes", 1..=64 * KIB;
        /// Rows of one page of a list.
        page_rows_max: u64 = "1000", "rows", 1..=100_000;
        /// SKUs that one read may name.
        read_skus_max: u64 = "100", "SKUs", 1..=10_000;
        /// Commands in one `/v1/batch`.
        batch_commands_max: u64 = "1000", "commands", 1..=10_000;
        /// Proposals that may wait for their answer on this node; beyond it 503 `overloaded` at once.
        proposals_in_flight_max: u64 = "8192", "proposals", 1..=10_000_000;
        /// Bytes of proposals that may wait for their answer on this node; beyond it 503 `overloaded` at once.
        proposal_bytes_in_flight_max: u64 = "67108864", "bytes", MIB..=16 * GIB;
    }
    "Replication" {
        /// How often a leader says that it is there.
        heartbeat_interval_ms: u64 = "150", "ms", 5..=MINUTE_MS;
        /// A follower asks for an election when it heard nothing for a random time; this is its lower end.
        election_timeout_min_ms: u64 = "500", "ms", 20..=5 * MINUTE_MS;
        /// Upper end of that time, and the leader's lease: a failover takes up to twice this.
        election_timeout_max_ms: u64 = "1000", "ms", 30..=5 * MINUTE_MS;
        /// Proposals that are put into one entry of the log. An order's id has 14 bits for its place in the entry.
        entry_proposals_max: u64 = "16384", "proposals", 1..=16_384;
        /// Size of one entry of the log, and so of one proposal.
        entry_max_bytes: u64 = "1048576", "bytes", 4 * KIB..=MIB;
        /// Entries proposed and not yet applied; more of them were measured to be slower.
        entries_in_flight_max: u64 = "2", "entries", 1..=16;
    }
    "Storage" {
        /// Changes in memory at which they are written to the tables.
        checkpoint_bytes: u64 = "33554432", "bytes", 16 * KIB..=64 * GIB;
        /// Time after which they are written in any case; it bounds what is applied again at a start.
        checkpoint_interval_ms: u64 = "5000", "ms", 10..=60 * MINUTE_MS;
        /// Changes in memory beyond which no new proposals are taken (503 `overloaded`) until some are written.
        memtable_max_bytes: u64 = "268435456", "bytes", 64 * KIB..=64 * GIB;
        /// Memory for reading the tables.
        sled_cache_bytes: u64 = "134217728", "bytes", MIB..=1024 * GIB;
        /// Size at which a file of rows that are written once is sealed, and from then on shared with snapshots; where there
        /// are many rows the files are larger.
        shelf_segment_bytes: u64 = "16777216", "bytes", 4 * KIB..=GIB;
        /// Size of one file of the log, made ahead of use. An entry must fit into one.
        log_segment_bytes: u64 = "16777216", "bytes", 64 * KIB..=2 * GIB;
        /// Entries kept in memory for followers that are not far behind.
        log_cache_bytes: u64 = "67108864", "bytes", 0..=64 * GIB;
        /// A snapshot file is written when the log has grown by this much, or by the size of the last file
        /// if that is more. A new node that would be sent more than an eighth of this as log begins with a snapshot instead.
        snapshot_min_log_bytes: u64 = "268435456", "bytes", 64 * KIB..=1024 * GIB;
        /// Log kept behind the newest snapshot file, for followers that are not far behind.
        log_keep_bytes: u64 = "33554432", "bytes", 0..=1024 * GIB;
        /// The same in entries; whichever keeps more holds.
        log_keep_entries: u64 = "1000", "entries", 16..=1_000_000_000;
    }
    "Disk" {
        /// Free room on the disk of `data_dir` below which there is an alarm in `stockctl status`, `/metrics` and
        /// `/readyz?verbose`. Empty: 2 GiB, or a tenth of the disk where that is less. 0: never.
        disk_low_bytes: Option<u64> = "", "bytes", 0..=1024 * 1024 * GIB;
        /// Free room below which the disk counts as full: where so many voters' disks are full that no majority has room,
        /// what begins something new (orders, reservations, goods, items) is refused with 507 `disk_full`, while
        /// cancelling, confirming, paying, shipping and reading go on. Clears by itself. Empty: 512 MiB, or a
        /// twentieth of the disk where that is less. 0: never.
        disk_full_bytes: Option<u64> = "", "bytes", 0..=1024 * 1024 * GIB;
        /// From the end of one scrub to the next: all of log, tables and snapshot is read, so that damage shows
        /// before it is needed. The first begins soon after the start; `stockctl scrub start` begins one at once. 0:
        /// only then.
        scrub_interval_ms: u64 = "86400000", "ms", 0..=366 * 24 * 60 * MINUTE_MS;
        /// How fast it reads, at most.
        scrub_bytes_per_second: u64 = "33554432", "bytes", 64 * KIB..=64 * GIB;
    }
    "Stopping" {
        /// How long a stop may take: requests in flight end, leadership is handed over, the log is sealed.
        shutdown_drain_ms: u64 = "10000", "ms", 0..=60 * MINUTE_MS;
    }
}

impl Config {
    /// What no single setting can check.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |why: String| Err(ConfigError::Contradiction(why));
        if self.election_timeout_min_ms >= self.election_timeout_max_ms {
            return refuse("election_timeout_min_ms must be below election_timeout_max_ms".into());
        }
        if self.heartbeat_interval_ms * 2 > self.election_timeout_min_ms {
            return refuse(
                "election_timeout_min_ms must be at least twice heartbeat_interval_ms, or one late heartbeat \
                 costs the leader its place"
                    .into(),
            );
        }
        if self.log_segment_bytes < self.entry_max_bytes + 16 * KIB {
            return refuse(
                "log_segment_bytes must hold an entry of entry_max_bytes and 16384 bytes more".into(),
            );
        }
        if let (Some(low), Some(full)) = (self.disk_low_bytes, self.disk_full_bytes)
            && low < full
        {
            return refuse(
                "disk_low_bytes must be at least disk_full_bytes: the alarm comes before the refusal".into(),
            );
        }
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log_filter) {
            return refuse(format!("log_filter {:?} is not a filter: {error}", self.log_filter));
        }
        if self.memtable_max_bytes < self.checkpoint_bytes {
            return refuse(
                "memtable_max_bytes must be at least checkpoint_bytes, or proposals wait for ever".into(),
            );
        }
        if !self.join.is_empty() && !self.initial_cluster.is_empty() {
            return refuse(
                "initial_cluster is for the first voters of a new cluster, join for later nodes: give one of them".into(),
            );
        }
        for (name, address) in [("http", self.http_address()), ("peer", self.peer_address())] {
            if !address.names_a_place() {
                return refuse(format!(
                    "others cannot find this node at {address}: give {name}_advertise, an address that is this node's alone",
                ));
            }
        }
        if self.http_listen == self.peer_listen {
            return refuse(format!("http_listen and peer_listen are both {}", self.http_listen));
        }
        Ok(())
    }

    /// Where clients reach this node.
    pub fn http_address(&self) -> &Address {
        self.http_advertise.as_ref().unwrap_or(&self.http_listen)
    }

    /// Where peers reach this node.
    pub fn peer_address(&self) -> &Address {
        self.peer_advertise.as_ref().unwrap_or(&self.peer_listen)
    }
}

#[cfg(test)]
mod tests;
