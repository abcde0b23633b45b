//! The clients: each has one connection, and one call under way.

use super::{
    books::{Books, Unknown, Write},
    pace::{Gate, Pace, Window},
    request::Writer,
    tally::Tally,
    wire::Connection,
    workload::{Line, Shape, Workload},
};
use futures::{StreamExt, stream};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Deserialize;
use std::{
    borrow::Cow,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Reservations that stay behind end by themselves, long after the run.
const RESERVATION_TTL_MS: u64 = 3_600_000;
/// A client that was refused "not now", or found nobody, leaves this much room before it goes on.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Connections that are opened at once. Beyond what a listener keeps waiting, 1,024 as a rule, they would be dropped and
/// come again a second later.
const OPENED_AT_ONCE: usize = 512;
/// Refusals that come only after the server has waited in vain, for its leader, a read index or the log.
const REFUSED_LATE: [&str; 3] = ["no_leader", "deadline_exceeded", "behind"];

/// What the clients of one window share.
pub struct Job {
    /// What to do.
    pub shape: Shape,
    /// `host:port` of the nodes; clients are spread over them.
    pub hosts: Vec<String>,
    /// Of the run: its SKUs and keys begin with it.
    pub prefix: String,
    /// Tells windows of one run apart, so that no key is used twice.
    pub window_number: usize,
    /// Decides what each client draws.
    pub seed: u64,
    /// How long an answer may take; the server is told, where it is not its own default.
    pub timeout: Duration,
    /// The deadline to tell the server of.
    pub deadline_ms: Option<u64>,
    /// Which part is measured.
    pub window: Window,
    /// What each SKU's stock must say in the end; a bare server has none.
    pub books: Option<Arc<Books>>,
    /// Units of each SKU that a read must find.
    pub received: i64,
    /// Orders done so far, for whoever watches.
    pub live: AtomicU64,
}

/// So many clients, each with its connection.
pub async fn connect(job: &Arc<Job>, clients: usize) -> Vec<Client> {
    let opened = (0..clients).map(|index| async move {
        let mut client = Client::new(job.clone(), index);
        // A node that is down is found out by the first call, and counted.
        client.connection = Connection::open(&client.host, job.timeout).await.ok();
        client
    });
    stream::iter(opened).buffer_unordered(OPENED_AT_ONCE).collect().await
}

/// Runs the clients until the gate closes, which opens now; one tally for each.
pub fn run(job: &Job, pace: Pace, clients: Vec<Client>) -> (Arc<Gate>, tokio::task::JoinSet<Tally>) {
    let gate = Gate::open(pace, &job.window);
    let mut tasks = tokio::task::JoinSet::new();
    for client in clients {
        tasks.spawn(client.run(gate.clone()));
    }
    (gate, tasks)
}

/// One connection, and what is done over it.
pub struct Client {
    job: Arc<Job>,
    host: String,
    connection: Option<Connection>,
    writer: Writer,
    rng: SmallRng,
    tally: Tally,
    lines: Vec<Line>,
    session: Vec<u8>,
    key_prefix: String,
    keys: u64,
}

/// What a call came to.
enum Ended {
    /// So many orders of so many lines were done.
    Done { orders: u64, lines: u64 },
    /// Sold out, and that is an answer as good as a sale.
    SoldOut,
    /// None was; the counts by code are kept already. `waited`: not by a refusal at once.
    Not { pause: bool, waited: bool },
}

/// What an answer says of one write.
enum Said {
    Done,
    Refused(String),
    /// No less certain, but only after a wait.
    RefusedLate(String),
    Unknown(String),
}

/// The exchange itself came to nothing.
enum Missed {
    /// Nothing was sent: nobody listens.
    Unreachable,
    /// Nothing was sent: no connection came about in time.
    UnreachableInTime,
    /// It was sent, and no answer came.
    NoAnswer(&'static str),
}

impl Missed {
    fn said(&self) -> Said {
        match self {
            Missed::Unreachable => Said::Refused("unreachable".into()),
            Missed::UnreachableInTime => Said::RefusedLate("unreachable".into()),
            Missed::NoAnswer(why) => Said::Unknown((*why).into()),
        }
    }
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, default)]
    code: Cow<'a, str>,
    #[serde(default)]
    definite: bool,
}

impl Problem<'_> {
    fn said(self) -> Said {
        let code = self.code.into_owned();
        match self.definite {
            true if REFUSED_LATE.contains(&code.as_str()) => Said::RefusedLate(code),
            true => Said::Refused(code),
            false => Said::Unknown(code),
        }
    }
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Outcomes<'a> {
    #[serde(borrow)]
    outcomes: Vec<Outcome<'a>>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    status: u16,
    #[serde(borrow)]
    body: Problem<'a>,
}

impl Client {
    fn new(job: Arc<Job>, index: usize) -> Self {
        let host = job.hosts[index % job.hosts.len()].clone();
        Client {
            writer: Writer::new(&host, &job.prefix, job.deadline_ms),
            connection: None,
            rng: SmallRng::seed_from_u64(job.seed ^ ((job.window_number as u64) << 32 | index as u64)),
            tally: Tally::new(job.window.slots()),
            lines: Vec::new(),
            session: Vec::new(),
            key_prefix: format!("{}-{:x}-{index:x}", job.prefix, job.window_number),
            keys: 0,
            host,
            job,
        }
    }

    async fn run(mut self, gate: Arc<Gate>) -> Tally {
        let window = self.job.window;
        while let Some(due_us) = gate.next().await {
            let counts = gate.now_us() >= window.begin_us;
            let ended = match self.job.shape.workload {
                Workload::Reserve => self.reserve(counts).await,
                Workload::Batch => self.batch(counts).await,
                Workload::Read => self.read(counts).await,
                _ => self.order(counts).await,
            };
            match ended {
                Ended::Done { orders, lines } => {
                    self.tally.answered(&window, due_us, gate.now_us(), orders, lines);
                    self.job.live.fetch_add(orders, Ordering::Relaxed);
                }
                Ended::SoldOut => self.tally.answered(&window, due_us, gate.now_us(), 0, 0),
                Ended::Not { pause, waited } => {
                    if waited {
                        self.tally.waited(&window, due_us, gate.now_us());
                    }
                    if pause {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                }
            }
        }
        self.tally
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{:x}", self.key_prefix, self.keys)
    }

    /// Sends what the writer holds. The connection comes back with the answer in it.
    async fn exchange(&mut self) -> Result<(u16, Connection), Missed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                Connection::open(&self.host, self.job.timeout).await.map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut => Missed::UnreachableInTime,
                    _ => Missed::Unreachable,
                })?
            }
        };
        match tokio::time::timeout(self.job.timeout, connection.exchange(self.writer.bytes())).await {
            Ok(Ok(status)) => Ok((status, connection)),
            Ok(Err(_)) => Err(Missed::NoAnswer("connection_lost")),
            Err(_) => Err(Missed::NoAnswer("no_answer_in_time")),
        }
    }

    fn keep(&mut self, connection: Connection) {
        self.connection = Some(connection).filter(Connection::goes_on);
    }

    /// One write of the lines drawn last, already in the writer. `then` sees the body of a success.
    async fn write(
        &mut self,
        write: Write,
        key: String,
        counts: bool,
        then: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<Option<String>, Ended> {
        let (said, kept) = match self.exchange().await {
            Ok((status, connection)) => {
                let said = said(status, connection.body());
                let kept = if matches!(said, Said::Done) { then(connection.body()) } else { None };
                self.keep(connection);
                (said, kept)
            }
            Err(missed) => (missed.said(), None),
        };
        if matches!(said, Said::Done) {
            if let Some(books) = &self.job.books {
                books.done(write, &self.lines);
            }
            return Ok(kept);
        }
        if let Said::Unknown(_) = said {
            self.tally.unsettled.push(Unknown { key, write, lines: self.lines.clone() });
        }
        Err(self.note(said, counts))
    }

    /// Counts what was not done.
    fn note(&mut self, said: Said, counts: bool) -> Ended {
        let waited = !matches!(said, Said::Done | Said::Refused(_));
        let (code, into) = match said {
            Said::Refused(code) | Said::RefusedLate(code) => (code, &mut self.tally.refused),
            Said::Unknown(code) => (code, &mut self.tally.unknown),
            Said::Done => return Ended::Not { pause: false, waited },
        };
        let sold_out = code == "out_of_stock";
        if counts {
            match into.get_mut(&code) {
                Some(n) => *n += 1,
                None => drop(into.insert(code, 1)),
            }
        }
        if sold_out { Ended::SoldOut } else { Ended::Not { pause: true, waited } }
    }

    async fn order(&mut self, counts: bool) -> Ended {
        self.job.shape.draw(&mut self.rng, &mut self.lines);
        let key = self.key();
        self.writer.order(&key, &self.lines);
        match self.write(Write::Order, key, counts, |_| None).await {
            Ok(_) => Ended::Done { orders: 1, lines: self.lines.len() as u64 },
            Err(ended) => ended,
        }
    }

    async fn reserve(&mut self, counts: bool) -> Ended {
        self.job.shape.draw(&mut self.rng, &mut self.lines);
        let key = self.key();
        self.writer.reserve(&key, RESERVATION_TTL_MS, &self.lines);
        let id = |body: &[u8]| serde_json::from_slice::<Named>(body).ok().map(|named| named.id.into_owned());
        let id = match self.write(Write::Reserve, key, counts, id).await {
            Ok(Some(id)) => id,
            Ok(None) => {
                self.tally.wrong("a reservation was made and its answer has no id".into());
                return Ended::Not { pause: false, waited: false };
            }
            Err(ended) => return ended,
        };
        let key = self.key();
        self.writer.confirm(&key, &id);
        match self.write(Write::Confirm, key, counts, |_| None).await {
            Ok(_) => Ended::Done { orders: 1, lines: self.lines.len() as u64 },
            Err(ended) => ended,
        }
    }

    async fn batch(&mut self, counts: bool) -> Ended {
        let mut orders: Vec<(String, Vec<Line>)> = Vec::with_capacity(self.job.shape.batch_size as usize);
        for _ in 0..self.job.shape.batch_size {
            self.job.shape.draw(&mut self.rng, &mut self.lines);
            orders.push((self.key(), self.lines.clone()));
        }
        self.writer.batch(orders.iter().map(|(key, lines)| (key.as_str(), lines.as_slice())));
        let said = match self.exchange().await {
            Ok((status, connection)) => {
                let said = each_said(status, connection.body(), orders.len());
                self.keep(connection);
                said
            }
            Err(missed) => same(orders.len(), || missed.said()),
        };
        let (mut done, mut all_lines, mut any_waited) = (0, 0, false);
        for (said, (key, lines)) in said.into_iter().zip(orders) {
            if matches!(said, Said::Done) {
                done += 1;
                all_lines += lines.len() as u64;
                if let Some(books) = &self.job.books {
                    books.done(Write::Order, &lines);
                }
                continue;
            }
            if let Said::Unknown(_) = said {
                self.tally.unsettled.push(Unknown { key, write: Write::Order, lines });
            }
            any_waited |= matches!(self.note(said, counts), Ended::Not { waited: true, .. });
        }
        if done > 0 {
            Ended::Done { orders: done, lines: all_lines }
        } else {
            Ended::Not { pause: true, waited: any_waited }
        }
    }

    async fn read(&mut self, counts: bool) -> Ended {
        self.job.shape.draw(&mut self.rng, &mut self.lines);
        let shape = &self.job.shape;
        self.writer.stock(self.lines[0].sku, shape.level, shape.max_staleness_ms, &self.session);
        let said = match self.exchange().await {
            Ok((status, connection)) => {
                let said = said(status, connection.body());
                if matches!(said, Said::Done) {
                    self.look_at(connection.body());
                    self.session.clear();
                    self.session.extend_from_slice(connection.session());
                }
                self.keep(connection);
                said
            }
            Err(missed) => missed.said(),
        };
        match said {
            Said::Done => Ended::Done { orders: 1, lines: 1 },
            other => self.note(other, counts),
        }
    }

    /// Nobody else sells these SKUs, so every read at every level must find what was received.
    fn look_at(&mut self, body: &[u8]) {
        #[derive(Deserialize)]
        struct Available {
            available: i64,
        }
        match serde_json::from_slice::<Available>(body) {
            Ok(found) if found.available == self.job.received => {}
            _ => self.tally.wrong(format!(
                "{} units were received, and a read says {}",
                self.job.received,
                String::from_utf8_lossy(&body[..body.len().min(200)])
            )),
        }
    }
}

fn same(count: usize, said: impl Fn() -> Said) -> Vec<Said> {
    (0..count).map(|_| said()).collect()
}

fn said(status: u16, body: &[u8]) -> Said {
    if (200..300).contains(&status) {
        return Said::Done;
    }
    let problem = serde_json::from_slice::<Problem>(body).ok().filter(|problem| !problem.code.is_empty());
    match problem {
        Some(problem) => problem.said(),
        // A proxy's page, or a crash: it says nothing of what happened behind it.
        None if status >= 500 => Said::Unknown(format!("http_{status}")),
        None => Said::Refused(format!("http_{status}")),
    }
}

/// What the answer to a batch of so many says of each.
fn each_said(status: u16, body: &[u8], count: usize) -> Vec<Said> {
    if !(200..300).contains(&status) {
        return same(count, || said(status, body));
    }
    match serde_json::from_slice::<Outcomes>(body) {
        Ok(answer) if answer.outcomes.len() == count => {
            let each = answer.outcomes.into_iter();
            each.map(|outcome| match outcome {
                Outcome { status: 200..300, .. } => Said::Done,
                Outcome { body, .. } => body.said(),
            })
            .collect()
        }
        _ => same(count, || Said::Unknown("unexpected_answer".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(said: Said) -> String {
        match said {
            Said::Done => "done".into(),
            Said::Refused(code) => format!("refused {code}"),
            Said::RefusedLate(code) => format!("refused late {code}"),
            Said::Unknown(code) => format!("unknown {code}"),
        }
    }

    #[test]
    fn only_a_certain_refusal_counts_as_refused() {
        let problem =
            |code: &str, definite: bool| format!(r#"{{"code":"{code}","definite":{definite},"title":"t"}}"#);
        assert_eq!(shown(said(201, b"")), "done");
        assert_eq!(shown(said(503, problem("overloaded", true).as_bytes())), "refused overloaded");
        assert_eq!(shown(said(503, problem("no_leader", true).as_bytes())), "refused late no_leader");
        assert_eq!(shown(said(504, problem("outcome_unknown", false).as_bytes())), "unknown outcome_unknown");
        assert_eq!(shown(said(502, b"<html>")), "unknown http_502");
        assert_eq!(shown(said(404, b"")), "refused http_404");
    }

    #[test]
    fn a_batch_is_told_apart_order_by_order() {
        let body = br#"{"outcomes":[{"key":"a","status":201,"body":{"id":"o1","status":"paid"}},
            {"key":"b","status":409,"body":{"code":"out_of_stock","definite":true}},
            {"key":"c","status":504,"body":{"code":"outcome_unknown","definite":false}}]}"#;
        let each: Vec<String> = each_said(200, body, 3).into_iter().map(shown).collect();
        assert_eq!(each, ["done", "refused out_of_stock", "unknown outcome_unknown"]);
        let short: Vec<String> = each_said(200, body, 4).into_iter().map(shown).collect();
        assert_eq!(short, ["unknown unexpected_answer"; 4], "an answer that does not fit settles nothing");
    }
}
