//! Error codes that all calls of a kind may answer.

use crate::Call;
use crate::codes::Code::{self, *};
use crate::routes::{Kind, Route};

const OF_V1: &[Code] = &[NotAcceptable, NotAMember, InvalidHeader, InvalidSession, UnknownParameter];
const OF_BODY: &[Code] = &[
    EmptyBody,
    InvalidJson,
    InvalidType,
    UnknownField,
    DuplicateField,
    MissingField,
    TooDeep,
    BodyIncomplete,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidValue,
];
const OF_PROPOSING: &[Code] =
    &[ShuttingDown, NoLeader, Overloaded, DeadlineExceeded, NotServing, ProposalTooLarge, OutcomeUnknown];
const OF_KEYS: &[Code] =
    &[MissingIdempotencyKey, InvalidIdempotencyKey, IdTooLong, KeyReused, Abandoned, NotInForce];
/// Of calls that begin something: a shop whose disks are full is wound down, and takes nothing new.
const OF_BEGINNING: &[Code] = &[DiskFull];

const OF_READING: &[Code] =
    &[InvalidParameter, NoLeader, Behind, NotServing, TooStale, StorageFailed, Internal];

/// Error codes that all calls of a kind may answer.
pub(crate) fn common(route: &Route) -> Vec<Code> {
    match route.kind {
        Kind::Write => {
            let begins = matches!(
                route.call,
                Call::PutItem
                    | Call::Receive
                    | Call::Adjust
                    | Call::Transfer
                    | Call::Reserve
                    | Call::PlaceOrder
            );
            [OF_V1, OF_BODY, OF_PROPOSING, OF_KEYS, if begins { OF_BEGINNING } else { &[] }].concat()
        }
        Kind::Batch => [OF_V1, OF_BODY, &[ShuttingDown, TooManyCommands]].concat(),
        Kind::Settle => [OF_V1, OF_PROPOSING, OF_READING, &[IdTooLong, InvalidValue]].concat(),
        Kind::Read => [OF_V1, OF_READING].concat(),
        Kind::Admin => [OF_V1, OF_BODY, &[ShuttingDown, NoLeader, OutcomeUnknown]].concat(),
        Kind::Local => OF_V1.to_vec(),
        Kind::Root => Vec::new(),
    }
}
