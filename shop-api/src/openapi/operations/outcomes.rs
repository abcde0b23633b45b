//! What calls of `/v1/batch` and `/v1/outcomes` take and answer.

use super::{Answers, JSON, Operation, Tag, answer, operation};
use crate::Call;
use crate::codes::Code::*;

pub(super) const TAG: Tag =
    Tag { name: "Outcomes and batches", description: "What became of a write, and many writes at once." };

const OUTCOME: Answers = answer(200, "What is kept under the key.", &[(JSON, "KeptOutcome")]);

pub(super) fn of(call: Call) -> Operation {
    match call {
        Call::Batch => Operation {
            description: "Each command has its own `key` and its own outcome; none depends on another, and what is \
                          wrong with one does not refuse the others. There are no preconditions in a batch.",
            body: Some("Batch"),
            ..operation(
                TAG,
                "Write many at once",
                vec![answer(
                    200,
                    "An outcome for each command, in the same order.",
                    &[(JSON, "BatchOutcomes")],
                )],
            )
        },
        Call::GetOutcome => Operation {
            description: "404 alone settles nothing: the write may still commit.",
            codes: &[UnknownKey],
            ..operation(TAG, "Read what became of a key", vec![OUTCOME])
        },
        _ => Operation {
            description: "Answers the outcome if there is one; else leaves a receipt that no later write with this \
                          key can pass (409 `abandoned`). Takes no `Idempotency-Key` and no body: doing it twice \
                          changes nothing.",
            codes: &[UnknownKey],
            ..operation(TAG, "Settle a key", vec![OUTCOME])
        },
    }
}
