//! `/v1/cluster/members/...` and `/v1/cluster/leader/...`: what operators change of the cluster.

use crate::Call;
use crate::answer::Answer;
use crate::codes::Code;
use crate::door::Asked;
use crate::json::{self, Number, Text};
use crate::problem::{Extra, Problem};
use crate::render;
use serde::{Deserialize, Serialize};
use stockroom_raft::{Change, ChangeError, Concern, Intent, Plan, Quorum};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    force: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanBody<'a> {
    #[serde(borrow)]
    change: Text<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    to: Option<Number>,
}

#[derive(Serialize)]
struct QuorumBody {
    voters: usize,
    majority: usize,
    live: usize,
    fault_tolerance: Option<usize>,
}

impl From<Quorum> for QuorumBody {
    fn from(quorum: Quorum) -> Self {
        let Quorum { voters, majority, live } = quorum;
        QuorumBody { voters, majority, live, fault_tolerance: quorum.fault_tolerance() }
    }
}

#[derive(Serialize)]
pub(crate) struct ConcernBody<'a> {
    code: &'a str,
    why: &'a str,
    instead: &'a str,
    forceable: bool,
}

impl<'a> From<&'a Concern> for ConcernBody<'a> {
    fn from(Concern { code, why, instead, forceable }: &'a Concern) -> Self {
        ConcernBody { code, why, instead, forceable: *forceable }
    }
}

#[derive(Serialize)]
struct PlanAnswer<'a> {
    id: u64,
    change: &'static str,
    done: bool,
    already: bool,
    before: QuorumBody,
    after: QuorumBody,
    #[serde(rename = "unsafe")]
    unsafe_because: Vec<ConcernBody<'a>>,
    notes: &'a [String],
    join: &'a [String],
}

impl<'a> PlanAnswer<'a> {
    fn new(plan: &'a Plan, change: Change, done: bool) -> Self {
        PlanAnswer {
            id: plan.node_id,
            change: name_of(change),
            done,
            already: plan.already,
            before: plan.before.into(),
            after: plan.after.into(),
            unsafe_because: plan.unsafe_because.iter().map(ConcernBody::from).collect(),
            notes: &plan.notes,
            join: &plan.join,
        }
    }
}

#[derive(Serialize)]
struct LeaderAnswer {
    leader: u64,
    term: u64,
    already: bool,
    took_ms: u64,
}

const CHANGES: [Change; 4] = [Change::Add, Change::Promote, Change::Demote, Change::Remove];

fn name_of(change: Change) -> &'static str {
    match change {
        Change::Add => "add",
        Change::Promote => "promote",
        Change::Demote => "demote",
        Change::Remove => "remove",
    }
}

fn member_id(asked: &Asked<'_>) -> Result<u64, Problem> {
    let text = &*asked.target.parameter;
    let id = text.parse().ok().filter(|id| *id > 0);
    id.ok_or_else(|| Problem::new(Code::MemberNotFound, format!("{text:?} is not the id of a node")))
}

/// Works a change out, and changes nothing.
pub(crate) async fn plan(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let node_id = member_id(asked)?;
    let body: PlanBody<'_> = json::parse(body, asked.limits().json_depth)?;
    let wanted = CHANGES.into_iter().find(|change| name_of(*change) == body.change.0);
    let change = wanted.ok_or_else(|| {
        Problem::new(Code::InvalidValue, "must be add, promote, demote or remove").at("change")
    })?;
    let intent = Intent { plan_only: true, ..Intent::default() };
    let plan = asked.cluster.change(change, node_id, intent, asked.deadline).await;
    let plan = plan.map_err(|error| problem(&error, change))?;
    Ok(Answer::json(render::json(&PlanAnswer::new(&plan, change, false), 1024)))
}

/// Promotes, demotes or removes a member.
pub(crate) async fn change(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let change = match asked.target.call {
        Call::PromoteMember => Change::Promote,
        Call::DemoteMember => Change::Demote,
        _ => Change::Remove,
    };
    let node_id = member_id(asked)?;
    let body: ChangeBody = json::parse(body, asked.limits().json_depth)?;
    let intent = Intent { force: body.force.unwrap_or(false), plan_only: false };
    let done = asked.cluster.change(change, node_id, intent, asked.deadline).await;
    let plan = done.map_err(|error| problem(&error, change))?;
    let (request_id, change_name, force) = (asked.request_id, name_of(change), intent.force);
    tracing::info!(
        request_id,
        node_id,
        change = change_name,
        force,
        already = plan.already,
        "members changed"
    );
    Ok(Answer::json(render::json(&PlanAnswer::new(&plan, change, true), 1024)))
}

/// Hands leadership over and waits until this node knows the new leader.
pub(crate) async fn transfer(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let body: TransferBody = json::parse(body, asked.limits().json_depth)?;
    let to = body.to.map(|to| to.within(1, i64::MAX, || "to".into())).transpose()?.map(i64::unsigned_abs);
    match asked.cluster.hand_leadership_over(to, asked.deadline).await {
        Ok(handed) => {
            let answer = LeaderAnswer {
                leader: handed.leader,
                term: handed.term,
                already: handed.already,
                took_ms: u64::try_from(handed.took.as_millis()).unwrap_or(u64::MAX),
            };
            Ok(Answer::json(render::json(&answer, 128)))
        }
        Err(ChangeError::NotLeader(_)) => Err(no_leader()),
        Err(ChangeError::Unknown(why)) => Err(Problem::new(Code::OutcomeUnknown, why)
            .then("See who leads: GET /v1/cluster. To ask for the same again is safe.".into())),
        Err(error) => Err(Problem::new(Code::TransferRefused, error.to_string())),
    }
}

fn no_leader() -> Problem {
    Problem::new(Code::NoLeader, "no leader answered within the deadline, so nothing was changed").then(
        "Where a majority of the voters is gone for good, no member can be changed: see `stockroom recover`."
            .into(),
    )
}

fn problem(error: &ChangeError, change: Change) -> Problem {
    let text = error.to_string();
    match error {
        ChangeError::NotLeader(_) => no_leader(),
        ChangeError::NoSuchMember(_) => Problem::new(Code::MemberNotFound, text),
        ChangeError::Busy(_) => Problem::new(Code::ChangeRunning, text),
        ChangeError::Refused(_) => Problem::new(Code::TransferRefused, text),
        ChangeError::Unknown(_) => Problem::new(Code::OutcomeUnknown, text)
            .then("See the members: GET /v1/cluster. To ask for the same change again is safe.".into()),
        ChangeError::Unsafe(plan) => {
            let answer = serde_json::to_value(PlanAnswer::new(plan, change, false))
                .expect("numbers, strings and booleans are JSON");
            let problem = Problem::new(Code::UnsafeChange, text).with("plan", Extra::Json(answer));
            plan.unsafe_because.iter().fold(problem, |problem, concern| problem.then(concern.instead.clone()))
        }
    }
}
