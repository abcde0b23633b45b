//! Which calls are about which SKU, also those that name only an order or a reservation.

use crate::history::{Answer, Call, Line, Op, Outcome, Settled};
use std::collections::HashMap;

/// Lines of every order and reservation that a history knows of, by id.
#[derive(Default)]
pub(super) struct Touch<'a> {
    orders: HashMap<&'a str, &'a [Line]>,
    reservations: HashMap<&'a str, &'a [Line]>,
}

fn answer(op: &Op) -> Option<&Answer> {
    match (&op.outcome, &op.settled) {
        (Some(Outcome::Ok { answer, .. }), _) | (_, Some((_, Settled::Happened { answer }))) => Some(answer),
        _ => None,
    }
}

impl<'a> Touch<'a> {
    pub(super) fn new(ops: &'a [Op]) -> Self {
        let mut touch = Touch::default();
        for op in ops {
            match answer(op) {
                Some(Answer::Order(seen)) => drop(touch.orders.insert(&seen.id, &seen.lines)),
                Some(Answer::Reservation(seen)) => drop(touch.reservations.insert(&seen.id, &seen.lines)),
                _ => {}
            }
            match &op.call {
                Call::PlaceOrder { id: Some(id), lines, .. } if !lines.is_empty() => {
                    touch.orders.insert(id, lines);
                }
                Call::Reserve { id, lines, .. } => drop(touch.reservations.insert(id, lines)),
                _ => {}
            }
        }
        touch
    }

    /// Whether a call reads or moves this SKU.
    pub(super) fn is_about(&self, op: &Op, sku: &str) -> bool {
        let among = |lines: &[Line]| lines.iter().any(|line| line.sku == sku);
        let within = |all: &HashMap<&str, &[Line]>, id: &str| all.get(id).is_some_and(|lines| among(lines));
        match &op.call {
            Call::PutItem { sku: put } => put == sku,
            Call::Transfer { sku: moved, .. } => moved == sku,
            Call::Receive { lines } | Call::Reserve { lines, .. } => among(lines),
            Call::PlaceOrder { lines, reservation_id, .. } => {
                let held = reservation_id.as_deref().is_some_and(|id| within(&self.reservations, id));
                among(lines) || held || matches!(answer(op), Some(Answer::Order(seen)) if among(&seen.lines))
            }
            Call::CancelOrder { id } | Call::ReadOrder { id, .. } => within(&self.orders, id),
            Call::Confirm { id }
            | Call::CancelReservation { id }
            | Call::Extend { id, .. }
            | Call::ReadReservation { id, .. } => within(&self.reservations, id),
            Call::ReadStock { skus, .. } | Call::ReadMovements { skus, .. } => {
                skus.iter().any(|read| read == sku)
            }
            Call::ListOrders { .. } => false,
        }
    }
}
