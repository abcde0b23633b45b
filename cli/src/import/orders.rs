//! `import orders`: each row is an order under its own id.
//!
//! The id is what makes running again safe, for ever. It is also the idempotency key of the first
//! attempt, so that within a day a repetition is answered without being looked at again. But a key also
//! keeps *refusals* for a day: an order that was out of stock yesterday evening would hear the same
//! this morning, with the stock long there. So an order that is refused by its state (and not by its
//! shape) is asked for once more, under a key of this run.

use super::{
    OrdersArgs, Progress, applied_index, batch,
    batch::{Command, Outcome},
    input::{self, Lines, Position},
    refused::Refused,
    row::OrderRow,
    run_key, stock,
};
use crate::{
    client::{Call, Client, interrupted},
    output::{Format, count},
    problem::{Exit, Failure, Problem},
};
use futures::{StreamExt, stream};
use serde_json::json;
use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

/// A row that can be sent.
struct Ready {
    file: usize,
    line: u64,
    text: String,
    id: String,
    lines: u64,
    well_formed: bool,
    body: String,
}

/// What the reading thread hands over.
enum Piece {
    Batch(Vec<Ready>),
    /// A row that is refused here: file, line, id, text, why.
    Refused(usize, u64, Option<String>, String, Box<Problem>),
    /// A row that says the same as an earlier one.
    Repeated,
    Failed(Failure),
}

#[derive(Default)]
struct Tally {
    stored: u64,
    stored_before: u64,
    lines: u64,
    repeated: u64,
    received: Option<stock::Received>,
    took: Duration,
    took_orders: Duration,
}

/// Runs the import.
pub async fn run(client: &Client, args: &OrdersArgs, format: Format) -> Result<Exit, Failure> {
    if args.receive_stock && args.common.files.iter().any(|file| file == "-") {
        return Err(Failure::local(
            Exit::Usage,
            "usage",
            "stdin can be read only once",
            "--receive-stock reads the orders twice; save them into a file",
        ));
    }
    let begun = Instant::now();
    let mut refused = Refused::create(args.common.refused_path())?;
    let mut tally = Tally::default();
    let result = import(client, args, &mut refused, &mut tally).await;
    refused.finish()?;
    tally.took = begun.elapsed();
    print(&tally, &refused, result.is_ok(), format);
    result.map(|()| Exit::Ok)
}

async fn import(
    client: &Client,
    args: &OrdersArgs,
    refused: &mut Refused,
    tally: &mut Tally,
) -> Result<(), Failure> {
    if args.receive_stock {
        tally.received = Some(stock::receive(client, args).await?);
    }
    let begun = Instant::now();
    let result = store(client, args, refused, tally).await;
    tally.took_orders = begun.elapsed();
    result
}

async fn store(
    client: &Client,
    args: &OrdersArgs,
    refused: &mut Refused,
    tally: &mut Tally,
) -> Result<(), Failure> {
    // Everything up to here was there before: a repeated write answers with the index of the first.
    let before = applied_index(&client.call(&Call::get("/v1/items?limit=1")).await?);
    let in_flight = usize::from(args.common.in_flight);
    let give_up_after = Duration::from_secs(args.common.give_up_after);
    let run = run_key();
    let position = Position::default();
    let mut progress = Progress::new("orders", input::size(&args.common.files));
    let pieces = read_on_thread(args, &position, in_flight);
    let pieces =
        stream::unfold(pieces, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) });
    let mut done = std::pin::pin!(
        pieces
            .take_until(client.stopped())
            .map(|piece| handle(client, &run, give_up_after, piece))
            .buffer_unordered(in_flight)
    );
    let mut failed = None;
    while let Some(piece) = done.next().await {
        match piece {
            Done::Batch(rows, outcomes) => {
                for (row, outcome) in rows.iter().zip(outcomes) {
                    note(row, outcome, before, refused, tally)?;
                }
            }
            Done::Refused(file, line, id, text, problem) => {
                refused.add(file, line, ("order_id", id.as_deref()), &problem, ("order", &text))?;
            }
            Done::Repeated => tally.repeated += 1,
            Done::Failed(failure) => {
                // The first failure is the cause; what follows is that we stop.
                client.stop();
                failed = failed.or(Some(failure));
            }
        }
        progress.show(position.read.load(Ordering::Relaxed), || {
            let stored = count(tally.stored + tally.stored_before);
            format!("{stored} orders stored, {} refused", count(refused.count()))
        });
    }
    match failed {
        Some(failure) => Err(failure),
        None if client.stopping() => Err(interrupted()),
        None => Ok(()),
    }
}

fn note(
    row: &Ready,
    outcome: Outcome,
    before: Option<u64>,
    refused: &mut Refused,
    tally: &mut Tally,
) -> Result<(), Failure> {
    if let Some(problem) = outcome.problem {
        return refused.add(row.file, row.line, ("order_id", Some(&row.id)), &problem, ("order", &row.text));
    }
    let old = matches!((outcome.log_index, before), (Some(index), Some(before)) if index <= before);
    if outcome.status == 201 && !old {
        tally.stored += 1;
        tally.lines += row.lines;
    } else {
        tally.stored_before += 1;
    }
    Ok(())
}

enum Done {
    Batch(Vec<Ready>, Vec<Outcome>),
    Refused(usize, u64, Option<String>, String, Box<Problem>),
    Repeated,
    Failed(Failure),
}

async fn handle(client: &Client, run: &str, give_up_after: Duration, piece: Piece) -> Done {
    match piece {
        Piece::Batch(rows) => match place(client, run, give_up_after, &rows).await {
            Ok(outcomes) => Done::Batch(rows, outcomes),
            Err(failure) => Done::Failed(failure),
        },
        Piece::Refused(file, line, id, text, problem) => Done::Refused(file, line, id, text, problem),
        Piece::Repeated => Done::Repeated,
        Piece::Failed(failure) => Done::Failed(failure),
    }
}

async fn place(
    client: &Client,
    run: &str,
    give_up: Duration,
    rows: &[Ready],
) -> Result<Vec<Outcome>, Failure> {
    let commands: Vec<Command> = rows.iter().map(|row| command(row.id.clone(), row)).collect();
    let mut outcomes = batch::send(client, &commands, give_up).await?;
    let again: Vec<usize> = (0..rows.len()).filter(|i| may_be_old(&rows[*i], &outcomes[*i])).collect();
    let commands: Vec<Command> = again
        .iter()
        .map(|i| command(format!("{run}-{}-{}", rows[*i].file, rows[*i].line), &rows[*i]))
        .collect();
    for (i, outcome) in again.iter().zip(batch::send(client, &commands, give_up).await?) {
        outcomes[*i] = outcome;
    }
    Ok(outcomes)
}

/// A refusal that may have been decided on another day, when things stood otherwise.
fn may_be_old(row: &Ready, outcome: &Outcome) -> bool {
    let code = outcome.problem.as_ref().map_or("", |problem| problem.code.as_str());
    row.well_formed && matches!(outcome.status, 404 | 409 | 422) && code != "id_taken"
}

fn command(key: String, row: &Ready) -> Command {
    Command { key, method: "POST", path: "/v1/orders".into(), body: row.body.clone() }
}

/// Reads, unpacks and parses beside the sending: one thread keeps three nodes busy.
fn read_on_thread(args: &OrdersArgs, position: &Position, in_flight: usize) -> mpsc::Receiver<Piece> {
    let (pieces, receiver) = mpsc::channel(in_flight);
    let mut reader = Reader {
        position: position.clone(),
        currency: args.currency.clone(),
        batch: args.common.batch.into(),
        ready: Vec::new(),
        seen: HashMap::new(),
        pieces,
    };
    let files = args.common.files.clone();
    std::thread::spawn(move || {
        if let Err(Some(failure)) = reader.read(&files) {
            // Nobody listens any more once the import has ended.
            let _ = reader.pieces.blocking_send(Piece::Failed(failure));
        }
    });
    receiver
}

struct Reader {
    position: Position,
    currency: String,
    batch: usize,
    ready: Vec<Ready>,
    /// Order id to what its first row asked for.
    seen: HashMap<String, u64>,
    pieces: mpsc::Sender<Piece>,
}

impl Reader {
    /// The error is `None` when nobody listens any more.
    fn read(&mut self, files: &[String]) -> Result<(), Option<Failure>> {
        for (file, path) in files.iter().enumerate() {
            let mut lines = Lines::open(path, &self.position)?;
            while let Some((line, text)) = lines.next()? {
                self.row(file, line, text)?;
            }
        }
        self.flush()
    }

    fn row(&mut self, file: usize, line: u64, text: &[u8]) -> Result<(), Option<Failure>> {
        let row: OrderRow = match serde_json::from_slice(text) {
            Ok(row) => row,
            Err(error) => return self.refuse(file, line, text, None, "unreadable_row", error.to_string()),
        };
        let body = row.body(&self.currency);
        let hash = xxh3_64(body.as_bytes());
        match self.seen.get(&row.order_id) {
            Some(first) if *first == hash => return self.hand_over(Piece::Repeated),
            Some(_) => {
                let why = "an earlier row has this order id and says something else".to_owned();
                return self.refuse(file, line, text, Some(row.order_id), "id_taken", why);
            }
            None => self.seen.insert(row.order_id.clone(), hash),
        };
        let well_formed = row.well_formed();
        let text = String::from_utf8_lossy(text).into_owned();
        self.ready.push(Ready {
            file,
            line,
            text,
            lines: row.lines.len() as u64,
            id: row.order_id,
            well_formed,
            body,
        });
        if self.ready.len() >= self.batch { self.flush() } else { Ok(()) }
    }

    fn refuse(
        &mut self,
        file: usize,
        line: u64,
        text: &[u8],
        id: Option<String>,
        code: &str,
        why: String,
    ) -> Result<(), Option<Failure>> {
        let problem = Failure::local(Exit::Error, code, "Not an order", why).problem;
        self.hand_over(Piece::Refused(file, line, id, String::from_utf8_lossy(text).into_owned(), problem))
    }

    fn flush(&mut self) -> Result<(), Option<Failure>> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.ready);
        self.hand_over(Piece::Batch(batch))
    }

    fn hand_over(&self, piece: Piece) -> Result<(), Option<Failure>> {
        self.pieces.blocking_send(piece).map_err(|_| None)
    }
}

fn print(tally: &Tally, refused: &Refused, complete: bool, format: Format) {
    let seconds = tally.took_orders.as_secs_f64().max(0.001);
    let answered = tally.stored + tally.stored_before + refused.count();
    let rate = |n: u64| (n as f64 / seconds).round() as u64;
    let refused_file = (refused.count() > 0).then(|| refused.path());
    let summary = json!({
        "complete": complete, "stored": tally.stored, "stored_before": tally.stored_before,
        "repeated_rows": tally.repeated, "refused": refused.count(), "refused_by_code": refused.reasons,
        "refused_file": refused_file,
        "received": tally.received.map(|r| json!({"pairs": r.pairs, "units": r.units})),
        "took_ms": tally.took.as_millis() as u64, "took_orders_ms": tally.took_orders.as_millis() as u64,
        "orders_per_second": rate(answered), "stored_orders_per_second": rate(tally.stored),
        "stored_lines_per_second": rate(tally.lines),
    });
    format.print(&summary, "", || {
        let mut out = counted(tally);
        refused.describe("orders", &mut out);
        let _ = writeln!(
            out,
            "took {:.1} s, of that orders {:.1} s: {} orders/s answered, {} orders/s and {} lines/s stored",
            tally.took.as_secs_f64(),
            seconds,
            count(rate(answered)),
            count(rate(tally.stored)),
            count(rate(tally.lines)),
        );
        if !complete {
            out.push_str(
                "Not complete. Run the same command again: it goes on, and nothing is done twice.\n",
            );
        }
        out
    });
}

fn counted(tally: &Tally) -> String {
    let mut out = String::new();
    if let Some(received) = tally.received {
        let (units, pairs) = (count(received.units), count(received.pairs));
        let _ = writeln!(out, "stock received    {units} units for {pairs} pairs of SKU and location");
    }
    let _ = writeln!(out, "orders stored     {}", count(tally.stored));
    let _ = writeln!(out, "stored before     {}", count(tally.stored_before));
    if tally.repeated > 0 {
        let _ = writeln!(out, "repeated rows     {}", count(tally.repeated));
    }
    out
}
