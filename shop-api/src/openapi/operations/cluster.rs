//! What operators ask of the cluster: members, leadership, upgrades, audits.

use super::{JSON, Operation, Tag, answer, operation};
use crate::Call;
use crate::codes::Code::{self, *};

pub(super) const TAG: Tag =
    Tag { name: "Operations", description: "Probes, metrics, the cluster, audits, and this document." };

const AUDIT_CODES: [Code; 14] = [
    AuditRunning,
    NoRoom,
    Behind,
    InvalidJson,
    InvalidType,
    UnknownField,
    DuplicateField,
    TooDeep,
    BodyIncomplete,
    BodyTooLarge,
    UnsupportedMediaType,
    InvalidValue,
    EmptyBody,
    StorageFailed,
];

pub(super) fn looks(call: Call) -> Operation {
    match call {
        Call::GetCluster => operation(
            TAG,
            "Show the cluster",
            vec![answer(200, "Members, and what each last said of itself.", &[(JSON, "Cluster")])],
        ),
        _ => Operation {
            description: "Recomputes every sum of this node from movements and orders at one index, while writes go \
                          on. Streams a line of JSON for each step and ends with the verdict, or with a problem if \
                          the node's storage fails. Needs no body and no `Idempotency-Key`; one runs at a time.",
            body: Some("Audit"),
            codes: &AUDIT_CODES,
            ..operation(
                TAG,
                "Audit this node",
                vec![answer(
                    200,
                    "Lines of progress, then the verdict.",
                    &[("application/x-ndjson", "AuditLine")],
                )],
            )
        },
    }
}

pub(super) fn members(call: Call) -> Operation {
    const DONE: &[(&str, &str)] = &[(JSON, "MemberPlan")];
    const CODES: &[Code] = &[MemberNotFound, UnsafeChange, ChangeRunning, TransferRefused];
    let (summary, description) = match call {
        Call::PlanMember => {
            return Operation {
                description: "Quorum and fault tolerance before and after, and what speaks against it. Nothing is changed.",
                body: Some("PlanMemberChange"),
                codes: &[MemberNotFound],
                ..operation(TAG, "Work out a change of a member", vec![answer(200, "The plan.", DONE)])
            };
        }
        Call::PromoteMember => (
            "Make a learner a voter",
            "Now, rather than when it has caught up: a node that joined becomes a voter by itself.",
        ),
        Call::DemoteMember => {
            ("Make a voter a learner", "It follows on, and is not promoted by itself any more.")
        }
        _ => (
            "Remove a member",
            "For good: it must not come back under its id. To take a dead node out, add its replacement first.",
        ),
    };
    Operation {
        description,
        body: Some("ChangeMember"),
        codes: CODES,
        ..operation(TAG, summary, vec![answer(200, "It is so: on a majority of the voters, for good.", DONE)])
    }
}

pub(super) fn transfer() -> Operation {
    Operation {
        description: "To the voter that is named, or to the one that has the most. Answers once this node knows the new \
                      leader. Writes wait meanwhile, some ms as a rule.",
        body: Some("TransferLeadership"),
        codes: &[TransferRefused],
        ..operation(TAG, "Hand leadership over", vec![answer(200, "Who leads now.", &[(JSON, "LeaderNow")])])
    }
}

pub(super) fn settings(call: Call) -> Operation {
    const SETTINGS: &[(&str, &str)] = &[(JSON, "ClusterSettings")];
    if call == Call::GetSettings {
        return operation(TAG, "Show the cluster's settings", vec![answer(200, "Those in force.", SETTINGS)]);
    }
    Operation {
        description: "Only the fields that are given change, on all nodes at the same entry of the log: of two changes of \
                      different fields at the same moment both hold. A replay says what was in force then.",
        body: Some("ChangeClusterSettings"),
        ..operation(TAG, "Change the cluster's settings", vec![answer(200, "Those in force now.", SETTINGS)])
    }
}

pub(super) fn upgrade(call: Call) -> Operation {
    const PLAN: &[(&str, &str)] = &[(JSON, "UpgradePlan")];
    if call == Call::CheckUpgrade {
        return Operation {
            description: "What each member runs and serves, which cluster version could be put in force, what that switches \
                          on, and what stands against it. By way of the leader. Nothing is changed.",
            codes: &[NoLeader],
            parameters: &["TimeoutMs"],
            ..operation(TAG, "Work out the end of an upgrade", vec![answer(200, "The plan.", PLAN)])
        };
    }
    Operation {
        description: "Puts the newest cluster version in force that the members' programs serve, for good: until then each node \
                      can go back to the program that it had, from then on none can. Refused while a member does not \
                      serve that version, or does not answer. Where it is in force already nothing is done.",
        body: Some("FinalizeUpgrade"),
        codes: &[UnsafeUpgrade],
        ..operation(
            TAG,
            "Finalise an upgrade",
            vec![answer(200, "It is in force: on a majority, for good.", PLAN)],
        )
    }
}
