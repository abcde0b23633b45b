//! What a change does to quorum and fault tolerance, as the servers work it out.

use crate::{
    client::{Answer, Call, Client},
    problem::Failure,
    view::{View, answers},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The voters at one time, as servers say it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Quorum {
    pub voters: u64,
    pub majority: u64,
    pub live: u64,
    pub fault_tolerance: Option<u64>,
}

impl Quorum {
    /// As a view shows it.
    pub fn seen(view: &View) -> Self {
        let voters = || view.members.iter().filter(|member| member.role == "voter");
        let live = voters().filter(|member| answers(view, member)).count();
        Quorum::of(voters().count() as u64, live as u64)
    }

    /// Of so many voters, of whom so many answer.
    pub fn of(voters: u64, live: u64) -> Self {
        let majority = voters / 2 + 1;
        Quorum { voters, majority, live, fault_tolerance: live.checked_sub(majority) }
    }

    /// For people.
    pub fn text(self) -> String {
        let Quorum { voters, majority, live, fault_tolerance } = self;
        let bears = match fault_tolerance {
            None => "no majority: nothing can be written".into(),
            Some(0) => "none may fail".into(),
            Some(n) => format!("{n} may fail"),
        };
        format!("{voters} voters, a majority is {majority}, {live} answer: {bears}")
    }
}

/// What the servers say that a change does.
#[derive(Debug, Deserialize)]
pub struct Plan {
    #[serde(default)]
    already: bool,
    before: Quorum,
    after: Quorum,
    #[serde(rename = "unsafe")]
    pub unsafe_because: Vec<Concern>,
    notes: Vec<String>,
    pub join: Vec<String>,
}

/// What speaks against it.
#[derive(Debug, Deserialize)]
pub struct Concern {
    why: String,
    instead: String,
    forceable: bool,
}

/// Has a change worked out; nothing is changed.
///
/// # Errors
/// Nobody answers, or there is no such member.
pub async fn plan(client: &Client, what: &str, id: u64) -> Result<(Answer, Plan), Failure> {
    let body = json!({ "change": what }).to_string();
    let answer = client.call(&Call::post(format!("/v1/cluster/members/{id}/plan"), body)).await?;
    let plan = answer.parse()?;
    Ok((answer, plan))
}

/// What a plan says, for people.
pub fn explain(what: &str, id: u64, plan: &Plan) -> String {
    let mut out =
        format!("{what} node {id}\n  before: {}\n  after:  {}\n", plan.before.text(), plan.after.text());
    for concern in &plan.unsafe_because {
        let force = if concern.forceable { "--force does it all the same" } else { "--force does not help" };
        out.push_str(&format!("  UNSAFE: {}\n          {} ({force})\n", concern.why, concern.instead));
    }
    plan.notes.iter().for_each(|note| out.push_str(&format!("  note: {note}\n")));
    match (plan.already, plan.unsafe_because.is_empty()) {
        (true, _) => out.push_str("  it is so already: nothing is to be done\n"),
        (_, true) => out.push_str("  safe\n"),
        _ => {}
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_said_in_words() {
        assert_eq!(Quorum::of(3, 3).text(), "3 voters, a majority is 2, 3 answer: 1 may fail");
        assert_eq!(Quorum::of(4, 3).text(), "4 voters, a majority is 3, 3 answer: none may fail");
        assert_eq!(
            Quorum::of(3, 1).text(),
            "3 voters, a majority is 2, 1 answer: no majority: nothing can be written"
        );
    }
}
