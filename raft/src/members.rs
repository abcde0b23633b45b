//! What operators do to the members: asked of any node, done by the leader, one change at a time.
//!
//! This file asks; `by_leader` does it, and completes what a leader that died left half done.

mod by_leader;
mod messages;

pub(crate) use by_leader::{complete_half_done, serve_change, serve_hand_over};

use crate::cluster::Cluster;
use crate::error::ChangeError;
use crate::network::Lane;
use crate::plan::{Change, Plan};
use crate::proto::peer_client::PeerClient;
use crate::proto::{ChangeRequest, HandOverRequest, change_response, hand_over_response};
use by_leader::{change_here, transfer_soon};
use messages::kind_of;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Before the leader is looked for again.
const RETRY: Duration = Duration::from_millis(50);

/// How a change is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Intent {
    /// Although it is unsafe, where that can be.
    pub force: bool,
    /// Only work it out, and change nothing.
    pub plan_only: bool,
}

/// Leadership as it was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Who leads now.
    pub leader: u64,
    /// In which term, as far as this node has heard.
    pub term: u64,
    /// It led before: nothing was done.
    pub already: bool,
    /// From the question to the moment at which the new leader was known here.
    pub took: Duration,
}

impl Cluster {
    /// Changes one member, by way of the leader, wherever it is. The answer is definite but for
    /// [`ChangeError::Unknown`]; asking for the same again is always safe.
    ///
    /// # Errors
    /// See [`ChangeError`]: among them the plan, where it is unsafe.
    pub async fn change(
        &self,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let plan = self.ask(change, node_id, Intent { plan_only: true, ..intent }, deadline).await?;
        if intent.plan_only || plan.already {
            return Ok(plan);
        }
        match self.ask(change, node_id, intent, deadline).await {
            // It was a member when the plan was made: an earlier attempt of ours did it.
            Err(ChangeError::NoSuchMember(_)) if change == Change::Remove => Ok(plan),
            // As it was planned: a new leader, to which the old one handed over, sees it otherwise.
            done => done.map(|_| plan),
        }
    }

    async fn ask(
        &self,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let mut unknown = None;
        loop {
            let leader = self.core.leadership.borrow().leader;
            let answer = match leader {
                Some(leader) if leader == self.node_id() => {
                    change_here(&self.core, change, node_id, intent, deadline).await
                }
                Some(leader) => self.ask_leader(leader, change, node_id, intent, deadline).await,
                None => Err(ChangeError::NotLeader(None)),
            };
            match answer {
                Err(ChangeError::NotLeader(_)) => {}
                // A busy leader is done with the change before in a moment.
                Err(ChangeError::Busy(_)) => {}
                Err(ChangeError::Unknown(ref why)) => unknown = Some(why.clone()),
                answer => return told(answer, unknown, change, intent),
            }
            if Instant::now() + RETRY >= deadline {
                return told(answer, unknown, change, intent);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(crate) fn client_of(
        &self,
        leader: u64,
    ) -> Result<(PeerClient<Channel>, crate::proto::Route), ChangeError> {
        let member = self.core.members().remove(&leader).ok_or(ChangeError::NotLeader(None))?.0;
        let client = self.core.dialer.client(&self.core.address_of(leader, &member), Lane::Control);
        let client = client.map_err(|status| ChangeError::Unknown(status.message().to_owned()))?;
        Ok((client, self.core.route(leader, member.incarnation)))
    }

    async fn ask_leader(
        &self,
        leader: u64,
        change: Change,
        node_id: u64,
        intent: Intent,
        deadline: Instant,
    ) -> Result<Plan, ChangeError> {
        let (mut client, route) = self.client_of(leader)?;
        let mut request = ChangeRequest {
            route: Some(route),
            node_id,
            force: intent.force,
            plan_only: intent.plan_only,
            remaining_ms: remaining_ms(deadline),
            ..ChangeRequest::default()
        };
        request.set_kind(kind_of(change));
        let answer = tokio::time::timeout_at(deadline, client.change(request)).await;
        match received(leader, answer)?.result {
            Some(change_response::Result::Done(plan)) => Ok(plan.into()),
            Some(change_response::Result::NotDone(not_done)) => Err(not_done.into()),
            None => Err(ChangeError::Unknown(format!("node {leader} answered nothing"))),
        }
    }

    /// Hands leadership over, by way of the leader, and waits until this node knows the new one.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn hand_leadership_over(
        &self,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<HandedOver, ChangeError> {
        let begun = Instant::now();
        let mut leadership = self.core.leadership.clone();
        let mut after = leadership.clone();
        // What it waits for is a borrow, which must not be held while waiting for anything else.
        let known = leadership.wait_for(|now| now.leader.is_some());
        let before = match tokio::time::timeout_at(deadline, known).await {
            Ok(Ok(now)) => Some(*now),
            _ => None,
        };
        let Some(before) = before else { return Err(ChangeError::NotLeader(None)) };
        let handed = |now: crate::Leadership, already| HandedOver {
            leader: now.leader.unwrap_or_default(),
            term: now.term,
            already,
            took: begun.elapsed(),
        };
        let from = before.leader.unwrap_or_default();
        if to == Some(from) {
            return Ok(handed(before, true));
        }
        let leader = if before.mine {
            transfer_soon(self, to, deadline).await?
        } else {
            self.ask_to_hand_over(from, to, deadline).await?
        };
        // It may have moved on since; what counts is that a later term has begun.
        let moved = after
            .wait_for(|now| now.leader == Some(leader) || (now.leader.is_some() && now.term > before.term));
        match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(now)) => Ok(handed(*now, false)),
            _ => Err(ChangeError::Unknown(format!("node {leader} leads, but this node has not heard of it"))),
        }
    }

    async fn ask_to_hand_over(
        &self,
        leader: u64,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<u64, ChangeError> {
        let (mut client, route) = self.client_of(leader)?;
        let request = HandOverRequest {
            route: Some(route),
            to: to.unwrap_or_default(),
            remaining_ms: remaining_ms(deadline),
        };
        let answer = tokio::time::timeout_at(deadline, client.hand_over(request)).await;
        match received(leader, answer)?.result {
            Some(hand_over_response::Result::Leader(leader)) => Ok(leader),
            Some(hand_over_response::Result::NotDone(not_done)) => Err(not_done.into()),
            None => Err(ChangeError::Unknown(format!("node {leader} answered nothing"))),
        }
    }
}

/// The last answer, as it may be told after an attempt whose outcome is `unknown`: a refusal is definite for the attempt that
/// it answers, and not for the one before.
fn told(
    answer: Result<Plan, ChangeError>,
    unknown: Option<String>,
    change: Change,
    intent: Intent,
) -> Result<Plan, ChangeError> {
    match (answer, unknown) {
        // To work something out changes nothing: then it is only that nobody answered.
        (Err(ChangeError::Unknown(_)), _) if intent.plan_only => Err(ChangeError::NotLeader(None)),
        (Err(ChangeError::NoSuchMember(which)), _) if change == Change::Remove => {
            Err(ChangeError::NoSuchMember(which))
        }
        (Err(_), Some(why)) if !intent.plan_only => Err(ChangeError::Unknown(why)),
        (answer, _) => answer,
    }
}

fn remaining_ms(deadline: Instant) -> u32 {
    let remaining = deadline.saturating_duration_since(Instant::now()).as_millis();
    u32::try_from(remaining).unwrap_or(u32::MAX)
}

/// An answer of the leader; where there is none, it may have done what it was asked.
fn received<T>(
    leader: u64,
    answer: Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>,
) -> Result<T, ChangeError> {
    let unknown =
        |why: &str| ChangeError::Unknown(format!("node {leader}, which leads, did not answer: {why}"));
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // Not meant for it, or not a member any more: it did nothing.
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => {
            Err(ChangeError::NotLeader(None))
        }
        Ok(Err(status)) => Err(unknown(status.message())),
        Err(_) => Err(unknown("no answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_an_unknown_outcome_is_no_definite_one() {
        let told = |answer: ChangeError, unknown: Option<&str>, change, plan_only| {
            let intent = Intent { force: false, plan_only };
            told(Err(answer), unknown.map(str::to_owned), change, intent).expect_err("it was refused")
        };
        let (refused, lost) = (ChangeError::Refused("no".into()), ChangeError::Unknown("lost".into()));
        assert_eq!(told(refused.clone(), None, Change::Demote, false), refused);
        assert_eq!(told(refused.clone(), Some("lost"), Change::Demote, false), lost);
        assert_eq!(told(ChangeError::Busy("later".into()), Some("lost"), Change::Promote, false), lost);
        let gone = ChangeError::NoSuchMember("gone".into());
        assert_eq!(told(gone.clone(), Some("lost"), Change::Demote, false), lost);
        assert_eq!(
            told(gone.clone(), Some("lost"), Change::Remove, false),
            gone,
            "that is what was asked for"
        );
        // A plan changes nothing, however often it is asked for.
        assert_eq!(told(refused.clone(), Some("lost"), Change::Demote, true), refused);
        assert_eq!(told(lost, Some("lost"), Change::Demote, true), ChangeError::NotLeader(None));
    }
}
