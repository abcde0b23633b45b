//! What calls of `/v1/items` take and answer.

use super::{Answers, JSON, Operation, Tag, answer, created, operation, page};
use crate::Call;
use crate::codes::Code::*;

pub(super) const TAG: Tag = Tag { name: "Items", description: "What can be stocked and sold." };

const ITEM: Answers = answer(200, "The item as it is.", &[(JSON, "Item")]);
const ETAG: &[(&str, &str)] = &[("ETag", "Etag")];

pub(super) fn of(call: Call) -> Operation {
    match call {
        Call::PutItem => {
            let made = Answers {
                headers: &[("Location", "Location"), ("ETag", "Etag")],
                ..created(ITEM, "The item was made.")
            };
            Operation {
                body: Some("PutItem"),
                codes: &[VersionDiffers, TextTooLong, AttributesTooLarge, UnknownCurrency, OutOfRange],
                parameters: &["IfMatch", "IfNoneMatchAny"],
                ..operation(TAG, "Make or replace an item", vec![Answers { headers: ETAG, ..ITEM }, made])
            }
        }
        Call::RetireItem => Operation {
            description: "It takes no new orders and reservations; reads and stock stay. Putting it again brings it back.",
            body: Some("Empty"),
            codes: &[ItemNotFound],
            ..operation(TAG, "Retire an item", vec![Answers { headers: ETAG, ..ITEM }])
        },
        Call::GetItem => {
            let same =
                Answers { status: 304, description: "As the caller has it.", content: &[], headers: ETAG };
            Operation {
                codes: &[ItemNotFound],
                parameters: &["IfNoneMatch"],
                ..operation(TAG, "Read an item", vec![Answers { headers: ETAG, ..ITEM }, same])
            }
        }
        _ => Operation {
            description: "In order of creation.",
            codes: &[InvalidCursor],
            parameters: &["Limit", "Cursor"],
            ..operation(TAG, "List items", page(&[(JSON, "ItemPage")]))
        },
    }
}
