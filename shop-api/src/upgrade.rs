//! `/v1/cluster/upgrade`: what each member runs, and putting the newest cluster version in force that all of them serve.

use crate::answer::Answer;
use crate::cluster::VersionsBody;
use crate::codes::Code;
use crate::door::Asked;
use crate::json;
use crate::members::ConcernBody;
use crate::problem::{Extra, Problem};
use crate::query::Query;
use crate::render;
use serde::{Deserialize, Serialize};
use stockroom_raft::{MemberProgram, UpgradeError, UpgradePlan};
use stockroom_storage::shop::version::{SERVED, switched_on};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FinalizeBody {}

#[derive(Serialize)]
struct ProgramBody<'a> {
    id: u64,
    role: &'static str,
    answers: bool,
    version: Option<&'a str>,
    serves: Option<VersionsBody>,
    cluster_version: u32,
}

impl<'a> From<&'a MemberProgram> for ProgramBody<'a> {
    fn from(member: &'a MemberProgram) -> Self {
        ProgramBody {
            id: member.node_id,
            role: if member.votes { "voter" } else { "learner" },
            answers: member.answers,
            version: member.program.as_deref(),
            serves: member.program.is_some().then(|| member.versions.into()),
            cluster_version: member.in_force.0,
        }
    }
}

#[derive(Serialize)]
struct ChangeBody {
    version: u32,
    what: &'static str,
}

#[derive(Serialize)]
struct PlanBody<'a> {
    from: u32,
    to: u32,
    done: bool,
    already: bool,
    members: Vec<ProgramBody<'a>>,
    switches_on: Vec<ChangeBody>,
    /// Whether this node's program knows all of it.
    knows_all: bool,
    blocked_by: Vec<ConcernBody<'a>>,
}

impl<'a> PlanBody<'a> {
    fn new(plan: &'a UpgradePlan, done: bool) -> Self {
        let changes = switched_on(plan.from, plan.to);
        PlanBody {
            from: plan.from.0,
            to: plan.to.0,
            done,
            already: plan.already(),
            members: plan.members.iter().map(ProgramBody::from).collect(),
            switches_on: changes.map(|(version, what)| ChangeBody { version: version.0, what }).collect(),
            knows_all: plan.to <= SERVED.newest,
            blocked_by: plan.blocked_by.iter().map(ConcernBody::from).collect(),
        }
    }
}

/// Works it out, and changes nothing.
pub(crate) async fn check(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let plan = asked.cluster.finalize_upgrade(true, asked.deadline).await.map_err(|error| problem(&error))?;
    Ok(Answer::json(render::json(&PlanBody::new(&plan, false), 1024)))
}

/// Does it, for good.
pub(crate) async fn finalize(asked: &Asked<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let FinalizeBody {} = json::parse(body, asked.limits().json_depth)?;
    let plan =
        asked.cluster.finalize_upgrade(false, asked.deadline).await.map_err(|error| problem(&error))?;
    let (request_id, from, to) = (asked.request_id, plan.from.0, plan.to.0);
    tracing::info!(request_id, from, to, already = plan.already(), "upgrade finalised");
    Ok(Answer::json(render::json(&PlanBody::new(&plan, true), 1024)))
}

fn problem(error: &UpgradeError) -> Problem {
    let text = error.to_string();
    match error {
        UpgradeError::NotNow(_) => Problem::new(Code::NoLeader, text),
        UpgradeError::Unknown(_) => Problem::new(Code::OutcomeUnknown, text).then(
            "See which version is in force: GET /v1/cluster. To ask for the same again is safe.".into(),
        ),
        UpgradeError::Blocked(plan) => {
            let answer = serde_json::to_value(PlanBody::new(plan, false))
                .expect("numbers, strings and booleans are JSON");
            let problem = Problem::new(Code::UnsafeUpgrade, text).with("plan", Extra::Json(answer));
            plan.blocked_by.iter().fold(problem, |problem, concern| problem.then(concern.instead.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use stockroom_raft::Concern;
    use stockroom_storage::shop::version::{ClusterVersion, Versions};

    #[test]
    fn who_stands_against_it_is_told_with_what_to_do() {
        let (one, two) = (ClusterVersion(1), ClusterVersion(2));
        let member = MemberProgram {
            node_id: 3,
            votes: true,
            answers: true,
            program: Some("0.1.0".into()),
            versions: Versions { oldest: one, newest: one },
            in_force: one,
        };
        let concern = Concern {
            code: "member_too_old".into(),
            why: "node 3 is too old".into(),
            instead: "Restart it.".into(),
            forceable: false,
        };
        let plan = UpgradePlan { from: one, to: two, members: vec![member], blocked_by: vec![concern] };
        let problem = problem(&UpgradeError::Blocked(Box::new(plan)));
        let body: Value = serde_json::from_slice(&problem.body("r-1")).unwrap();
        assert_eq!((&body["code"], &body["definite"]), (&json!("unsafe_upgrade"), &json!(true)));
        assert_eq!(body["detail"], "node 3 is too old");
        assert_eq!(body["plan"]["members"][0]["serves"], json!({"oldest": 1, "newest": 1}));
        assert!(body["next_steps"].to_string().contains("Restart it."), "{body}");
    }
}
