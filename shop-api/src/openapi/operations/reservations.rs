//! What calls of `/v1/reservations` take and answer.

use super::{Answers, JSON, Operation, Tag, answer, created, operation, page};
use crate::Call;
use crate::codes::Code::*;

pub(super) const TAG: Tag =
    Tag { name: "Reservations", description: "Try, confirm, cancel: hold stock for a while." };

const RESERVATION: Answers = answer(200, "The reservation as it is.", &[(JSON, "Reservation")]);

pub(super) fn writes(call: Call) -> Operation {
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
            description: "One that is not there is remembered as cancelled, so that a try that comes late fails; \
                          404 only where the id has the shape of those that Stockroom makes itself.",
            body: Some("Empty"),
            codes: &[ReservationNotFound, WrongState],
            ..operation(TAG, "Cancel a reservation", vec![RESERVATION])
        },
        _ => Operation {
            body: Some("ExtendReservation"),
            codes: &[ReservationNotFound, WrongState],
            ..operation(TAG, "Hold on for longer", vec![RESERVATION])
        },
    }
}

pub(super) fn reads(call: Call) -> Operation {
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
