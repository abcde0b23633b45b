//! The laws are checked for what they are worth: each kind of damage or wrong bookkeeping stops the
//! node, and the audit names it.

#![allow(clippy::unwrap_used, reason = "a test's own names and numbers are well-formed")]

use std::collections::BTreeMap;
use stockroom_shop::command::{
    Batch, Command, NewOrderLine, OrderSource, Pay, PlaceOrder, Proposal, PutItem, Reserve,
};
use stockroom_shop::effect::Outcome;
use stockroom_shop::ids::{
    IdempotencyKey, Location, OrderName, Place, Quantity, ReservationId, Sku, TimestampMs,
};
use stockroom_shop::item::Price;
use stockroom_shop::memory::MemoryRows;
use stockroom_shop::order::OrderStatus;
use stockroom_shop::reservation::{ReservationStatus, StockLine};
use stockroom_shop::state::{Fault, Key, Row, Subject};
use stockroom_shop::stock::Stock;

struct Shop {
    rows: MemoryRows,
    index: u64,
}

fn line(units: u64) -> StockLine {
    let (sku, quantity) = (Sku::new("mug").unwrap(), Quantity::new(units).unwrap());
    StockLine { sku, location: Location::main(), quantity }
}

fn order(units: u64) -> Command {
    let StockLine { sku, location, quantity } = line(units);
    let lines = vec![NewOrderLine { sku, location, quantity, amount_minor: None }];
    Command::PlaceOrder(PlaceOrder {
        name: Some(OrderName::new("o1").unwrap()),
        customer_id: None,
        currency: None,
        pay_by: Some(TimestampMs(5_000)),
        metadata: BTreeMap::new(),
        source: OrderSource::Lines(lines),
    })
}

impl Shop {
    /// Ten mugs, of which three are held and two ordered.
    fn open() -> Self {
        let mut shop = Shop { rows: MemoryRows::default(), index: 0 };
        let price = Price { amount_minor: 10, currency: stockroom_shop::ids::Currency(*b"EUR") };
        let sku = Sku::new("mug").unwrap();
        let put = PutItem { sku, name: None, price: Some(price), attributes: None, expected_version: None };
        let id = Some(ReservationId::new("h1").unwrap());
        for command in [
            Command::PutItem(put),
            Command::Receive(vec![line(10)]),
            Command::Reserve(Reserve { id, ttl_ms: 4_000, lines: vec![line(3)] }),
            order(2),
        ] {
            shop.ask(1_000, command).unwrap().unwrap();
        }
        assert!(shop.rows.audit().is_empty(), "{:?}", shop.rows.audit());
        shop
    }

    fn ask(&mut self, at: u64, command: Command) -> Result<Outcome, Fault> {
        self.index += 1;
        let key = IdempotencyKey::new(&format!("k{}", self.index)).ok();
        let proposals = vec![Proposal { idempotency_key: key, fingerprint: self.index.into(), command }];
        let answers = self.rows.apply(self.index, &Batch { stamped_at: TimestampMs(at), proposals })?;
        Ok(answers[0].outcome.clone())
    }

    fn stock(&mut self) -> &mut Stock {
        match self.rows.rows.get_mut(&Key::Stock(Sku::new("mug").unwrap(), Location::main())) {
            Some(Row::Stock(stock)) => stock,
            _ => panic!("there are mugs"),
        }
    }

    /// The next entry that touches the stock stops, and says why; nothing of it is absorbed.
    fn stops(mut self, said: &str) {
        let before = self.rows.clone();
        match self.ask(1_000, Command::Receive(vec![line(1)])) {
            Err(Fault::Breach(breach)) => {
                assert!(breach.law.contains("mug at main") && breach.law.contains(said), "{breach}");
                assert_eq!(breach.log_index, self.index);
            }
            other => panic!("not stopped: {other:?}"),
        }
        assert!(self.rows == before, "a faulty entry changed something");
        self.audit_finds("mug at main");
    }

    fn audit_finds(&self, said: &str) {
        let findings = self.rows.audit();
        assert!(findings.iter().any(|finding| finding.contains(said)), "{said} is not in {findings:?}");
    }
}

#[test]
fn units_that_no_movement_explains_stop_the_node() {
    let mut shop = Shop::open();
    shop.stock().counters.on_hand += 1;
    shop.stops("on_hand 12 is not received 11");
}

#[test]
fn reserved_units_that_no_movement_explains_stop_the_node() {
    let mut shop = Shop::open();
    shop.stock().counters.reserved -= 1;
    shop.stops("reserved 2 is not 3");
}

#[test]
fn allocated_units_that_no_movement_explains_stop_the_node() {
    let mut shop = Shop::open();
    shop.stock().counters.allocated += 1;
    shop.stops("allocated 3 is not 2");
}

#[test]
fn more_promised_than_on_hand_stops_the_node() {
    let mut shop = Shop::open();
    let stock = shop.stock();
    stock.counters.reserved += 10;
    stock.ledger.reserved += 10;
    shop.stops("reserved 13 + allocated 2 is above on_hand 11");
}

#[test]
fn a_hold_whose_mark_is_astray_stops_the_node() {
    let mut shop = Shop::open();
    let id = ReservationId::new("h1").unwrap();
    match shop.rows.rows.get_mut(&Key::Reservation(id)) {
        Some(Row::Reservation(reservation)) => reservation.status = ReservationStatus::Cancelled,
        _ => panic!("there is a hold"),
    }
    shop.audit_finds("is astray");
    shop.audit_finds("reserved is 3, reservations hold 0");
    let stopped = shop.ask(5_000, Command::Tick);
    assert!(matches!(&stopped, Err(Fault::Breach(breach)) if breach.law.contains("h1")), "{stopped:?}");
}

#[test]
fn an_order_whose_sums_do_not_fit_stops_the_node() {
    let mut shop = Shop::open();
    for placed in shop.rows.placed.values_mut() {
        placed.due_minor = 21;
    }
    let pay = Pay { order: OrderName::new("o1").unwrap(), amount_minor: None, reference: None };
    let stopped = shop.ask(1_000, Command::Pay(pay));
    assert!(matches!(&stopped, Err(Fault::Breach(breach)) if breach.law.contains("order o1")), "{stopped:?}");
}

#[test]
fn the_audit_names_a_lost_movement_a_lost_order_and_a_broken_chain() {
    let place = |index| Place { epoch: 0, index, slot: 0 };
    let mut shop = Shop::open();
    shop.rows.movements.remove(&place(3));
    shop.audit_finds("names Some(Place");
    shop.audit_finds("its row sums up");

    let mut shop = Shop::open();
    shop.rows.placed.remove(&place(4));
    shop.audit_finds("the head counts 1 orders placed, there are 0");
    shop.audit_finds("allocated is 2, orders wait for 0");

    let mut shop = Shop::open();
    shop.rows.placed.get_mut(&place(4)).unwrap().status = OrderStatus::Shipped;
    shop.audit_finds("order o1: Shipped with 2 units to ship");

    let mut shop = Shop::open();
    shop.rows
        .rows
        .remove(&Key::Due(TimestampMs(5_000), Subject::Reservation(ReservationId::new("h1").unwrap())));
    shop.audit_finds("is astray");
}
