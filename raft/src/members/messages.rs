//! Changes and plans as the peer RPC carries them.

use crate::error::ChangeError;
use crate::plan::{Change, Concern, Plan, Quorum};
use crate::proto::change_request::Kind as ChangeKind;
use crate::proto::not_done::Kind as NotDoneKind;
use crate::proto::{ConcernInfo, NotDone, PlanInfo, QuorumInfo};

pub(super) fn kind_of(change: Change) -> ChangeKind {
    match change {
        Change::Add => ChangeKind::Add,
        Change::Promote => ChangeKind::Promote,
        Change::Demote => ChangeKind::Demote,
        Change::Remove => ChangeKind::Remove,
    }
}

pub(super) fn change_of(kind: ChangeKind) -> Option<Change> {
    match kind {
        ChangeKind::Add => Some(Change::Add),
        ChangeKind::Promote => Some(Change::Promote),
        ChangeKind::Demote => Some(Change::Demote),
        ChangeKind::Remove => Some(Change::Remove),
        ChangeKind::Unspecified => None,
    }
}

impl From<ChangeError> for NotDone {
    fn from(error: ChangeError) -> Self {
        let (kind, why, plan) = match error {
            ChangeError::NotLeader(_) => (NotDoneKind::NotLeader, String::new(), None),
            ChangeError::NoSuchMember(why) => (NotDoneKind::NoSuchMember, why, None),
            ChangeError::Unsafe(plan) => (NotDoneKind::Unsafe, String::new(), Some((*plan).into())),
            ChangeError::Busy(why) => (NotDoneKind::Busy, why, None),
            ChangeError::Refused(why) => (NotDoneKind::Unspecified, why, None),
            ChangeError::Unknown(why) => (NotDoneKind::Unknown, why, None),
        };
        NotDone { kind: kind.into(), why, plan }
    }
}

impl From<NotDone> for ChangeError {
    fn from(not_done: NotDone) -> Self {
        let (kind, why) = (not_done.kind(), not_done.why);
        match (kind, not_done.plan) {
            (NotDoneKind::NotLeader, _) => ChangeError::NotLeader(None),
            (NotDoneKind::NoSuchMember, _) => ChangeError::NoSuchMember(why),
            (NotDoneKind::Unsafe, Some(plan)) => ChangeError::Unsafe(Box::new(plan.into())),
            (NotDoneKind::Busy, _) => ChangeError::Busy(why),
            (NotDoneKind::Unknown, _) => ChangeError::Unknown(why),
            (NotDoneKind::Unsafe | NotDoneKind::Unspecified, _) => ChangeError::Refused(why),
        }
    }
}

impl From<Quorum> for QuorumInfo {
    fn from(Quorum { voters, majority, live }: Quorum) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        QuorumInfo { voters: count(voters), majority: count(majority), live: count(live) }
    }
}

impl From<QuorumInfo> for Quorum {
    fn from(QuorumInfo { voters, majority, live }: QuorumInfo) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Quorum { voters: count(voters), majority: count(majority), live: count(live) }
    }
}

impl From<Concern> for ConcernInfo {
    fn from(Concern { code, why, instead, forceable }: Concern) -> Self {
        ConcernInfo { code, why, instead, forceable }
    }
}

impl From<ConcernInfo> for Concern {
    fn from(ConcernInfo { code, why, instead, forceable }: ConcernInfo) -> Self {
        Concern { code, why, instead, forceable }
    }
}

impl From<Plan> for PlanInfo {
    fn from(plan: Plan) -> Self {
        PlanInfo {
            node_id: plan.node_id,
            before: Some(plan.before.into()),
            after: Some(plan.after.into()),
            already: plan.already,
            unsafe_because: plan.unsafe_because.into_iter().map(Into::into).collect(),
            notes: plan.notes,
            join: plan.join,
        }
    }
}

impl From<PlanInfo> for Plan {
    fn from(plan: PlanInfo) -> Self {
        Plan {
            node_id: plan.node_id,
            before: plan.before.unwrap_or_default().into(),
            after: plan.after.unwrap_or_default().into(),
            already: plan.already,
            unsafe_because: plan.unsafe_because.into_iter().map(Into::into).collect(),
            notes: plan.notes,
            join: plan.join,
        }
    }
}
