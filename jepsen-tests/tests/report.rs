//! The page of a run: complete, escaped, well formed and small.
//!
//! `JEPSEN_TESTS_PAGES=DIR cargo test -p jepsen-tests --test report` leaves the pages in `DIR` to be looked at.

use jepsen_tests::checker::{Verdict, Verdicts, Violation};
use jepsen_tests::history::{
    Answer, Call, Consistency, Counters, Exit, Fault, History, Line, Meta, Micros, NodeId, Op, OrderSeen,
    Outcome, Probe, ReservationSeen, RunInfo, Sample, Settled, Shortage, StockSeen,
};
use jepsen_tests::report::{self, Row, Shown};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SECOND: Micros = 1_000_000;
/// Text that would break a page, or run in it, were it not escaped.
const EVIL: &str = "<script>alert('x')</script>\"&\u{202e}\u{1b}[31m";

/// Where pages go: a directory that is removed, or one that was asked for.
struct Pages {
    dir: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Pages {
    fn new(name: &str) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = match std::env::var_os("JEPSEN_TESTS_PAGES") {
            Some(kept) => Path::new(&kept).join(name),
            None => temporary.path().join(name),
        };
        std::fs::create_dir_all(&dir).expect("a directory for the page");
        Pages { dir, _temporary: temporary }
    }

    fn write(&self, history: &History, verdicts: &[Verdict]) -> String {
        let path = report::write(&self.dir, history, verdicts).expect("the page is written");
        std::fs::read_to_string(path).expect("the page is there")
    }
}

fn run_info() -> RunInfo {
    RunInfo {
        workload: "stock".to_owned(),
        nemeses: vec!["partition-leader".to_owned(), "kill".to_owned(), "clock-skew".to_owned()],
        nodes: 3,
        time_s: 120,
        seed: 7,
        network: "loopback".to_owned(),
        command: "cargo run --release -p jepsen-tests -- run --workload stock --nemesis partition-leader,kill,clock-skew --seed 7".to_owned(),
        version: "stockroom 0.1.0".to_owned(),
        settings: vec![("--snapshot-every".to_owned(), "500".to_owned())],
    }
}

fn fault(nemesis: &str, kind: &str, what: &str, nodes: &[NodeId], from_s: u64, for_s: u64) -> Fault {
    Fault {
        nemesis: nemesis.to_owned(),
        kind: kind.to_owned(),
        what: what.to_owned(),
        nodes: nodes.to_vec(),
        from: from_s * SECOND,
        until: Some((from_s + for_s) * SECOND),
        effective: true,
        evidence: format!("{} messages were held back", from_s * 37),
    }
}

fn faults() -> Vec<Fault> {
    let mut faults = vec![
        fault("partition-leader", "network", "node 2, the leader, is cut off from 1 and 3", &[2], 12, 11),
        fault("kill", "process", "kill -9 of node 1", &[1], 34, 6),
        fault("clock-skew", "clock", "the clock of node 3 jumps 8 s ahead", &[3], 40, 14),
        fault("partition-leader", "network", "node 3, the leader, is cut off from 1 and 2", &[3], 62, 9),
        fault("kill", "process", "kill -9 of nodes 1 and 2", &[1, 2], 84, 5),
        fault("clock-skew", "clock", "the clock of node 1 jumps 2 s back", &[1], 80, 20),
    ];
    faults[5].effective = false;
    faults[5].evidence = "its clock did not move".to_owned();
    faults
}

/// Who leads, by the second: node 2 until it is cut off, node 3 until that is, then node 1 and 3.
fn leader_at(at: Micros) -> Option<(NodeId, u64)> {
    match at / SECOND {
        0..=12 => Some((2, 1)),
        15..=62 => Some((3, 2)),
        64..84 => Some((1, 3)),
        91.. => Some((3, 5)),
        _ => None,
    }
}

fn down(node: NodeId, at: Micros) -> bool {
    let killed =
        (node == 1 && (34..40).contains(&(at / SECOND))) || (node != 3 && (84..89).contains(&(at / SECOND)));
    killed || (node == 2 && (50..52).contains(&(at / SECOND)))
}

fn samples(end: Micros) -> Vec<Sample> {
    let each = (0..end).step_by(250_000).flat_map(|at| (1..=3).map(move |node| (at, node)));
    let live = each.filter(|(at, node)| !down(*node, *at));
    live.map(|(at, node)| {
        let cut_off = node == 2 && (12..23).contains(&(at / SECOND));
        let index = if cut_off { 12 * SECOND } else { at } / 6_000 + node % 3;
        let (leader, term) = leader_at(at).map_or((None, 2), |(leader, term)| (Some(leader), term));
        let (leader, term) = if cut_off { (Some(2), 1) } else { (leader, term) };
        Sample {
            at: at + node,
            node,
            term,
            leader,
            applied_index: index.max(1),
            digest: String::new(),
            state_hash: String::new(),
        }
    })
    .collect()
}

fn exit(node: NodeId, at_s: u64, expected: bool) -> Exit {
    Exit {
        at: at_s * SECOND + 3000,
        node,
        expected,
        how: if expected { "signal: 9 (SIGKILL)" } else { "exit status: 70" }.to_owned(),
        code: (!expected).then_some(70),
        last_line: format!(
            "\u{1b}[2m2026-11-21T08:00:00Z\u{1b}[0m ERROR storage: sync of segment failed, stopping {EVIL}"
        ),
        excuse: None,
    }
}

fn call(rng: &mut StdRng, id: u64) -> Call {
    let sku = format!("sku-{}", id / 900);
    let line = |most| vec![Line::new(sku.clone(), 1 + id % most)];
    match rng.random_range(0..10) {
        0 => Call::Receive { lines: line(9) },
        1..4 => Call::PlaceOrder { id: Some(format!("o-{id}")), lines: line(3), reservation_id: None },
        4 => Call::Reserve { id: format!("r-{id}"), ttl_ms: 500, lines: line(3) },
        5 => Call::Confirm { id: format!("r-{}", id.saturating_sub(7)) },
        6 => Call::CancelOrder { id: format!("o-{}", id.saturating_sub(11)) },
        _ => Call::ReadStock { skus: vec![sku], consistency: Consistency::Linearizable },
    }
}

fn counters(on_hand: u64, allocated: u64, reserved: u64) -> Counters {
    Counters { on_hand, reserved, allocated, available: on_hand - allocated - reserved }
}

fn answer(call: &Call, id: u64) -> Answer {
    let log_index = id / 2;
    match call {
        Call::ReadStock { skus, .. } => {
            let total = counters(40 + id % 900 / 9, 20 + id % 900 / 30, id % 7);
            let items =
                skus.iter().map(|sku| StockSeen { sku: sku.clone(), total, locations: BTreeMap::new() });
            Answer::Stock { items: items.collect() }
        }
        Call::PlaceOrder { id: Some(order), lines, .. } if !id.is_multiple_of(9) => {
            Answer::Order(OrderSeen {
                id: order.clone(),
                status: "placed".to_owned(),
                lines: lines.clone(),
                log_index,
            })
        }
        Call::PlaceOrder { lines, .. } => Answer::Refused {
            status: 409,
            code: "out_of_stock".to_owned(),
            shortages: vec![Shortage {
                sku: lines[0].sku.clone(),
                location: "main".to_owned(),
                requested: lines[0].quantity,
                available: 0,
            }],
        },
        Call::Reserve { id, lines, .. } => Answer::Reservation(ReservationSeen {
            id: id.clone(),
            status: "held".to_owned(),
            expires_at: "2026-11-21T08:00:00.500Z".to_owned(),
            lines: lines.clone(),
            log_index,
        }),
        _ => Answer::Done { log_index: Some(log_index) },
    }
}

/// How a call at this time ends, and how long that takes.
fn outcome(rng: &mut StdRng, call: &Call, id: u64, at: Micros) -> (Micros, Outcome) {
    let usual = (rng.random_range(0.0..1.0f64).powi(5) * 24_000.0) as Micros + 1_400;
    if leader_at(at).is_none() {
        return match rng.random_range(0..4) {
            0 => (5 * SECOND, Outcome::Info { reason: "no answer within 5 s".to_owned() }),
            1 => (1_300_000 + usual, Outcome::Ok { answer: answer(call, id), meta: Meta::default() }),
            _ => (usual / 2, Outcome::Fail { status: 503, code: "no_leader".to_owned() }),
        };
    }
    match rng.random_range(0..600) {
        0 => (90_000 + usual, Outcome::Info { reason: "connection reset by peer".to_owned() }),
        1..4 => (400, Outcome::Fail { status: 0, code: "connection refused".to_owned() }),
        _ => {
            let meta = Meta {
                status: 200,
                served_by: Some(1 + id % 3),
                applied_index: Some(id / 2),
                ..Meta::default()
            };
            (usual, Outcome::Ok { answer: answer(call, id), meta })
        }
    }
}

/// A believable run of that many calls; the same one each time.
fn history(calls: u64) -> History {
    let mut rng = StdRng::seed_from_u64(7);
    let every = 120 * SECOND / calls;
    let mut clients: Vec<u64> = (0..10).collect();
    let mut ops: Vec<Op> = Vec::new();
    for id in 0..calls {
        let slot = (id % 10) as usize;
        let invoked = id * every + rng.random_range(0..every);
        let call = call(&mut rng, id);
        let (took, outcome) = outcome(&mut rng, &call, id, invoked);
        let unknown = matches!(outcome, Outcome::Info { .. });
        let settled = (unknown && call.is_write()).then(|| {
            let happened = Settled::Happened { answer: answer(&call, id) };
            (124 * SECOND, if id % 3 == 0 { happened } else { Settled::Abandoned })
        });
        let key = call.is_write().then(|| format!("k-{id}"));
        let (client, node) = (clients[slot], 1 + id % 3);
        if unknown {
            clients[slot] += 10;
        }
        let completed = Some(invoked + took);
        ops.push(Op { id, client, node, key, call, invoked, completed, outcome: Some(outcome), settled });
    }
    let last = ops.last_mut().expect("at least one call");
    (last.completed, last.outcome) = (None, None);
    let exits = vec![exit(1, 34, true), exit(2, 50, false), exit(1, 84, true), exit(2, 84, true)];
    let probe =
        |name: &str, detail: &str| Probe { name: name.to_owned(), holds: true, detail: detail.to_owned() };
    let probes = vec![
        probe("digests", "3 nodes agree at index 20 114"),
        probe("available", "a write and a read succeeded on each node within 0.8 s of healing"),
    ];
    History {
        run: run_info(),
        ops,
        faults: faults(),
        samples: samples(126 * SECOND),
        exits,
        probes,
        ..History::default()
    }
}

fn passing() -> Vec<Verdict> {
    vec![
        Verdict::holds("linearizable", "22 SKUs are linearizable: 19 871 calls, 63 of unknown outcome"),
        Verdict::holds("bounds", "reserved + allocated <= on hand in 7 021 reads"),
        Verdict::holds("one-leader-per-term", "5 terms, one leader each"),
    ]
}

/// Two orders for the last units, a read that saw neither: calls around the leader's end at 62 s.
fn violation(history: &mut History) -> Violation {
    let from = history.ops.iter().position(|op| op.invoked > 62 * SECOND).expect("a call then");
    let ids: Vec<u64> = (0..6).map(|nth| history.ops[from + nth * 2].id).collect();
    let sku = format!("sku-{}", ids[0] / 900);
    for id in &ids {
        let op = &mut history.ops[*id as usize];
        op.call = Call::PlaceOrder {
            id: Some(format!("o-{id}")),
            lines: vec![Line::new(sku.clone(), 3)],
            reservation_id: None,
        };
        let seen = answer(&op.call, id * 9 + 1);
        op.outcome = Some(Outcome::Ok { answer: seen, meta: Meta::default() });
    }
    let read = &mut history.ops[ids[5] as usize];
    read.call = Call::ReadStock { skus: vec![sku.clone()], consistency: Consistency::Linearizable };
    let total = counters(12, 0, 0);
    let items = vec![StockSeen { sku: sku.clone(), total, locations: BTreeMap::new() }];
    read.outcome = Some(Outcome::Ok { answer: Answer::Stock { items }, meta: Meta::default() });
    let unknown = &mut history.ops[ids[2] as usize];
    unknown.outcome = Some(Outcome::Info { reason: EVIL.to_owned() });
    unknown.completed = Some(unknown.invoked + 45_000);
    let what = format!("{sku}: a read saw 12 available after four orders of 3 were acknowledged");
    Violation { what, skus: vec![sku], ops: ids }
}

/// Checks that tags are balanced and attributes quoted, and gives the text between tags.
fn text_of(page: &str) -> String {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        let end = start + rest[start..].find('>').expect("every tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| !c.is_whitespace() && *c != '/').collect();
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes of <{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "</{name}> closes what is open");
        } else if !VOID.contains(&name.as_str()) && !tag.ends_with('/') {
            if ["script", "style"].contains(&name.as_str()) {
                let close = format!("</{name}>");
                let end = rest.find(&close).expect("scripts and styles end");
                rest = &rest[end + close.len()..];
            } else {
                open.push(name);
            }
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    text
}

fn assert_self_contained(page: &str) {
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "the page asks for something outside: {outside}");
    }
}

#[test]
fn a_violated_run_shows_all_there_is_to_see() {
    let mut history = history(20_000);
    let violation = violation(&mut history);
    let mut verdicts = passing();
    verdicts[0] = Verdict::of("linearizable", "1 of 22 SKUs is not linearizable", vec![violation.clone()]);
    let page = Pages::new("violated").write(&history, &verdicts);
    let text = text_of(&page);
    assert_self_contained(&page);
    assert!(text.contains("VIOLATED"));
    assert!(text.contains("It does not hold: linearizable."));
    assert!(text.contains(&violation.what));
    for id in &violation.ops {
        let row = format!("<tr><td class=\"n\">{id}</td>");
        assert!(page.contains(&row), "call {id} is in the table");
        assert!(page.contains(&format!("<title>#{id} client")), "call {id} is in the picture");
    }
    for fault in &history.faults {
        assert!(text.contains(&fault.what) && text.contains(&fault.evidence), "{} is listed", fault.what);
    }
    assert!(text.contains("5 of 6"), "faults that took effect");
    assert!(text.contains("leader, term 5"));
    assert!(text.contains(&history.run.command));
    assert!(text.contains("out_of_stock") && text.contains("no_leader"));
    for probe in &history.probes {
        assert!(text.contains(&probe.detail));
    }
}

#[test]
fn nothing_from_outside_is_taken_for_markup() {
    let mut history = history(300);
    let evil = || EVIL.to_owned();
    let quoted = "\" onload=\"alert(1)";
    history.run =
        RunInfo { workload: evil(), nemeses: vec![evil()], network: evil(), command: evil(), ..run_info() };
    history.run.settings.push((evil(), quoted.to_owned()));
    history.run.version = evil();
    for fault in &mut history.faults {
        (fault.nemesis, fault.kind, fault.what, fault.evidence) = (evil(), evil(), quoted.to_owned(), evil());
    }
    for exit in &mut history.exits {
        (exit.how, exit.excuse) = (evil(), Some(evil()));
    }
    history.probes.push(Probe { name: evil(), holds: false, detail: evil() });
    let op = &mut history.ops[5];
    op.call = Call::Receive { lines: vec![Line { sku: evil(), location: Some(evil()), quantity: 1 }] };
    op.key = Some(evil());
    op.outcome = Some(Outcome::Fail { status: 500, code: evil() });
    let violation = Violation { what: evil(), skus: vec![evil()], ops: vec![5] };
    let verdicts = [Verdict::of(EVIL, EVIL, vec![violation])];
    let page = Pages::new("escaped").write(&history, &verdicts);
    text_of(&page);
    assert!(!page.contains("<script>alert"), "markup went through");
    assert!(!page.contains("\" onload"), "an attribute was broken out of");
    assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}'), "control characters went through");
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"));
}

#[test]
fn a_passing_run_says_so() {
    let page = Pages::new("passed").write(&history(20_000), &passing());
    let text = text_of(&page);
    assert!(text.contains("PASSED") && text.contains("3 checkers found nothing wrong."));
    assert!(!text.contains("What is wrong"));
}

#[test]
fn an_undecided_run_is_no_pass() {
    let mut verdicts = passing();
    verdicts.push(Verdict::not_decided("enough", "no fault took effect"));
    let text = text_of(&Pages::new("undecided").write(&history(500), &verdicts));
    assert!(text.contains("NOT DECIDED") && text.contains("Not a pass. Could not be decided: enough."));
    assert!(!text.contains("PASSED"));
}

#[test]
fn an_empty_run_has_a_page_too() {
    let text = text_of(&Pages::new("empty").write(&History::default(), &[]));
    assert!(text.contains("NOT DECIDED") && text.contains("Nothing was checked."));
    assert!(text.contains("The history is empty"));
}

#[test]
fn odd_histories_have_pages() {
    let whole = history(400);
    let verdict = |skus: &[&str], ops: &[u64]| {
        let skus = skus.iter().map(|sku| (*sku).to_owned()).collect();
        [Verdict::of("set", "lost", vec![Violation { what: "lost".to_owned(), skus, ops: ops.to_vec() }])]
    };
    let one = History { ops: vec![whole.ops[0].clone()], ..History::default() };
    let unfinished = History { ops: vec![whole.ops[399].clone()], ..History::default() };
    let pages = Pages::new("odd");
    text_of(&pages.write(&one, &verdict(&["sku-0"], &[0])));
    text_of(&pages.write(&unfinished, &verdict(&["sku-0"], &[399])));
    text_of(&pages.write(&whole, &verdict(&["no such sku"], &[])));
    text_of(&pages.write(&whole, &verdict(&[], &[123_456])));
    text_of(&pages.write(&History { ops: Vec::new(), ..whole }, &[]));
}

#[test]
fn a_large_run_has_a_small_page() {
    let mut history = history(100_000);
    let violation = violation(&mut history);
    history.faults =
        (0..300).map(|nth| fault("pause", "process", "node 1 stands still", &[1], nth / 3, 1)).collect();
    let verdicts = [Verdict::of("linearizable", "many", vec![violation; 500])];
    let page = Pages::new("large").write(&history, &verdicts);
    text_of(&page);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
}

#[test]
fn the_page_of_a_matrix_links_every_run() {
    let row = |name: &str, result: Shown, note: &str| Row {
        name: name.to_owned(),
        workload: "stock".to_owned(),
        nemeses: vec!["kill".to_owned(), "partition".to_owned()],
        result,
        seconds: 127,
        faults: "14 of 15".to_owned(),
        report: Some(PathBuf::from(format!("{name}/report.html"))),
        note: note.to_owned(),
    };
    let mut rows = vec![
        row("01-stock-kill", Shown::Verdict(Verdicts::Holds), ""),
        row("02 #odd?", Shown::Verdict(Verdicts::Violated), EVIL),
        row("03-planted-ack-before-sync", Shown::Good("caught after 14 s".to_owned()), "linearizable"),
        row("04-flash-sale", Shown::Verdict(Verdicts::NotDecided), "no fault took effect"),
        row("05-power-loss", Shown::Skipped, "needs root"),
    ];
    rows[4].report = None;
    let pages = Pages::new("matrix");
    let path = report::index(&pages.dir, &rows).expect("the page is written");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let text = text_of(&page);
    assert_self_contained(&page);
    assert!(text.contains("FAILED") && text.contains("5 runs") && text.contains("caught after 14 s"));
    assert!(page.contains("href=\"./01-stock-kill/report.html\""));
    assert!(page.contains("href=\"./02%20%23odd%3F/report.html\""));
    assert!(!page.contains("<script>alert"));
}
