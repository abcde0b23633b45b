//! Histories written by hand, one record a line.
//!
//!     0-10 order o1 mug:3,cup:2 => order o1 mug:3,cup:2 @5
//!
//! is a call from millisecond 0 to 10 and its answer, decided at (or, of a read, showing) index 5. No end
//! and no answer: the run ended first. `#` begins a comment.
//!
//! Before the call: `n2` (node), `key=k` (each write has its own without it), `stale`, `bounded=MS`,
//! `session=TOKEN`. Calls: `put`, `receive`, `transfer SKU QUANTITY FROM TO`, `order ID LINES|from R`,
//! `cancel-order`, `reserve ID TTL LINES`, `confirm`, `cancel`, `extend ID TTL`, `read SKU..`, `movements SKU..`,
//! `read-reservation`, `read-order`, `list`. Lines: `SKU:QUANTITY` or `SKU@LOCATION:QUANTITY`; id `?`: none.
//!
//! Answers: `done`, `order ID [cancelled] LINES [#INDEX]`, `held|confirmed|cancelled|expired ID LINES [#INDEX]`,
//! `stock SKU [LOCATION=]ON_HAND/RESERVED/ALLOCATED[/AVAILABLE]..; ..`, `moves SKU KIND CAUSE QUANTITY
//! ON_HAND/RESERVED/ALLOCATED #INDEX; ..` (oldest first), `orders ID LINES #INDEX; ..`, `short SKU:REQUESTED/AVAILABLE ..`,
//! `refused STATUS CODE`, `fail`, `info WHY`. After the index: `replayed`, `hash=N`, `status=N`, `node=N`,
//! `staleness=MS`, `token=T`. Last, `settled MS ANSWER` or `settled MS abandoned`.

use jepsen_tests::history::{
    Answer, Backup, Call, Consistency, Counters, Exit, Fault, Fingerprint, History, Line, Meta, MovementSeen,
    Op, OrderSeen, Outcome, Probe, ReservationSeen, Sample, Settled, Shortage, StockSeen,
};
use std::collections::BTreeMap;

/// Reads a history. What it expects of itself (`expect CHECKER: TEXT`, `good CHECKER`) comes with it.
pub fn parse(text: &str) -> (History, Vec<(String, String)>) {
    let mut history = History::default();
    let mut expected = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let said = || format!("line {}: {line}", number + 1);
        match word {
            "expect" => {
                let (checker, what) = rest.split_once(':').unwrap_or_else(|| panic!("{}", said()));
                expected.push((checker.trim().to_owned(), what.trim().to_owned()));
            }
            "good" => expected.push((rest.trim().to_owned(), String::new())),
            "nemeses" => history.run.nemeses = rest.split(',').map(str::to_owned).collect(),
            "fault" => history.faults.push(fault(rest)),
            "sample" => history.samples.push(sample(rest)),
            "backup" => history.backups.push(backup(rest)),
            "exit" => history.exits.push(exit(rest)),
            "probe" => history.probes.push(probe(rest)),
            _ => {
                let id = history.ops.len() as u64;
                let op = std::panic::catch_unwind(|| op(id, line)).unwrap_or_else(|_| panic!("{}", said()));
                history.ops.push(op);
            }
        }
    }
    history.ops.sort_by_key(|op| op.invoked);
    (history, expected)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// `name=value` among words.
fn named<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn op(id: u64, line: &str) -> Op {
    let (asked, said) = line.split_once("=>").map_or((line, None), |(a, b)| (a.trim(), Some(b.trim())));
    let mut words: Vec<&str> = asked.split_whitespace().collect();
    let (from, to) = words.remove(0).split_once('-').expect("FROM-TO");
    let mut consistency = Consistency::Linearizable;
    let (mut node, mut key) = (1, None);
    loop {
        let word = words[0];
        if let Some(text) = word.strip_prefix("key=") {
            key = Some(text.to_owned());
        } else if let Some(ms) = word.strip_prefix("bounded=") {
            consistency = Consistency::Bounded(number(ms));
        } else if let Some(token) = word.strip_prefix("session=") {
            consistency = Consistency::Session(Some(token.to_owned()).filter(|token| !token.is_empty()));
        } else if word == "stale" {
            consistency = Consistency::Stale;
        } else if word.starts_with('n') && word[1..].parse::<u64>().is_ok() {
            node = number(&word[1..]);
        } else {
            break;
        }
        words.remove(0);
    }
    let call = call(&words, consistency);
    let (said, settled) = match said.and_then(|said| said.split_once("settled")) {
        Some((said, settled)) => (Some(said.trim()).filter(|said| !said.is_empty()), Some(settled.trim())),
        None => (said, None),
    };
    Op {
        id,
        client: id,
        node,
        key: key.or_else(|| call.is_write().then(|| format!("k{id}"))),
        invoked: number(from) * 1_000,
        completed: (!to.is_empty()).then(|| number(to) * 1_000),
        outcome: said.map(|said| outcome(said, &call, node)),
        settled: settled.map(|text| {
            let (at, what) = text.split_once(' ').expect("settled MS WHAT");
            let settled = match what {
                "abandoned" => Settled::Abandoned,
                what => Settled::Happened { answer: answer(what, &call).0 },
            };
            (number(at) * 1_000, settled)
        }),
        call,
    }
}

fn call(words: &[&str], consistency: Consistency) -> Call {
    let text = |at: usize| words[at].to_owned();
    let rest = || words[1..].iter().map(|word| (*word).to_owned()).collect();
    match words[0] {
        "put" => Call::PutItem { sku: text(1) },
        "receive" => Call::Receive { lines: lines(words[1]) },
        "transfer" => Call::Transfer { sku: text(1), quantity: number(words[2]), from: text(3), to: text(4) },
        "order" => Call::PlaceOrder {
            id: Some(text(1)).filter(|id| id != "?"),
            lines: if words[2] == "from" { Vec::new() } else { lines(words[2]) },
            reservation_id: (words[2] == "from").then(|| text(3)),
        },
        "cancel-order" => Call::CancelOrder { id: text(1) },
        "reserve" => Call::Reserve { id: text(1), ttl_ms: number(words[2]), lines: lines(words[3]) },
        "confirm" => Call::Confirm { id: text(1) },
        "cancel" => Call::CancelReservation { id: text(1) },
        "extend" => Call::Extend { id: text(1), ttl_ms: number(words[2]) },
        "read" => Call::ReadStock { skus: rest(), consistency },
        "movements" => Call::ReadMovements { skus: rest(), consistency },
        "read-reservation" => Call::ReadReservation { id: text(1), consistency },
        "read-order" => Call::ReadOrder { id: text(1), consistency },
        "list" => Call::ListOrders { consistency },
        other => panic!("no call is named {other}"),
    }
}

fn lines(text: &str) -> Vec<Line> {
    text.split(',')
        .filter(|line| *line != "-")
        .map(|line| {
            let (what, quantity) = line.split_once(':').expect("SKU:QUANTITY");
            let (sku, location) = what.split_once('@').map_or((what, None), |(sku, at)| (sku, Some(at)));
            Line { sku: sku.to_owned(), location: location.map(str::to_owned), quantity: number(quantity) }
        })
        .collect()
}

fn outcome(said: &str, call: &Call, node: u64) -> Outcome {
    if said == "fail" {
        return Outcome::Fail { status: 503, code: "no_leader".to_owned() };
    }
    if let Some(reason) = said.strip_prefix("info") {
        return Outcome::Info { reason: reason.trim().to_owned() };
    }
    let (answer, words) = answer(said, call);
    let index = words.iter().find_map(|word| word.strip_prefix('@')).map(number);
    let status = match (&answer, named(&words, "status")) {
        (_, Some(status)) => number(status) as u16,
        (Answer::Refused { status, .. }, None) => *status,
        _ => 200,
    };
    let meta = Meta {
        status,
        served_by: Some(named(&words, "node").map_or(node, number)),
        applied_index: index,
        staleness_ms: named(&words, "staleness").map(number),
        session: named(&words, "token").map(str::to_owned),
        replayed: words.contains(&"replayed"),
        body_hash: named(&words, "hash").map_or(0, number),
    };
    Outcome::Ok { answer, meta }
}

/// An answer, and all words of what was said.
fn answer<'a>(said: &'a str, call: &Call) -> (Answer, Vec<&'a str>) {
    let words: Vec<&str> = said.split_whitespace().collect();
    let index = words.iter().find_map(|word| word.strip_prefix('@')).map(number);
    // What is said of the answer itself ends where the index begins.
    let end = words.iter().position(|word| word.starts_with('@')).unwrap_or(words.len());
    let body = words[..end].join(" ");
    let (kind, rest) = body.split_once(' ').unwrap_or((&body, ""));
    let items = || rest.split(';').map(str::trim).filter(|item| !item.is_empty());
    let answer = match kind {
        "done" => Answer::Done { log_index: index },
        "order" => Answer::Order(order(rest, index)),
        "held" | "confirmed" | "cancelled" | "expired" => Answer::Reservation(reservation(kind, rest, index)),
        "stock" => Answer::Stock { items: items().map(stock).collect() },
        "moves" => Answer::Movements { items: items().map(movement).rev().collect() },
        "orders" => Answer::Orders { items: items().map(|item| order(item, index)).collect() },
        "short" => Answer::Refused {
            status: 409,
            code: "out_of_stock".to_owned(),
            shortages: rest.split_whitespace().map(shortage).collect(),
        },
        "refused" => {
            let (status, code) = rest.split_once(' ').expect("STATUS CODE");
            Answer::Refused { status: number(status) as u16, code: code.to_owned(), shortages: Vec::new() }
        }
        other => panic!("no answer to {} is named {other}", call.name()),
    };
    (answer, words)
}

fn own_index(words: &[&str], index: Option<u64>) -> u64 {
    words.iter().find_map(|word| word.strip_prefix('#')).map(number).or(index).unwrap_or(0)
}

fn order(text: &str, index: Option<u64>) -> OrderSeen {
    let words: Vec<&str> = text.split_whitespace().collect();
    let cancelled = words.contains(&"cancelled");
    OrderSeen {
        id: words[0].to_owned(),
        status: if cancelled { "cancelled" } else { "paid" }.to_owned(),
        lines: lines(words[1 + usize::from(cancelled)]),
        log_index: own_index(&words, index),
    }
}

fn reservation(status: &str, text: &str, index: Option<u64>) -> ReservationSeen {
    let words: Vec<&str> = text.split_whitespace().collect();
    ReservationSeen {
        id: words[0].to_owned(),
        status: status.to_owned(),
        expires_at: String::new(),
        lines: words.get(1).filter(|word| word.contains(':')).map_or_else(Vec::new, |word| lines(word)),
        log_index: own_index(&words, index),
    }
}

fn counters(text: &str) -> Counters {
    let numbers: Vec<u64> = text.split('/').map(number).collect();
    let (on_hand, reserved, allocated) = (numbers[0], numbers[1], numbers[2]);
    let left = on_hand.saturating_sub(reserved).saturating_sub(allocated);
    Counters { on_hand, reserved, allocated, available: numbers.get(3).copied().unwrap_or(left) }
}

/// `mug 10/0/0`: all at `main`. `mug a=10/0/0 b=5/0/0`: the total is their sum, unless it stands there too.
fn stock(text: &str) -> StockSeen {
    let mut words = text.split_whitespace();
    let sku = words.next().expect("SKU").to_owned();
    let (mut locations, mut sum, mut total) = (BTreeMap::new(), Counters::default(), None);
    for word in words {
        match word.split_once('=') {
            Some((location, text)) => {
                let at = counters(text);
                sum.on_hand = sum.on_hand.wrapping_add(at.on_hand);
                sum.reserved = sum.reserved.wrapping_add(at.reserved);
                sum.allocated = sum.allocated.wrapping_add(at.allocated);
                sum.available = sum.available.wrapping_add(at.available);
                locations.insert(location.to_owned(), at);
            }
            None => total = Some(counters(word)),
        }
    }
    if let (true, Some(total)) = (locations.is_empty(), total) {
        locations.insert("main".to_owned(), total);
    }
    StockSeen { sku, total: total.unwrap_or(sum), locations }
}

fn movement(text: &str) -> MovementSeen {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (sku, location) = words[0].split_once('@').unwrap_or((words[0], "main"));
    let after = counters(words[4]);
    MovementSeen {
        sku: sku.to_owned(),
        location: location.to_owned(),
        kind: words[1].to_owned(),
        cause: words[2].to_owned(),
        quantity: words[3].parse().expect("a quantity"),
        on_hand_after: after.on_hand,
        reserved_after: after.reserved,
        allocated_after: after.allocated,
        log_index: own_index(&words, None),
    }
}

fn shortage(text: &str) -> Shortage {
    let (what, units) = text.split_once(':').expect("SKU:REQUESTED/AVAILABLE");
    let (sku, location) = what.split_once('@').unwrap_or((what, "main"));
    let (requested, available) = units.split_once('/').expect("REQUESTED/AVAILABLE");
    let (sku, location) = (sku.to_owned(), location.to_owned());
    Shortage { sku, location, requested: number(requested), available: number(available) }
}

/// `NEMESIS KIND FROM-TO [effective] [nodes=1,2]`
fn fault(text: &str) -> Fault {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (from, until) = words[2].split_once('-').expect("FROM-TO");
    Fault {
        nemesis: words[0].to_owned(),
        kind: words[1].to_owned(),
        what: text.to_owned(),
        nodes: named(&words, "nodes").map_or_else(Vec::new, |nodes| nodes.split(',').map(number).collect()),
        from: number(from) * 1_000,
        until: Some(number(until) * 1_000),
        effective: words.contains(&"effective"),
        evidence: String::new(),
    }
}

/// `AT NODE term=T [leader=L] [applied=I digest=D hash=H]`
fn sample(text: &str) -> Sample {
    let words: Vec<&str> = text.split_whitespace().collect();
    let named_text = |name| named(&words, name).unwrap_or_default().to_owned();
    Sample {
        at: number(words[0]) * 1_000,
        node: number(words[1]),
        term: named(&words, "term").map_or(1, number),
        leader: named(&words, "leader").map(number),
        applied_index: named(&words, "applied").map_or(0, number),
        digest: named_text("digest"),
        state_hash: named_text("hash"),
    }
}

/// `AT NODE expected|unexpected code=C|signal=S [excuse=E] | LAST LINE`
/// `FROM-TO NODE [stale] applied=INDEX digest=D hash=H orders=N [finding=WORD] [peer=NODE:DIGEST:HASH]`
fn backup(text: &str) -> Backup {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (from, until) = words[0].split_once('-').expect("FROM-TO");
    let text = |name: &str| named(&words, name).unwrap_or_default().to_owned();
    let log_index = number(&text("applied"));
    let at = |digest: &str, hash: &str| Fingerprint {
        log_index,
        digest: digest.to_owned(),
        state_hash: hash.to_owned(),
    };
    let peer = |text: &str| {
        let parts: Vec<&str> = text.split(':').collect();
        (number(parts[0]), at(parts[1], parts[2]))
    };
    Backup {
        node: number(words[1]),
        from: number(from) * 1_000,
        until: number(until) * 1_000,
        fresh: !words.contains(&"stale"),
        at: at(&text("digest"), &text("hash")),
        orders: number(&text("orders")),
        findings: named(&words, "finding").map(str::to_owned).into_iter().collect(),
        peers: named(&words, "peer").map(peer).into_iter().collect(),
    }
}

fn exit(text: &str) -> Exit {
    let (text, last_line) = text.split_once('|').unwrap_or((text, ""));
    let words: Vec<&str> = text.split_whitespace().collect();
    let code = named(&words, "code").map(|code| number(code) as i32);
    Exit {
        at: number(words[0]) * 1_000,
        node: number(words[1]),
        expected: words[2] == "expected",
        how: code.map_or_else(
            || format!("signal: {}", named(&words, "signal").unwrap_or("9 (SIGKILL)")),
            |code| format!("exit status: {code}"),
        ),
        code,
        last_line: last_line.trim().to_owned(),
        excuse: named(&words, "excuse").map(str::to_owned),
    }
}

/// `NAME holds|fails DETAIL`
fn probe(text: &str) -> Probe {
    let words: Vec<&str> = text.splitn(3, ' ').collect();
    Probe {
        name: words[0].to_owned(),
        holds: words[1] == "holds",
        detail: words.get(2).copied().unwrap_or_default().to_owned(),
    }
}
