//! What calls of `/v1/stock` and `/v1/movements` take and answer.

use super::{Answers, JSON, Operation, Tag, answer, operation, page};
use crate::Call;
use crate::codes::Code::*;

pub(super) const TAG: Tag = Tag {
    name: "Stock",
    description: "How many units are where, what is promised of them, and every movement.",
};

const LEVELS: Answers = answer(200, "Done; the stocks as they are now.", &[(JSON, "StockLevels")]);

pub(super) fn writes(call: Call) -> Operation {
    match call {
        Call::Receive => Operation {
            description: "Makes locations that are new.",
            body: Some("ReceiveStock"),
            codes: &[TooManyLines, UnknownSku, OutOfRange],
            ..operation(TAG, "Receive goods", vec![LEVELS])
        },
        Call::Adjust => Operation {
            description: "409 where on hand is not `expected_on_hand`, or would fall below what is promised.",
            body: Some("AdjustStock"),
            codes: &[TextTooLong, UnknownSku, OnHandDiffers, BelowPromised, OutOfRange],
            ..operation(TAG, "Correct a count", vec![LEVELS])
        },
        _ => Operation {
            description: "Available units only.",
            body: Some("TransferStock"),
            codes: &[UnknownSku, OutOfStock, SameLocation, OutOfRange],
            ..operation(TAG, "Move goods between locations", vec![LEVELS])
        },
    }
}

pub(super) fn reads(call: Call) -> Operation {
    match call {
        Call::GetStock => Operation {
            codes: &[ItemNotFound],
            ..operation(
                TAG,
                "Read the stock of a SKU",
                vec![answer(200, "Over all its locations.", &[(JSON, "Stock")])],
            )
        },
        Call::ReadStocks => Operation {
            codes: &[MissingParameter, TooManySkus, UnknownSku, InvalidValue, IdTooLong],
            parameters: &["Skus"],
            ..operation(
                TAG,
                "Read the stock of several SKUs",
                vec![answer(200, "All of one index.", &[(JSON, "Stocks")])],
            )
        },
        Call::StockMovements => Operation {
            description: "Newest first.",
            codes: &[ItemNotFound, InvalidCursor, InvalidValue, IdTooLong],
            parameters: &["LocationFilter", "Limit", "Cursor"],
            ..operation(TAG, "List the movements of a SKU", page(&[(JSON, "MovementPage")]))
        },
        _ => Operation {
            description: "Newest first, those of all SKUs merged, at one index.",
            codes: &[MissingParameter, TooManySkus, UnknownSku, InvalidCursor, InvalidValue, IdTooLong],
            parameters: &["Skus", "LocationFilter", "Limit", "Cursor"],
            ..operation(TAG, "List the movements of several SKUs", page(&[(JSON, "MovementPage")]))
        },
    }
}
