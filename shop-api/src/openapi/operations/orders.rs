//! What calls of `/v1/orders` take and answer.

use super::{Answers, JSON, Operation, Tag, answer, created, operation, page};
use crate::Call;
use crate::codes::Code::*;

pub(super) const TAG: Tag = Tag {
    name: "Orders",
    description: "Placed, paid, shipped in parts, completed; cancelled, returned, refunded.",
};

const ORDER: Answers = answer(200, "The order as it is.", &[(JSON, "Order")]);

pub(super) fn writes(call: Call) -> Operation {
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
            description: "In parts or in full, never above what is due. An order remembers at most 100 references, of payments \
                          and refunds together.",
            body: Some("PayOrder"),
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, TextTooLong, TooManyReferences],
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

pub(super) fn changes(call: Call) -> Operation {
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
            codes: &[OrderNotFound, WrongState, TooMuch, NothingLeft, TextTooLong, TooManyReferences],
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

pub(super) fn reads(call: Call) -> Operation {
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
