//! What was asked, what came back, and what was done to the cluster meanwhile.
//!
//! A history is kept as JSON lines, one record a line, written while the run goes on, so that a run that
//! dies leaves what it saw. Times are microseconds since the start of the run on the harness's own
//! monotonic clock, which no fault touches.

mod file;

pub use file::{Writer, read};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Microseconds since the start of the run.
pub type Micros = u64;
/// Number of a node, from 1.
pub type NodeId = u64;

/// One line of stock in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Line {
    /// What is moved.
    pub sku: String,
    /// Where; `main` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// How many units.
    pub quantity: u64,
}

impl Line {
    /// A line at the default location.
    pub fn new(sku: impl Into<String>, quantity: u64) -> Self {
        Line { sku: sku.into(), location: None, quantity }
    }
}

/// How fresh a read has to be, as the HTTP contract names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Not older than anything that was answered before the request came.
    Linearizable,
    /// Not older than the token that is sent along.
    Session(Option<String>),
    /// Not older than this many milliseconds.
    Bounded(u64),
    /// As the node has it.
    Stale,
}

/// What a client asks for. Every write also has an idempotency key, see [`Op::key`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub enum Call {
    PutItem {
        sku: String,
    },
    Receive {
        lines: Vec<Line>,
    },
    Transfer {
        sku: String,
        from: String,
        to: String,
        quantity: u64,
    },
    PlaceOrder {
        id: Option<String>,
        lines: Vec<Line>,
        reservation_id: Option<String>,
    },
    CancelOrder {
        id: String,
    },
    Reserve {
        id: String,
        ttl_ms: u64,
        lines: Vec<Line>,
    },
    Confirm {
        id: String,
    },
    CancelReservation {
        id: String,
    },
    /// The hold lasts this much longer from now, or less: what was left of its time does not count.
    Extend {
        id: String,
        ttl_ms: u64,
    },
    ReadStock {
        skus: Vec<String>,
        consistency: Consistency,
    },
    /// All movements of these SKUs, newest first, at one index (the client follows no cursor: it asks for
    /// the largest page, and a history longer than that is an error of the workload).
    ReadMovements {
        skus: Vec<String>,
        consistency: Consistency,
    },
    ReadReservation {
        id: String,
        consistency: Consistency,
    },
    ReadOrder {
        id: String,
        consistency: Consistency,
    },
    /// Every order, all pages.
    ListOrders {
        consistency: Consistency,
    },
}

impl Call {
    /// Whether it changes anything, and so needs an idempotency key.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Call::ReadStock { .. }
                | Call::ReadMovements { .. }
                | Call::ReadReservation { .. }
                | Call::ReadOrder { .. }
                | Call::ListOrders { .. }
        )
    }

    /// The name under which reports count it.
    pub fn name(&self) -> &'static str {
        match self {
            Call::PutItem { .. } => "put_item",
            Call::Receive { .. } => "receive",
            Call::Transfer { .. } => "transfer",
            Call::PlaceOrder { .. } => "place_order",
            Call::CancelOrder { .. } => "cancel_order",
            Call::Reserve { .. } => "reserve",
            Call::Confirm { .. } => "confirm",
            Call::CancelReservation { .. } => "cancel_reservation",
            Call::Extend { .. } => "extend",
            Call::ReadStock { .. } => "read_stock",
            Call::ReadMovements { .. } => "read_movements",
            Call::ReadReservation { .. } => "read_reservation",
            Call::ReadOrder { .. } => "read_order",
            Call::ListOrders { .. } => "list_orders",
        }
    }
}

/// Units of one SKU, in one location or in all together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct Counters {
    pub on_hand: u64,
    pub reserved: u64,
    pub allocated: u64,
    pub available: u64,
}

/// Stock of one SKU, as read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct StockSeen {
    pub sku: String,
    pub total: Counters,
    pub locations: BTreeMap<String, Counters>,
}

/// One movement, as read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct MovementSeen {
    pub sku: String,
    pub location: String,
    pub kind: String,
    pub quantity: i64,
    pub on_hand_after: u64,
    pub reserved_after: u64,
    pub allocated_after: u64,
    pub log_index: u64,
    /// Id of the order, the reservation, or the key that moved it.
    pub cause: String,
}

/// One order, as read or answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct OrderSeen {
    pub id: String,
    pub status: String,
    pub lines: Vec<Line>,
    pub log_index: u64,
}

/// One reservation, as read or answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct ReservationSeen {
    pub id: String,
    pub status: String,
    pub expires_at: String,
    pub lines: Vec<Line>,
    pub log_index: u64,
}

/// One line that an order or a reservation fell short of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub struct Shortage {
    pub sku: String,
    pub location: String,
    pub requested: u64,
    pub available: u64,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// A write that is done; `log_index` is where.
    Done {
        /// Where in the log, as the body says.
        log_index: Option<u64>,
    },
    /// An order, written or read.
    Order(OrderSeen),
    /// A reservation, written or read.
    Reservation(ReservationSeen),
    /// Stock, all of one index.
    Stock {
        /// In the order asked for.
        items: Vec<StockSeen>,
    },
    /// Movements, newest first, all of one index.
    Movements {
        /// In the order answered.
        items: Vec<MovementSeen>,
    },
    /// All orders, as the pages gave them.
    Orders {
        /// In the order answered.
        items: Vec<OrderSeen>,
    },
    /// The shop decided against it, or a read found nothing: 404, 409 or 422. A decision is an
    /// observation like any other: it is in the log, and a retry hears it again.
    Refused {
        /// HTTP status.
        status: u16,
        /// `code` of the problem.
        code: String,
        /// With `out_of_stock`: every short line.
        shortages: Vec<Shortage>,
    },
}

/// What the headers of an answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// HTTP status.
    pub status: u16,
    /// `Stockroom-Served-By`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_by: Option<NodeId>,
    /// `Stockroom-Applied-Index`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_index: Option<u64>,
    /// `Stockroom-Staleness-Ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<u64>,
    /// `Stockroom-Session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// `Idempotency-Replayed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
    /// A hash of the exact bytes of the body without `request_id`: equal answers are equal here.
    #[serde(default)]
    pub body_hash: u64,
}

/// How a call ended, in Jepsen's three kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Outcome {
    /// It has an answer: it took place, and this is what it saw.
    Ok {
        /// What the body says.
        answer: Answer,
        /// What the headers say.
        meta: Meta,
    },
    /// It did not and will not take place, and says nothing of the state: refused at the door or
    /// `"definite": true` before it was proposed.
    Fail {
        /// HTTP status; 0 where no connection could be made.
        status: u16,
        /// `code` of the problem, or what the connection said.
        code: String,
    },
    /// It may have taken place, may take place later, or never.
    Info {
        /// Why.
        reason: String,
    },
}

/// What became known at the end of the run of a write whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "settled", rename_all = "snake_case")]
pub enum Settled {
    /// It had taken place; this is its answer.
    Happened {
        /// What the body says.
        answer: Answer,
    },
    /// It had not and never will.
    Abandoned,
}

/// One call, from its invocation to what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Number in the run, from 0, in order of invocation.
    pub id: u64,
    /// The logical client. One client has one call in flight; after an unknown outcome it goes on
    /// under a new number, as in Jepsen.
    pub client: u64,
    /// The node that was asked.
    pub node: NodeId,
    /// Its idempotency key, of writes. Two calls with one key are one write, sent twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What was asked.
    pub call: Call,
    /// When the request began to be sent.
    pub invoked: Micros,
    /// When its outcome was known to the client. `None`: the run ended first.
    pub completed: Option<Micros>,
    /// How it ended. `None`: the run ended first.
    pub outcome: Option<Outcome>,
    /// What was found out at the end, of writes without an answer; and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<(Micros, Settled)>,
}

/// What is known in the end of whether a call took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<'a> {
    /// It took place between invocation and this time, and said this.
    Answered(&'a Answer, Micros),
    /// It did not and will not.
    Never,
    /// Nobody knows.
    Unknown,
}

impl Op {
    /// What is known of it in the end.
    pub fn known(&self) -> Known<'_> {
        match (&self.outcome, &self.settled) {
            (Some(Outcome::Ok { answer, .. }), _) => {
                Known::Answered(answer, self.completed.unwrap_or(Micros::MAX))
            }
            (Some(Outcome::Fail { .. }), _) | (_, Some((_, Settled::Abandoned))) => Known::Never,
            (_, Some((at, Settled::Happened { answer }))) => Known::Answered(answer, *at),
            (_, None) => Known::Unknown,
        }
    }

    /// The headers of its answer.
    pub fn meta(&self) -> Option<&Meta> {
        match &self.outcome {
            Some(Outcome::Ok { meta, .. }) => Some(meta),
            _ => None,
        }
    }
}

/// One fault, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The nemesis, by the name under which it is asked for.
    pub nemesis: String,
    /// What kind: `process`, `network`, `clock`, `disk`, `cluster` or `resources`.
    pub kind: String,
    /// What was done, to which node, in words.
    pub what: String,
    /// Nodes it was done to.
    pub nodes: Vec<NodeId>,
    /// When it began.
    pub from: Micros,
    /// When it was healed.
    pub until: Option<Micros>,
    /// Whether it really took effect: the process was dead, bytes were held back, a sync failed.
    pub effective: bool,
    /// How that is known.
    pub evidence: String,
}

/// What a node said of itself at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of GET /v1/cluster")]
pub struct Sample {
    pub at: Micros,
    pub node: NodeId,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub applied_index: u64,
    pub digest: String,
    pub state_hash: String,
}

/// A process that ended, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it was noticed.
    pub at: Micros,
    /// Which node.
    pub node: NodeId,
    /// Whether the harness ended it (kill, stop, power loss).
    pub expected: bool,
    /// Exit code or signal, in words.
    pub how: String,
    /// Exit code, where it had one.
    pub code: Option<i32>,
    /// Its last line.
    pub last_line: String,
    /// The fault in force on that node that may make it stop itself (a disk that fails), if any.
    pub excuse: Option<String>,
}

/// What identifies history and state at one index, as some node had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of GET /v1/cluster")]
pub struct Fingerprint {
    pub log_index: u64,
    pub digest: String,
    pub state_hash: String,
}

/// A backup that was taken whole, and restored into a scratch store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The node that it was taken from.
    pub node: NodeId,
    /// When it was asked for.
    pub from: Micros,
    /// When it was there.
    pub until: Micros,
    /// Whether it was to hold all that was acknowledged before it was asked for.
    pub fresh: bool,
    /// What it holds.
    #[serde(flatten)]
    pub at: Fingerprint,
    /// Orders in it, as counted after it was restored.
    pub orders: u64,
    /// What is wrong with it, by `stockroom verify`; empty where it is clean.
    pub findings: Vec<String>,
    /// What nodes said of the same index at that time.
    pub peers: Vec<(NodeId, Fingerprint)>,
}

/// What the run was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Name of the workload.
    pub workload: String,
    /// Names of the nemeses.
    pub nemeses: Vec<String>,
    /// How many nodes.
    pub nodes: u64,
    /// How long clients and faults ran, in seconds.
    pub time_s: u64,
    /// The seed of every choice.
    pub seed: u64,
    /// `loopback` or `netns`.
    pub network: String,
    /// The command that runs it again.
    pub command: String,
    /// Version of the server.
    pub version: String,
    /// Settings that differ from the defaults.
    pub settings: Vec<(String, String)>,
}

/// One verdict that was reached while the cluster was still up (digests, audits, availability).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What was probed: `digests`, `audit`, `available`.
    pub name: String,
    /// Whether it held.
    pub holds: bool,
    /// What was seen.
    pub detail: String,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is described at its type")]
pub enum Record {
    Run(RunInfo),
    Op(Box<Op>),
    Fault(Fault),
    Sample(Sample),
    Exit(Exit),
    Probe(Probe),
    Backup(Backup),
}

/// A whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described at its type")]
pub struct History {
    pub run: RunInfo,
    /// In order of invocation.
    pub ops: Vec<Op>,
    pub faults: Vec<Fault>,
    pub samples: Vec<Sample>,
    pub exits: Vec<Exit>,
    pub probes: Vec<Probe>,
    pub backups: Vec<Backup>,
}
