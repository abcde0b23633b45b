//! Golden scripts: what the shop does, in plain text. After a change of the rules,
//! `UPDATE_GOLDENFILES=1 cargo test -p stockroom-shop --test golden` writes the outputs anew; review
//! them as a diff.
//!
//! Each command of a script is one entry of the log, unless `begin` and `commit` put several into
//! one. `key=` names the idempotency key, `at=` the location; a line is an SKU (`mug`, `mug@cellar`)
//! and a quantity (`2`, or `2/990` with the amount of the line). `later` moves the clock for the next
//! entry, `advance` also makes one. After every entry the whole shop is audited.

#![allow(clippy::unwrap_used, reason = "a script that is not well-formed fails its test")]

use goldenscript::{Argument, Context, Runner};
use std::{collections::VecDeque, error::Error, fmt::Write as _};
use stockroom_shop::command::{
    Adjust, Batch, CancelOrder, Command, Extend, NewOrderLine, OrderSource, PatchMetadata, Pay, PlaceOrder,
    Proposal, PutItem, Refund, Reserve, Return, SettingsChange, Ship, Transfer,
};
use stockroom_shop::effect::{Answer, Outcome, Reply};
use stockroom_shop::ids::{
    Currency, CustomerId, IdempotencyKey, Location, OrderName, Place, Quantity, ReservationId, Sku,
    TimestampMs,
};
use stockroom_shop::item::Price;
use stockroom_shop::memory::MemoryRows;
use stockroom_shop::order::Order;
use stockroom_shop::reservation::StockLine;
use stockroom_shop::state::{Key, Row};
use stockroom_shop::stock::Movement;
use stockroom_shop::version::ClusterVersion;
use text::{
    clock, counters_text, movement_text, order_details, order_text, outcome_text, reservation_text,
    stock_text,
};

mod text;

type Failed = Box<dyn Error>;

/// Runs a script against a shop in memory.
#[derive(Default)]
struct Shop {
    rows: MemoryRows,
    index: u64,
    now: u64,
    keys: u64,
    /// Proposals of the entry that `begin` opened.
    open: Option<Vec<Proposal>>,
}

/// The arguments of a command, not yet used up.
#[derive(Default)]
struct Words<'a> {
    positions: VecDeque<&'a str>,
    keys: VecDeque<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn of(arguments: &'a [Argument]) -> Self {
        let mut words = Words::default();
        for argument in arguments {
            match argument {
                Argument::Positional(value) => words.positions.push_back(value),
                Argument::KeyValue(key, value) => words.keys.push_back((key, value)),
                _ => unreachable!("there are two kinds of arguments"),
            }
        }
        words
    }

    fn of_text(text: &'a str) -> Self {
        let mut words = Words::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(pair) => words.keys.push_back(pair),
                None => words.positions.push_back(word),
            }
        }
        words
    }

    fn next_pos(&mut self) -> Option<&'a str> {
        self.positions.pop_front()
    }

    fn next_key(&mut self) -> Option<(&'a str, &'a str)> {
        self.keys.pop_front()
    }

    fn take_key(&mut self, key: &str) -> Option<&'a str> {
        let at = self.keys.iter().position(|(k, _)| *k == key)?;
        self.keys.remove(at).map(|(_, value)| value)
    }

    fn reject_rest(&self) -> Result<(), Failed> {
        match (self.positions.front(), self.keys.front()) {
            (None, None) => Ok(()),
            rest => Err(format!("unexpected: {rest:?}").into()),
        }
    }
}

const MINUTE: u64 = 60_000;

fn settings(args: &mut Words<'_>) -> Result<SettingsChange, Failed> {
    Ok(SettingsChange {
        receipt_retention_ms: args.take_key("retention").map(duration).transpose()?,
        releases_per_step: number(args.take_key("releases"))?,
        receipt_drops_per_step: number(args.take_key("drops"))?,
        metadata_entries: number(args.take_key("metadata"))?,
    })
}

/// `90s`, `15m`, `2h`, `7ms`.
fn duration(text: &str) -> Result<u64, Failed> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => MINUTE,
        "h" => 60 * MINUTE,
        other => return Err(format!("no unit of time: {other:?}").into()),
    };
    Ok(digits.parse::<u64>()? * unit)
}

/// `500EUR`.
fn price(text: &str) -> Result<Price, Failed> {
    let (amount, currency) = text.split_at(text.len() - 3);
    Ok(Price { amount_minor: amount.parse()?, currency: Currency(currency.as_bytes().try_into()?) })
}

/// An SKU with the location it may name.
fn stock(text: &str) -> Result<(Sku, Location), Failed> {
    let (sku, location) = text.split_once('@').unwrap_or((text, "main"));
    Ok((Sku::new(sku)?, Location::new(location)?))
}

fn order_lines(args: &mut Words<'_>) -> Result<Vec<NewOrderLine>, Failed> {
    let mut lines = Vec::new();
    while let Some(name) = args.next_pos() {
        let (sku, location) = stock(name)?;
        let count = args.next_pos().ok_or("a line needs a quantity")?;
        let (count, amount) = match count.split_once('/') {
            Some((count, amount)) => (count, Some(amount.parse()?)),
            None => (count, None),
        };
        lines.push(NewOrderLine {
            sku,
            location,
            quantity: Quantity::new(count.parse()?)?,
            amount_minor: amount,
        });
    }
    Ok(lines)
}

fn lines(args: &mut Words<'_>) -> Result<Vec<StockLine>, Failed> {
    let lines = order_lines(args)?.into_iter();
    Ok(lines.map(|l| StockLine { sku: l.sku, location: l.location, quantity: l.quantity }).collect())
}

/// Absent lines are all that is left.
fn some_lines(args: &mut Words<'_>) -> Result<Option<Vec<StockLine>>, Failed> {
    Ok(Some(lines(args)?).filter(|lines| !lines.is_empty()))
}

fn number<N: std::str::FromStr<Err = std::num::ParseIntError>>(
    text: Option<&str>,
) -> Result<Option<N>, Failed> {
    Ok(text.map(str::parse).transpose()?)
}

impl Shop {
    fn command(&self, name: &str, args: &mut Words<'_>) -> Result<Command, Failed> {
        let stocks = matches!(name, "receive" | "adjust" | "transfer" | "reserve");
        let mut first = || if stocks { None } else { args.next_pos() }.ok_or("which?");
        Ok(match name {
            "item" => Command::PutItem(PutItem {
                sku: Sku::new(first()?)?,
                name: args.take_key("name").map(Into::into),
                price: args.take_key("price").map(price).transpose()?,
                attributes: None,
                expected_version: number(args.take_key("version"))?,
            }),
            "retire" => Command::RetireItem(Sku::new(first()?)?),
            "receive" => Command::Receive(lines(args)?),
            "adjust" => {
                let (sku, location) = stock(args.next_pos().ok_or("which?")?)?;
                let (more, less) = (number(args.take_key("more"))?, number::<i64>(args.take_key("less"))?);
                let delta = more.or(less.map(|units| -units)).ok_or("by how many?")?;
                let expected_on_hand = number(args.take_key("expected"))?;
                Command::Adjust(Adjust { sku, location, delta, reason: "count".into(), expected_on_hand })
            }
            "transfer" => {
                let (from, to) = (args.take_key("from").unwrap_or("main"), args.take_key("to"));
                let line = lines(args)?.pop().ok_or("what?")?;
                let (from, to) = (Location::new(from)?, Location::new(to.unwrap_or("main"))?);
                Command::Transfer(Transfer { sku: line.sku, from, to, quantity: line.quantity })
            }
            "reserve" => Command::Reserve(Reserve {
                id: args.take_key("id").map(ReservationId::new).transpose()?,
                ttl_ms: duration(args.take_key("ttl").unwrap_or("15m"))?,
                lines: lines(args)?,
            }),
            "confirm" => Command::Confirm(ReservationId::new(first()?)?),
            "cancel" => Command::CancelReservation(ReservationId::new(first()?)?),
            "extend" => Command::Extend(Extend {
                id: ReservationId::new(first()?)?,
                ttl_ms: duration(args.take_key("ttl").ok_or("for how long?")?)?,
            }),
            "order" => Command::PlaceOrder(self.place(args)?),
            "abandon" => Command::Abandon(IdempotencyKey::new(first()?)?),
            "configure" => Command::Configure(settings(args)?),
            "raise" => {
                Command::RaiseClusterVersion(ClusterVersion(number(Some(first()?))?.ok_or("to what?")?))
            }
            "from-a-later-program" => Command::Unknown,
            _ => Self::of_order(name, OrderName::new(first()?)?, args)?,
        })
    }

    fn place(&self, args: &mut Words<'_>) -> Result<PlaceOrder, Failed> {
        let pay_by = args.take_key("pay_by").map(duration).transpose()?;
        Ok(PlaceOrder {
            name: args.take_key("id").map(OrderName::new).transpose()?,
            customer_id: args.take_key("customer").map(CustomerId::new).transpose()?,
            currency: args.take_key("currency").map(|c| Currency(c.as_bytes().try_into().unwrap())),
            pay_by: pay_by.map(TimestampMs),
            source: match args.take_key("reservation") {
                Some(id) => OrderSource::Reservation(ReservationId::new(id)?),
                None => OrderSource::Lines(order_lines(args)?),
            },
            metadata: std::iter::from_fn(|| args.next_key()).map(|(k, v)| (k.into(), v.into())).collect(),
        })
    }

    fn of_order(name: &str, order: OrderName, args: &mut Words<'_>) -> Result<Command, Failed> {
        let reference = args.take_key("reference").map(Into::into);
        Ok(match name {
            "pay" => Command::Pay(Pay { order, amount_minor: number(args.next_pos())?, reference }),
            "ship" => Command::Ship(Ship { order, lines: some_lines(args)? }),
            "complete" => Command::Complete(order),
            "cancel-order" => {
                Command::CancelOrder(CancelOrder { order, reason: args.take_key("reason").map(Into::into) })
            }
            "return" => {
                let restock = args.take_key("restock") != Some("no");
                Command::Return(Return { order, lines: some_lines(args)?, restock })
            }
            "refund" => Command::Refund(Refund { order, amount_minor: number(args.next_pos())?, reference }),
            "patch" => {
                let value = |v: &str| Some(v.into()).filter(|_| !v.is_empty());
                let changes = std::iter::from_fn(|| args.next_key()).map(|(k, v)| (k.into(), value(v)));
                Command::PatchMetadata(PatchMetadata { order, changes: changes.collect() })
            }
            _ => return Err(format!("no command: {name}").into()),
        })
    }

    fn proposal(&mut self, command: Command, key: Option<&str>) -> Result<Proposal, Failed> {
        self.keys += 1;
        let key = key.map_or_else(|| format!("auto-{}", self.keys), str::to_owned);
        // FNV-1a: any function of the command does here.
        let fingerprint = format!("{command:?}").bytes().fold(0xcbf2_9ce4_8422_2325_u128, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Ok(Proposal { idempotency_key: Some(IdempotencyKey::new(&key)?), fingerprint, command })
    }

    /// One entry: what moved, and what was answered.
    fn apply(&mut self, proposals: Vec<Proposal>) -> Result<(String, Vec<Answer>), Failed> {
        self.index += 1;
        let batch = Batch { stamped_at: TimestampMs(self.now), proposals };
        let answers = self.rows.apply(self.index, &batch)?;
        let findings = self.rows.audit();
        if !findings.is_empty() {
            return Err(format!("{findings:#?}").into());
        }
        let of_entry = |slot| Place { epoch: 0, index: self.index, slot };
        let mut moved = String::new();
        for movement in self.rows.movements.range(of_entry(0)..).map(|(_, movement)| movement) {
            writeln!(moved, "{}", movement_text(movement))?;
        }
        Ok((moved, answers))
    }

    fn run_command(&mut self, name: &str, args: &mut Words<'_>) -> Result<String, Failed> {
        let key = args.take_key("key");
        let command = self.command(name, args)?;
        args.reject_rest()?;
        let proposal = self.proposal(command, key)?;
        if let Some(open) = &mut self.open {
            open.push(proposal);
            return Ok(String::new());
        }
        self.commit(vec![proposal])
    }

    fn commit(&mut self, proposals: Vec<Proposal>) -> Result<String, Failed> {
        let (mut text, answers) = self.apply(proposals)?;
        for answer in &answers {
            let again = if answer.replayed {
                format!("again, as in entry {}: ", answer.log_index)
            } else {
                String::new()
            };
            writeln!(text, "{again}{}", outcome_text(&answer.outcome))?;
        }
        Ok(text)
    }

    /// What a quiet command answers; fails where it is refused.
    fn done(&mut self, script: &str) -> Result<(), Failed> {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let answers = self.outcome_of(line)?;
            answers.map_err(|rejection| format!("{line}: {rejection}"))?;
        }
        Ok(())
    }

    /// Runs one command given as text.
    fn outcome_of(&mut self, line: &str) -> Result<Outcome, Failed> {
        let (name, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let command = self.command(name, &mut Words::of_text(arguments))?;
        let proposal = self.proposal(command, None)?;
        let (_, mut answers) = self.apply(vec![proposal])?;
        Ok(answers.pop().ok_or("no answer")?.outcome)
    }
}

/// The state tables of `api.md`, row by row: one command tried on a subject in each state.
impl Shop {
    /// `each-order pay`: a fresh order in each state, and what the command makes of it.
    fn each_order(&mut self, command: &str) -> Result<String, Failed> {
        let mut text = String::new();
        self.done("item box price=10EUR\nreceive box 1000")?;
        for status in ["placed", "paid", "partly-shipped", "shipped", "completed", "cancelled"] {
            self.keys += 1;
            let id = format!("o{}", self.keys);
            let path = match status {
                "placed" => "",
                "paid" => "pay ID",
                "partly-shipped" => "pay ID\nship ID box 1",
                "shipped" => "pay ID\nship ID",
                "completed" => "pay ID\nship ID\ncomplete ID",
                _ => "pay ID 5\ncancel-order ID",
            };
            self.done(&format!("order box 3 id=ID\n{path}").replace("ID", &id))?;
            let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
            let outcome = self.outcome_of(&format!("{verb} {id} {rest}"))?;
            let said = match outcome {
                Ok(Reply::Order { order, .. }) => order_text(&order).replace(&format!("order {id} "), ""),
                other => outcome_text(&other).replace(&id, "it"),
            };
            writeln!(text, "{status}: {said}")?;
        }
        Ok(text)
    }

    /// `each-reservation confirm`: the same for reservations.
    fn each_reservation(&mut self, command: &str) -> Result<String, Failed> {
        let mut text = String::new();
        self.done("item box\nreceive box 1000")?;
        for status in ["none", "held", "confirmed", "cancelled", "cancelled-before-try", "expired"] {
            self.keys += 1;
            let id = format!("h{}", self.keys);
            let path = match status {
                "none" => "",
                "held" => "reserve box 4 ttl=15m id=ID",
                "confirmed" => "reserve box 4 ttl=15m id=ID\nconfirm ID",
                "cancelled" => "reserve box 4 ttl=15m id=ID\ncancel ID",
                "cancelled-before-try" => "cancel ID",
                _ => "reserve box 4 ttl=15m id=ID",
            };
            self.done(&path.replace("ID", &id))?;
            if status == "expired" {
                self.now += 15 * MINUTE;
            }
            let line = match command.split_once(' ') {
                Some(("reserve", rest)) => format!("reserve {rest} id={id}"),
                Some((verb, rest)) => format!("{verb} {id} {rest}"),
                None => format!("{command} {id}"),
            };
            let said = outcome_text(&self.outcome_of(&line)?).replace(&id, "it");
            writeln!(text, "{status}: {said}")?;
        }
        Ok(text)
    }

    fn show(&self, name: &str, words: &mut Words<'_>) -> Result<String, Failed> {
        let what = words.next_pos().unwrap_or_default();
        Ok(match name {
            "stock" => self.levels(what),
            "movements" => {
                let of_it = |m: &&Movement| m.sku.as_str() == what;
                let told = |m| format!("{} at {}\n", movement_text(m), clock(m.at));
                self.rows.movements.values().filter(of_it).map(told).collect()
            }
            "show" => {
                let name = OrderName::new(what)?;
                let named = |o: &&Order| o.shown_name() == name;
                let placed = self.rows.placed.values().find(named).ok_or("no such order")?;
                let order = self.rows.order(placed.id).ok_or("no such order")?;
                format!("{}\n{}", order_text(order), order_details(order))
            }
            "reservation" => match self.rows.rows.get(&Key::Reservation(ReservationId::new(what)?)) {
                Some(Row::Reservation(reservation)) => reservation_text(reservation),
                _ => "none".to_owned(),
            },
            "version" => format!("version {}", self.rows.head().cluster_version),
            "receipts" => format!("{} receipts", self.rows.receipts.len()),
            _ => return Err(format!("no command: {name}").into()),
        })
    }

    fn levels(&self, sku: &str) -> String {
        let mut text = String::new();
        for row in self.rows.rows.values() {
            if let Row::Stock(stock) = row
                && stock.sku.as_str() == sku
            {
                let name = stock_text(&stock.sku, &stock.location);
                writeln!(text, "{name} {}", counters_text(&stock.counters)).unwrap();
            }
        }
        text
    }
}

impl Runner for Shop {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String, Failed> {
        let mut words = Words::of(&command.args);
        match command.name.as_str() {
            "later" => {
                self.now += duration(words.next_pos().ok_or("how long?")?)?;
                Ok(String::new())
            }
            "advance" => {
                self.now += duration(words.next_pos().ok_or("how long?")?)?;
                let (moved, _) = self.apply(vec![Proposal {
                    idempotency_key: None,
                    fingerprint: 0,
                    command: Command::Tick,
                }])?;
                Ok(moved)
            }
            "begin" => {
                self.open = Some(Vec::new());
                Ok(String::new())
            }
            "commit" => {
                let proposals = self.open.take().ok_or("nothing was begun")?;
                self.commit(proposals)
            }
            name @ ("each-order" | "each-reservation") => {
                let line: Vec<String> = command.args.iter().map(ToString::to_string).collect();
                if name == "each-order" {
                    self.each_order(&line.join(" "))
                } else {
                    self.each_reservation(&line.join(" "))
                }
            }
            name @ ("stock" | "movements" | "show" | "reservation" | "receipts" | "version") => {
                self.show(name, &mut words)
            }
            name => self.run_command(name, &mut words),
        }
    }
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/", stringify!($name));
            goldenscript::run(&mut Shop::default(), path).unwrap();
        }
    )*};
}

scripts! {
    items_are_put_retired_and_guarded_by_versions
    stock_is_conserved_by_receipts_adjustments_and_transfers
    every_cell_of_the_reservation_table
    a_hold_ends_at_its_time_and_never_both_expires_and_confirms
    an_order_takes_all_its_lines_or_none
    a_chosen_id_is_unique_for_ever
    every_cell_of_the_order_table
    money_owed_back_is_exact_to_the_minor_unit
    an_order_not_paid_in_time_is_cancelled
    the_same_key_gets_the_same_answer
    a_cluster_version_is_raised_for_good
    proposals_of_one_entry_see_each_other
    settings_are_merged_field_by_field
}
