//! One SKU, far more buyers than units; one sale after another.

use super::{Generator, Next, Shape, Workload, reads};
use crate::checker;
use crate::history::{Answer, Call, Line, Op, Outcome};
use rand::Rng as _;
use rand::rngs::StdRng;

/// Units of a sale.
const UNITS: u64 = 60;
/// A sale ends when so many buyers were refused in it ...
const REFUSALS: u64 = 40;
/// ... or after so many calls, for those that are always topped up.
const CALLS: u64 = 500;
/// A run of any length has enough of them.
const FEWEST_CALLS: u64 = 60;

/// As `list` shows it.
pub const WORKLOAD: Workload = Workload {
    name: "flash-sale",
    about: "far more buyers than units, one SKU after another: sold is what is gone, never more",
    clients: 20,
    rate: 25.0,
    generator: |shape| Box::new(FlashSale::new(shape)),
    checkers: &[checker::totals::flash_sale],
};

struct FlashSale {
    sales: u64,
    current: u64,
    is_open: bool,
    calls: u64,
    refusals: u64,
}

impl FlashSale {
    fn new(shape: &Shape) -> Self {
        FlashSale {
            sales: shape.calls() / FEWEST_CALLS + 1,
            current: 0,
            is_open: false,
            calls: 0,
            refusals: 0,
        }
    }

    fn sku(&self) -> String {
        format!("sale-{}", self.current)
    }

    /// The units come in once, however often it takes to have an answer.
    fn open(&self) -> Next {
        let sku = self.sku();
        let key = Some(format!("open-{sku}"));
        Next { key, wait_ms: Some(20), ..Next::call(Call::Receive { lines: vec![Line::new(sku, UNITS)] }) }
    }
}

impl Generator for FlashSale {
    fn setup(&mut self, _: &mut StdRng) -> Vec<Call> {
        (0..self.sales).map(|sale| Call::PutItem { sku: format!("sale-{sale}") }).collect()
    }

    fn next(&mut self, slot: usize, rng: &mut StdRng) -> Option<Next> {
        if !self.is_open {
            return (slot < 2).then(|| self.open());
        }
        self.calls += 1;
        let over = self.refusals >= REFUSALS || self.calls >= CALLS;
        if over && self.calls >= FEWEST_CALLS && self.current + 1 < self.sales {
            (self.current, self.is_open, self.calls, self.refusals) = (self.current + 1, false, 0, 0);
            return None;
        }
        let (sku, quantity) = (self.sku(), rng.random_range(1..=3));
        Some(Next::call(match rng.random_range(0..100) {
            0..2 => Call::Receive { lines: vec![Line::new(sku, quantity)] },
            2..14 => reads::stock([&sku]),
            _ => Call::PlaceOrder { id: None, lines: vec![Line::new(sku, quantity)], reservation_id: None },
        }))
    }

    fn seen(&mut self, _: usize, op: &Op) {
        let Some(Outcome::Ok { answer, .. }) = &op.outcome else { return };
        let sku = self.sku();
        match (&op.call, answer) {
            (Call::Receive { lines }, Answer::Done { .. }) if lines[0].sku == sku => self.is_open = true,
            (Call::PlaceOrder { lines, .. }, Answer::Refused { .. }) if lines[0].sku == sku => {
                self.refusals += 1
            }
            _ => {}
        }
    }

    fn finish(&mut self) -> Vec<Call> {
        (0..=self.current).map(|sale| reads::stock([&format!("sale-{sale}")])).collect()
    }
}
