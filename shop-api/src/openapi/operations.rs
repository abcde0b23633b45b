//! What each call takes and answers: one entry for each, checked to be there by the compiler.

use crate::Call;
use crate::codes::Code::{self, *};
use crate::routes::{Kind, Route};

pub(crate) const TAGS: [(&str, &str); 6] = [
    ("Orders", "Placed, paid, shipped in parts, completed; cancelled, returned, refunded."),
    ("Reservations", "Try, confirm, cancel: hold stock for a while."),
    ("Stock", "How many units are where, what is promised of them, and every movement."),
    ("Items", "What can be stocked and sold."),
    ("Outcomes and batches", "What became of a write, and many writes at once."),
    ("Operations", "Probes, metrics, the cluster, audits, and this document."),
];

/// What one call takes and answers.
pub(crate) struct Operation {
    pub tag: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    /// Schema of the body.
    pub body: Option<&'static str>,
    pub answers: Vec<Answers>,
    /// Error codes beside those that all calls of its kind have.
    pub codes: &'static [Code],
    /// Names of parameters beside those.
    pub parameters: &'static [&'static str],
}

/// One successful answer.
pub(crate) struct Answers {
    pub status: u16,
    pub description: &'static str,
    /// Media types and schemas; without a name, any text.
    pub content: &'static [(&'static str, &'static str)],
    /// Headers and their component names, beside those that all answers have.
    pub headers: &'static [(&'static str, &'static str)],
}

const OF_V1: &[Code] = &[NotAcceptable, NotAMember, InvalidHeader, InvalidSession, UnknownParameter];
const OF_BODY: &[Code] = &[
    EmptyBody,
    InvalidJson,
    InvalidType,
    UnknownField,
    DuplicateField,
    MissingField,
    TooDeep,
    BodyIncomplete,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidValue,
];
const OF_PROPOSING: &[Code] =
    &[ShuttingDown, NoLeader, Overloaded, DeadlineExceeded, NotServing, ProposalTooLarge, OutcomeUnknown];
/// Of calls that begin something: a shop whose disks are full is wound down, and takes nothing new.
const OF_BEGINNING: &[Code] = &[DiskFull];

const OF_READING: &[Code] =
    &[InvalidParameter, NoLeader, Behind, NotServing, TooStale, StorageFailed, Internal];

const AUDIT_CODES: [Code; 14] = [
    AuditRunning,
    NoRoom,
    Behind,
    InvalidJson,
    InvalidType,
    UnknownField,
    DuplicateField,
    TooDeep,
    BodyIncomplete,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidValue,
    EmptyBody,
    StorageFailed,
];

/// Of what takes a whole node's state out.
const TAKING_CODES: [Code; 8] =
    [BackupRunning, InvalidParameter, NoLeader, Behind, TooStale, NotServing, NoRoom, StorageFailed];

/// Error codes that all calls of a kind may answer.
pub(crate) fn common(route: &Route) -> Vec<Code> {
    match route.kind {
        Kind::Write => {
            let of_keys =
                &[MissingIdempotencyKey, InvalidIdempotencyKey, IdTooLong, KeyReused, Abandoned, NotInForce];
            let begins = matches!(
                route.call,
                Call::PutItem
                    | Call::Receive
                    | Call::Adjust
                    | Call::Transfer
                    | Call::Reserve
                    | Call::PlaceOrder
            );
            [OF_V1, OF_BODY, OF_PROPOSING, of_keys, if begins { OF_BEGINNING } else { &[] }].concat()
        }
        Kind::Batch => [OF_V1, OF_BODY, &[ShuttingDown, TooManyCommands]].concat(),
        Kind::Settle => [OF_V1, OF_PROPOSING, OF_READING, &[IdTooLong, InvalidValue]].concat(),
        Kind::Read => [OF_V1, OF_READING].concat(),
        Kind::Admin => [OF_V1, OF_BODY, &[ShuttingDown, NoLeader, OutcomeUnknown]].concat(),
        Kind::Local => OF_V1.to_vec(),
        Kind::Root => Vec::new(),
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

macro_rules! answer {
    ($name:ident, $schema:literal, $text:literal) => {
        const $name: Answers =
            Answers { status: 200, description: $text, content: &[(JSON, $schema)], headers: &[] };
    };
}

answer!(ITEM, "Item", "The item as it is.");
answer!(LEVELS, "StockLevels", "Done; the stocks as they are now.");
answer!(RESERVATION, "Reservation", "The reservation as it is.");
answer!(ORDER, "Order", "The order as it is.");
answer!(OUTCOME, "KeptOutcome", "What is kept under the key.");

const LOCATION: &[(&str, &str)] = &[("Location", "Location")];
const ETAG: &[(&str, &str)] = &[("ETag", "Etag")];

fn created(answer: Answers, description: &'static str) -> Answers {
    Answers { status: 201, description, headers: LOCATION, ..answer }
}

fn page(schema: &'static [(&'static str, &'static str)]) -> Vec<Answers> {
    let description = "A page: no skip and no repeat while writes go on. A filtered page may be short, or empty, and \
                       still have a next one.";
    vec![Answers { status: 200, description, content: schema, headers: &[] }]
}

fn root(status: u16, description: &'static str, content: &'static [(&'static str, &'static str)]) -> Answers {
    Answers { status, description, content, headers: &[] }
}

/// What `call` takes and answers.
pub(crate) fn of(call: Call) -> Operation {
    match call {
        Call::PutItem | Call::GetItem | Call::ListItems | Call::RetireItem => items(call),
        Call::Receive | Call::Adjust | Call::Transfer => stock_writes(call),
        Call::GetStock | Call::ReadStocks | Call::StockMovements | Call::Movements => stock_reads(call),
        Call::Reserve | Call::Confirm | Call::CancelReservation | Call::Extend => reservation_writes(call),
        Call::GetReservation | Call::ListReservations => reservation_reads(call),
        Call::PlaceOrder | Call::Pay | Call::Ship | Call::Complete => order_writes(call),
        Call::CancelOrder | Call::Return | Call::Refund | Call::PatchMetadata => order_changes(call),
        Call::GetOrder | Call::ListOrders => order_reads(call),
        Call::Batch | Call::GetOutcome | Call::Abandon => outcomes(call),
        Call::PlanMember | Call::PromoteMember | Call::DemoteMember | Call::RemoveMember => members(call),
        Call::TransferLeadership => transfer(),
        Call::CheckUpgrade | Call::FinalizeUpgrade => upgrade(call),
        Call::GetCluster | Call::Audit => cluster(call),
        Call::Backup | Call::Export | Call::ReadLog | Call::GetScrub | Call::StartScrub => admin(call),
        Call::LogEntries | Call::GetSnapshot | Call::CreateSnapshot => looks(call),
        Call::Live | Call::Ready | Call::Metrics | Call::OpenApi | Call::Docs | Call::DocsFile => {
            probes(call)
        }
    }
}

fn operation(tag: usize, summary: &'static str, answers: Vec<Answers>) -> Operation {
    let tag = TAGS[tag].0;
    Operation { tag, summary, description: "", body: None, answers, codes: &[], parameters: &[] }
}

fn items(call: Call) -> Operation {
    const TAG: usize = 3;
    match call {
        Call::PutItem => {
            let made = Answers {
                headers: &[("Location", "Location"), ("ETag", "Etag")],
                ..created(ITEM, "The item was made.")
            };
            Operation {
                body: Some("PutItem"),
                codes: &[VersionDiffers, TextTooLong, AttributesTooLarge, UnknownCurrency, OutOfRange],
                parameters: &["IfMatch", "IfNoneMatchAny"],
                ..operation(TAG, "Make or replace an item", vec![Answers { headers: ETAG, ..ITEM }, made])
            }
        }
        Call::RetireItem => Operation {
            description: "It takes no new orders and reservations; reads and stock stay. Putting it again brings it back.",
            body: Some("Empty"),
            codes: &[ItemNotFound],
            ..operation(TAG, "Retire an item", vec![Answers { headers: ETAG, ..ITEM }])
        },
        Call::GetItem => {
            let same =
                Answers { status: 304, description: "As the caller has it.", content: &[], headers: ETAG };
            Operation {
                codes: &[ItemNotFound],
                parameters: &["IfNoneMatch"],
                ..operation(TAG, "Read an item", vec![Answers { headers: ETAG, ..ITEM }, same])
            }
        }
        _ => Operation {
            description: "In order of creation.",
            codes: &[InvalidCursor],
            parameters: &["Limit", "Cursor"],
            ..operation(TAG, "List items", page(&[(JSON, "ItemPage")]))
        },
    }
}

fn stock_writes(call: Call) -> Operation {
    const TAG: usize = 2;
    match call {
        Call::Receive => Operation {
            description: "Makes locations that are new.",
            body: Some("ReceiveStock"),
            codes: &[TooManyLines, UnknownSku, OutOfRange],
            ..operation(TAG, "Receive goods", vec![LEVELS])
        },
        Call::Adjust => Operation {
            description: "409 where on hand is not `expected_on_hand`, or would fall below what is promised.",
            body: Some("AdjustStock"),
            codes: &[TextTooLong, UnknownSku, OnHandDiffers, BelowPromised, OutOfRange],
            ..operation(TAG, "Correct a count", vec![LEVELS])
        },
        _ => Operation {
            description: "Available units only.",
            body: Some("TransferStock"),
            codes: &[UnknownSku, OutOfStock, SameLocation, OutOfRange],
            ..operation(TAG, "Move goods between locations", vec![LEVELS])
        },
    }
}

fn stock_reads(call: Call) -> Operation {
    const TAG: usize = 2;
    match call {
        Call::GetStock => Operation {
            codes: &[ItemNotFound],
            ..operation(
                TAG,
                "Read the stock of a SKU",
                vec![root(200, "Over all its locations.", &[(JSON, "Stock")])],
            )
        },
        Call::ReadStocks => Operation {
            codes: &[MissingParameter, TooManySkus, UnknownSku, InvalidValue, IdTooLong],
            parameters: &["Skus"],
            ..operation(
                TAG,
                "Read the stock of several SKUs",
                vec![root(200, "All of one index.", &[(JSON, "Stocks")])],
            )
        },
        Call::StockMovements => Operation {
            description: "Newest first.",
            codes: &[ItemNotFound, InvalidCursor, InvalidValue, IdTooLong],
            parameters: &["LocationFilter", "Limit", "Cursor"],
            ..operation(TAG, "List the movements of a SKU", page(&[(JSON, "MovementPage")]))
        },
        _ => Operation {
            description: "Newest first, those of all SKUs merged, at one index.",
            codes: &[MissingParameter, TooManySkus, UnknownSku, InvalidCursor, InvalidValue, IdTooLong],
            parameters: &["Skus", "LocationFilter", "Limit", "Cursor"],
            ..operation(TAG, "List the movements of several SKUs", page(&[(JSON, "MovementPage")]))
        },
    }
}

fn reservation_writes(call: Call) -> Operation {
    const TAG: usize = 1;
    match call {
        Call::Reserve => Operation {
            description: "Try. The same `id` and body again answers 200 while it is held or confirmed.",
            body: Some("Reserve"),
            codes: &[TooManyLines, UnknownSku, ItemRetired, OutOfStock, IdTaken, WrongState, OutOfRange],
            ..operation(TAG, "Hold stock", vec![RESERVATION, created(RESERVATION, "Held.")])
        },
        Call::Confirm => Operation {
            description: "The units leave the room, for callers whose orders live elsewhere. To make an order of \
                          them, place one with the `reservation_id` instead.",
            body: Some("Empty"),
            codes: &[ReservationNotFound, WrongState],
            ..operation(TAG, "Confirm a reservation", vec![RESERVATION])
        },
        Call::CancelReservation => Operation {
            description: "One that is not there is remembered as cancelled, so that a try that comes late fails.",
            body: Some("Empty"),
            codes: &[WrongState],
            ..operation(TAG, "Cancel a reservation", vec![RESERVATION])
        },
        _ => Operation {
            body: Some("ExtendReservation"),
            codes: &[ReservationNotFound, WrongState],
            ..operation(TAG, "Hold on for longer", vec![RESERVATION])
        },
    }
}

fn reservation_reads(call: Call) -> Operation {
    const TAG: usize = 1;
    match call {
        Call::GetReservation => Operation {
            codes: &[ReservationNotFound],
            ..operation(TAG, "Read a reservation", vec![RESERVATION])
        },
        _ => Operation {
            description: "In order of creation.",
            codes: &[InvalidCursor],
            parameters: &["ReservationStatusFilter", "Limit", "Cursor"],
            ..operation(TAG, "List reservations", page(&[(JSON, "ReservationPage")]))
        },
    }
}

fn order_writes(call: Call) -> Operation {
    const TAG: usize = 0;
    match call {
        Call::PlaceOrder => Operation {
            description: "All lines are allocated in one step, or none. Lines of one SKU and location are summed \
                          before the check. With `reservation_id`, the held units are allocated and the reservation \
                          is confirmed.",
            body: Some("PlaceOrder"),
            codes: &[
                TooManyLines,
                TooMuchMetadata,
                MetadataTooLong,
                UnknownCurrency,
                UnknownSku,
                ItemRetired,
                OutOfStock,
                IdTaken,
                ReservationNotFound,
                WrongState,
                MixedCurrency,
                OutOfRange,
                TooLate,
            ],
            ..operation(TAG, "Place an order", vec![ORDER, created(ORDER, "Placed.")])
        },
        Call::Pay => Operation {
            description: "In parts or in full, never above what is due.",
            body: Some("PayOrder"),
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, TextTooLong],
            ..operation(TAG, "Pay an order", vec![ORDER])
        },
        Call::Ship => Operation {
            description: "In parts or in full.",
            body: Some("ShipOrder"),
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, NoSuchLine, TooManyLines],
            ..operation(TAG, "Ship an order", vec![ORDER])
        },
        _ => Operation {
            body: Some("Empty"),
            codes: &[OrderNotFound, WrongState],
            ..operation(TAG, "Close a shipped order", vec![ORDER])
        },
    }
}

fn order_changes(call: Call) -> Operation {
    const TAG: usize = 0;
    match call {
        Call::CancelOrder => Operation {
            description: "Frees what was not shipped; what was paid for it is owed back.",
            body: Some("CancelOrder"),
            codes: &[OrderNotFound, WrongState, TextTooLong],
            ..operation(TAG, "Cancel an order", vec![ORDER])
        },
        Call::Return => Operation {
            description: "Units come back on hand or are written off; their share of the amount is owed back, never \
                          above what was paid.",
            body: Some("ReturnOrder"),
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, NoSuchLine, TooManyLines, OutOfRange],
            ..operation(TAG, "Take goods back", vec![ORDER])
        },
        Call::Refund => Operation {
            description: "At most what is owed.",
            body: Some("RefundOrder"),
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, TextTooLong],
            ..operation(TAG, "Pay money back", vec![ORDER])
        },
        _ => Operation {
            description: "Merges; null removes a key.",
            body: Some("PatchMetadata"),
            codes: &[OrderNotFound, TooMuchMetadata, MetadataTooLong],
            ..operation(TAG, "Change the metadata of an order", vec![ORDER])
        },
    }
}

fn order_reads(call: Call) -> Operation {
    const TAG: usize = 0;
    match call {
        Call::GetOrder => {
            Operation { codes: &[OrderNotFound], ..operation(TAG, "Read an order", vec![ORDER]) }
        }
        _ => Operation {
            description: "In order of creation, as they are now.",
            codes: &[InvalidCursor, InvalidValue, IdTooLong],
            parameters: &["CustomerFilter", "OrderStatusFilter", "Limit", "Cursor"],
            ..operation(TAG, "List orders", page(&[(JSON, "OrderPage")]))
        },
    }
}

fn outcomes(call: Call) -> Operation {
    const TAG: usize = 4;
    match call {
        Call::Batch => Operation {
            description: "Each command has its own `key` and its own outcome; none depends on another, and what is \
                          wrong with one does not refuse the others. There are no preconditions in a batch.",
            body: Some("Batch"),
            ..operation(
                TAG,
                "Write many at once",
                vec![root(
                    200,
                    "An outcome for each command, in the same order.",
                    &[(JSON, "BatchOutcomes")],
                )],
            )
        },
        Call::GetOutcome => Operation {
            description: "404 alone settles nothing: the write may still commit.",
            codes: &[UnknownKey],
            ..operation(TAG, "Read what became of a key", vec![OUTCOME])
        },
        _ => Operation {
            description: "Answers the outcome if there is one; else leaves a receipt that no later write with this \
                          key can pass (409 `abandoned`). Takes no `Idempotency-Key` and no body: doing it twice \
                          changes nothing.",
            codes: &[UnknownKey],
            ..operation(TAG, "Settle a key", vec![OUTCOME])
        },
    }
}

fn cluster(call: Call) -> Operation {
    const TAG: usize = 5;
    match call {
        Call::GetCluster => operation(
            TAG,
            "Show the cluster",
            vec![root(200, "Members, and what each last said of itself.", &[(JSON, "Cluster")])],
        ),
        _ => Operation {
            description: "Recomputes every sum of this node from movements and orders at one index, while writes go \
                          on. Streams a line of JSON for each step and ends with the verdict, or with a problem if \
                          the node's storage fails. Needs no body and no `Idempotency-Key`; one runs at a time.",
            body: Some("Audit"),
            codes: &AUDIT_CODES,
            ..operation(
                TAG,
                "Audit this node",
                vec![root(
                    200,
                    "Lines of progress, then the verdict.",
                    &[("application/x-ndjson", "AuditLine")],
                )],
            )
        },
    }
}

fn taken(description: &'static str, content: &'static [(&'static str, &'static str)]) -> Answers {
    Answers { headers: &[("Stockroom-Staleness-Ms", "StalenessMs")], ..root(200, description, content) }
}

fn admin(call: Call) -> Operation {
    const TAG: usize = 5;
    match call {
        Call::Backup => Operation {
            description: "Everything up to one entry of the log, of this node, as one file: compressed, with a \
                          checksum for each block and one for the whole at its end. A file without its end is no \
                          backup. `stockctl backup create` writes and checks it, `stockroom verify` and `stockroom \
                          restore` read it. Everything that was acknowledged before the call is in it, unless \
                          `Stockroom-Consistency` asks for less: `stale` works without a leader. Writes go on \
                          meanwhile; one runs at a time.",
            codes: &TAKING_CODES,
            parameters: &["Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Take a backup of this node",
                vec![taken("The file.", &[("application/vnd.stockroom.backup", "")])],
            )
        },
        Call::GetScrub => Operation {
            description: "Reading all of log, tables and snapshot file, at the rate of `scrub_bytes_per_second`, so \
                          that damage shows before it is needed. It begins by itself every `scrub_interval_ms`. Damage \
                          ends the node, with a message that names the file.",
            ..operation(
                TAG,
                "How this node's scrub stands",
                vec![root(200, "As it stands.", &[(JSON, "Scrub")])],
            )
        },
        Call::StartScrub => Operation {
            description: "Where one is running, it goes on.",
            body: Some("Empty"),
            ..operation(TAG, "Scrub this node's disk now", vec![root(200, "It runs.", &[(JSON, "Scrub")])])
        },
        Call::ReadLog => Operation {
            description: "What was applied here behind one entry of the log, as one file of the same kind as a backup: \
                          compressed, with checksums, of no use without its end. `stockctl backup archive` keeps such \
                          files beside a backup, so that `stockroom restore --to-index` or `--to-time` gives any point \
                          in between. A log is purged behind the node's own snapshot files: ask often enough.",
            codes: &[
                BackupRunning,
                InvalidParameter,
                MissingParameter,
                LogPurged,
                NoLeader,
                Behind,
                TooStale,
                NotServing,
            ],
            parameters: &["After", "Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Read the log behind an entry",
                vec![taken("The file.", &[("application/vnd.stockroom.log", "")])],
            )
        },
        _ => Operation {
            description: "Items, stock, reservations, orders and movements of this node at one entry of the log, with \
                          nothing left out, as lines of JSON. A line `{\"section\": NAME}` says what the lines after it \
                          are; the last line is `{\"end\": ...}`, with how many there are of each: without it the answer \
                          was cut off. Receipts are not in it. `stockctl export` writes a file for each section, \
                          `stockroom import` makes a cluster of them.",
            codes: &TAKING_CODES,
            parameters: &["Consistency", "MaxStalenessMs", "TimeoutMs"],
            ..operation(
                TAG,
                "Export this node's shop",
                vec![taken("The lines.", &[("application/x-ndjson", "ExportLine")])],
            )
        },
    }
}

fn looks(call: Call) -> Operation {
    const TAG: usize = 5;
    const SNAPSHOT: &[(&str, &str)] = &[(JSON, "NodeSnapshot")];
    match call {
        Call::LogEntries => Operation {
            description: "As they lie on this node now, in order, decoded: also those that are not committed and may \
                          be taken back. Without `from`, the newest ones up to `to`. An answer has about a mebibyte of \
                          entries at most; `next_from` says where it goes on.",
            codes: &[InvalidParameter, LogPurged, NotServing, StorageFailed, Internal],
            parameters: &["From", "To", "Limit", "Commands"],
            ..operation(
                TAG,
                "Look into this node's log",
                vec![root(200, "The entries.", &[(JSON, "LogEntries")])],
            )
        },
        Call::GetSnapshot => operation(
            TAG,
            "Show this node's snapshot",
            vec![root(200, "The newest one that is finished and verified.", SNAPSHOT)],
        ),
        _ => Operation {
            description: "Of what this node has applied by now. Does not wait: it is there once `snapshot.log_index` is \
                          `writing_index` or more. Where one is being written already, or nothing has been applied since \
                          the last one, no other one is begun. Nodes write theirs by themselves as their logs grow; \
                          this is for the time before planned work.",
            body: Some("Empty"),
            ..operation(TAG, "Have this node write a snapshot", vec![root(200, "Begun.", SNAPSHOT)])
        },
    }
}

fn members(call: Call) -> Operation {
    const TAG: usize = 5;
    const DONE: &[(&str, &str)] = &[(JSON, "MemberPlan")];
    const CODES: &[Code] = &[MemberNotFound, UnsafeChange, ChangeRunning, TransferRefused];
    let (summary, description) = match call {
        Call::PlanMember => {
            return Operation {
                description: "Quorum and fault tolerance before and after, and what speaks against it. Nothing is changed.",
                body: Some("PlanMemberChange"),
                codes: &[MemberNotFound],
                ..operation(TAG, "Work out a change of a member", vec![root(200, "The plan.", DONE)])
            };
        }
        Call::PromoteMember => (
            "Make a learner a voter",
            "Now, rather than when it has caught up: a node that joined becomes a voter by itself.",
        ),
        Call::DemoteMember => {
            ("Make a voter a learner", "It follows on, and is not promoted by itself any more.")
        }
        _ => (
            "Remove a member",
            "For good: it must not come back under its id. To take a dead node out, add its replacement first.",
        ),
    };
    Operation {
        description,
        body: Some("ChangeMember"),
        codes: CODES,
        ..operation(TAG, summary, vec![root(200, "It is so: on a majority of the voters, for good.", DONE)])
    }
}

fn transfer() -> Operation {
    Operation {
        description: "To the voter that is named, or to the one that has the most. Answers once this node knows the new \
                      leader. Writes wait meanwhile, some ms as a rule.",
        body: Some("TransferLeadership"),
        codes: &[TransferRefused],
        ..operation(5, "Hand leadership over", vec![root(200, "Who leads now.", &[(JSON, "LeaderNow")])])
    }
}

fn upgrade(call: Call) -> Operation {
    const TAG: usize = 5;
    const PLAN: &[(&str, &str)] = &[(JSON, "UpgradePlan")];
    if call == Call::CheckUpgrade {
        return Operation {
            description: "What each member runs and serves, which cluster version could be put in force, what that switches \
                          on, and what stands against it. By way of the leader. Nothing is changed.",
            codes: &[NoLeader],
            parameters: &["TimeoutMs"],
            ..operation(TAG, "Work out the end of an upgrade", vec![root(200, "The plan.", PLAN)])
        };
    }
    Operation {
        description: "Puts the newest cluster version in force that the members' programs serve, for good: until then each node \
                      can go back to the program that it had, from then on none can. Refused while a member does not \
                      serve that version, or does not answer. Where it is in force already nothing is done.",
        body: Some("FinalizeUpgrade"),
        codes: &[UnsafeUpgrade],
        ..operation(
            TAG,
            "Finalise an upgrade",
            vec![root(200, "It is in force: on a majority, for good.", PLAN)],
        )
    }
}

fn probes(call: Call) -> Operation {
    const TAG: usize = 5;
    const READY: &[(&str, &str)] = &[(TEXT, ""), (JSON, "Readiness")];
    match call {
        Call::Live => Operation {
            description: "Fails for nothing but a dead process.",
            ..operation(TAG, "Is the process alive?", vec![root(200, "It is.", &[(TEXT, "")])])
        },
        Call::Ready => Operation {
            parameters: &["Verbose", "Accept"],
            ..operation(
                TAG,
                "Should this node be sent requests?",
                vec![root(200, "It should.", READY), root(503, "It should not; says why.", READY)],
            )
        },
        Call::Metrics => operation(TAG, "Metrics for Prometheus", vec![root(200, "As text.", &[(TEXT, "")])]),
        Call::OpenApi => {
            operation(TAG, "This document", vec![root(200, "OpenAPI 3.1.", &[(JSON, "Document")])])
        }
        Call::Docs => {
            operation(TAG, "This document as a page", vec![root(200, "A page.", &[("text/html", "")])])
        }
        _ => Operation {
            codes: &[RouteNotFound],
            ..operation(
                TAG,
                "A file that the page loads",
                vec![root(200, "A file.", &[("text/css", ""), ("text/javascript", ""), ("image/png", "")])],
            )
        },
    }
}
