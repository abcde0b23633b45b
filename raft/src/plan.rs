//! The sums behind a change of members: quorum and fault tolerance before and after, and what speaks against it.

use std::collections::{BTreeMap, BTreeSet};

/// What is to be done with one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new node is to come in, as a learner that becomes a voter. It does so itself, when it is started with `join`.
    Add,
    /// A learner becomes a voter now, rather than when it has caught up.
    Promote,
    /// A voter becomes a learner, and stays one.
    Demote,
    /// A member leaves.
    Remove,
}

/// The voters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// How many there are.
    pub voters: usize,
    /// How many must agree to anything.
    pub majority: usize,
    /// How many answer.
    pub live: usize,
}

impl Quorum {
    fn of(voters: &BTreeSet<u64>, live: &BTreeSet<u64>) -> Self {
        Quorum {
            voters: voters.len(),
            majority: voters.len() / 2 + 1,
            live: voters.intersection(live).count(),
        }
    }

    /// How many of those that answer may fail and the rest still agrees; `None` where it does not even now.
    #[must_use]
    pub fn fault_tolerance(&self) -> Option<usize> {
        self.live.checked_sub(self.majority)
    }
}

/// Something that speaks against a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// What kind it is, for programs.
    pub code: String,
    /// What would happen.
    pub why: String,
    /// What to do instead.
    pub instead: String,
    /// Whether it can be done all the same, by force.
    pub forceable: bool,
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of whom.
    pub node_id: u64,
    /// As things are.
    pub before: Quorum,
    /// With the change made.
    pub after: Quorum,
    /// It is so already: there is nothing to change.
    pub already: bool,
    /// Why it is unsafe; empty where it is not.
    pub unsafe_because: Vec<Concern>,
    /// Worth knowing, and no obstacle.
    pub notes: Vec<String>,
    /// Peer addresses of the members that answer: what a new node is given as `join`.
    pub join: Vec<String>,
}

impl Plan {
    /// What keeps it from being done, where there is something: all of it where it cannot be forced, too.
    pub(crate) fn refusal(&self, force: bool) -> Option<&Concern> {
        let mut concerns = self.unsafe_because.iter();
        let first_final = self.unsafe_because.iter().find(|concern| !concern.forceable);
        first_final.or_else(|| concerns.next().filter(|_| !force))
    }
}

/// A member as the sums need it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) votes: bool,
    /// It answers.
    pub(crate) live: bool,
    /// It has (nearly) all that the leader has.
    pub(crate) caught_up: bool,
    pub(crate) peer_address: String,
}

/// Works out a change.
pub(crate) fn plan(
    members: &BTreeMap<u64, Standing>,
    leader: u64,
    change: Change,
    node_id: u64,
) -> Result<Plan, String> {
    let ids = |fit: fn(&Standing) -> bool| -> BTreeSet<u64> {
        members.iter().filter(|(_, member)| fit(member)).map(|(id, _)| *id).collect()
    };
    let (voters, mut live) = (ids(|member| member.votes), ids(|member| member.live));
    let before = Quorum::of(&voters, &live);
    let member = members.get(&node_id);
    let mut left = voters.clone();
    match change {
        Change::Add => {
            // It is taken in and promoted only once it answers.
            left.insert(node_id);
            live.insert(node_id);
        }
        Change::Promote => drop(left.insert(node_id)),
        Change::Demote | Change::Remove => drop(left.remove(&node_id)),
    }
    let mut plan = Plan {
        node_id,
        before,
        after: Quorum::of(&left, &live),
        already: match (change, member) {
            (Change::Promote, Some(member)) => member.votes,
            (Change::Demote, Some(member)) => !member.votes,
            _ => false,
        },
        unsafe_because: Vec::new(),
        notes: Vec::new(),
        join: members.values().filter(|member| member.live).map(|m| m.peer_address.clone()).collect(),
    };
    match (change, member) {
        (Change::Add, Some(_)) => plan.unsafe_because.push(taken(members, node_id)),
        (Change::Add, None) => {}
        (_, None) => return Err(format!("node {node_id} is no member: {}", listed(members))),
        (_, Some(_)) if plan.already => {}
        (_, Some(member)) => weigh(&mut plan, member, change, left.is_empty()),
    }
    note(&mut plan, change, leader == node_id);
    Ok(plan)
}

fn weigh(plan: &mut Plan, member: &Standing, change: Change, nobody_is_left: bool) {
    let Plan { node_id, before, after, .. } = *plan;
    let add = |plan: &mut Plan, code: &str, forceable: bool, why: String, instead: &str| {
        plan.unsafe_because.push(Concern { code: code.into(), why, instead: instead.into(), forceable });
    };
    if nobody_is_left {
        let why = format!("node {node_id} is the only voter: without it there is no cluster");
        return add(plan, "last_voter", false, why, "Add another node first, and wait until it is a voter.");
    }
    if after.live < after.majority {
        let (answer, agree) = (told(after.live, ["answers", "answer"]), after.majority);
        let why = format!(
            "of the {} voters that there would be, {answer}, and {agree} must agree to anything: the change itself could \
             not be committed, and all writes would stop. Force does not help here",
            after.voters
        );
        let instead = "Bring a voter that does not answer back, or add a node and wait until it is a voter, then try again.";
        add(plan, "loses_quorum", false, why, instead);
    } else if after.fault_tolerance() < before.fault_tolerance() {
        let (from, to) = (before.fault_tolerance().unwrap_or(0), after.fault_tolerance().unwrap_or(0));
        let then = if to == 0 { ": the failure of any one voter would stop all writes" } else { "" };
        let voters = told(to, ["voter", "voters"]);
        let why = format!("the cluster could bear the failure of {voters} instead of {from}{then}");
        let instead = "Add a node first and wait until it is a voter; or do it by force, knowing this.";
        add(plan, "loses_fault_tolerance", true, why, instead);
    }
    if change == Change::Promote && !(member.live && member.caught_up) {
        let state = if member.live { "has not caught up" } else { "does not answer" };
        let why = format!("node {node_id} {state}: it would count in the quorum before it can help it");
        let instead = "Wait: a learner that joined becomes a voter by itself as soon as it has caught up.";
        add(plan, "not_caught_up", true, why, instead);
    }
}

fn note(plan: &mut Plan, change: Change, leads: bool) {
    if leads && matches!(change, Change::Demote | Change::Remove) && !plan.already {
        plan.notes.push(format!("node {} leads: leadership is handed over first", plan.node_id));
    }
    if plan.after.voters >= 2
        && plan.after.voters.is_multiple_of(2)
        && plan.after.voters != plan.before.voters
    {
        let (even, odd) = (plan.after.voters, plan.after.voters - 1);
        plan.notes.push(format!(
            "{even} voters bear no more failures than {odd}: an even number is good for the time of a replacement only"
        ));
    }
    if plan.before.live < plan.before.voters {
        let silent = plan.before.voters - plan.before.live;
        let do_not = told(silent, ["of the voters does not", "of the voters do not"]);
        plan.notes.push(format!("{do_not} answer now"));
    }
}

/// A number, and the word that goes with it: for one, for any other.
fn told(count: usize, [one, other]: [&str; 2]) -> String {
    format!("{count} {}", if count == 1 { one } else { other })
}

fn listed(members: &BTreeMap<u64, Standing>) -> String {
    let ids: Vec<String> = members.keys().map(u64::to_string).collect();
    format!("the members are {}", ids.join(", "))
}

fn taken(members: &BTreeMap<u64, Standing>, node_id: u64) -> Concern {
    let free = members.keys().next_back().map_or(1, |last| last + 1);
    Concern {
        code: "id_taken".into(),
        why: format!("node {node_id} is a member already: {}", listed(members)),
        instead: format!("Take an id that no node ever had: {free} is above all that are members now."),
        forceable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `v` a voter, `l` a learner; upper case where it does not answer. Ids from 1 on.
    fn members(text: &str) -> BTreeMap<u64, Standing> {
        let member = |c: char| Standing {
            votes: c.eq_ignore_ascii_case(&'v'),
            live: c.is_lowercase(),
            caught_up: c.is_lowercase(),
            peer_address: "a:1".into(),
        };
        (1..).zip(text.chars().map(member)).collect()
    }

    /// (voters, majority, live, tolerance) after it, the code of what refuses it, and whether force helps.
    type Outcome = ((usize, usize, usize, Option<usize>), Option<String>, bool);

    fn check(cluster: &str, change: Change, node_id: u64) -> Outcome {
        let plan = plan(&members(cluster), 1, change, node_id).expect("a member");
        let Quorum { voters, majority, live } = plan.after;
        let code = plan.refusal(false).map(|concern| concern.code.clone());
        ((voters, majority, live, plan.after.fault_tolerance()), code, plan.refusal(true).is_none())
    }

    #[test]
    fn what_a_removal_leaves_decides() {
        use Change::{Demote, Remove};
        let refused = |code: &str| Some(code.to_owned());
        for change in [Remove, Demote] {
            assert_eq!(check("vvv", change, 3), ((2, 2, 2, Some(0)), refused("loses_fault_tolerance"), true));
            // A dead one may go: it only weighs on the majority.
            assert_eq!(check("vvV", change, 3), ((2, 2, 2, Some(0)), None, true));
            assert_eq!(check("vvVv", change, 3), ((3, 2, 3, Some(1)), None, true));
            // A live one beside a dead one may not, not even by force.
            assert_eq!(check("vvV", change, 2), ((2, 2, 1, None), refused("loses_quorum"), false));
            assert_eq!(
                check("vvvvv", change, 5),
                ((4, 3, 4, Some(1)), refused("loses_fault_tolerance"), true)
            );
            assert_eq!(check("vvvvV", change, 5), ((4, 3, 4, Some(1)), None, true));
            assert_eq!(check("v", change, 1), ((0, 1, 0, None), refused("last_voter"), false));
        }
        assert_eq!(check("vvvl", Remove, 4), ((3, 2, 3, Some(1)), None, true));
    }

    #[test]
    fn a_promotion_needs_a_learner_that_can_help() {
        use Change::Promote;
        assert_eq!(check("vvvl", Promote, 4), ((4, 3, 4, Some(1)), None, true));
        assert_eq!(check("vvVl", Promote, 4), ((4, 3, 3, Some(0)), None, true));
        let refused = Some("loses_fault_tolerance".to_owned());
        assert_eq!(check("vvvL", Promote, 4), ((4, 3, 3, Some(0)), refused, true));
        let refused = Some("loses_quorum".to_owned());
        assert_eq!(check("vL", Promote, 2), ((2, 2, 1, None), refused, false));
        let mut slow = members("vl");
        slow.entry(2).and_modify(|learner| learner.caught_up = false);
        let plan = plan(&slow, 1, Promote, 2).expect("a member");
        assert_eq!(plan.refusal(false).map(|concern| concern.code.as_str()), Some("not_caught_up"));
        assert!(plan.refusal(true).is_none());
    }

    #[test]
    fn what_is_so_already_is_no_change_and_what_is_nobody_is_said() {
        assert!(plan(&members("vl"), 1, Change::Promote, 1).expect("a member").already);
        assert!(plan(&members("vl"), 1, Change::Demote, 2).expect("a member").already);
        let why = plan(&members("vl"), 1, Change::Remove, 7).expect_err("nobody");
        assert!(why.contains("1, 2"), "{why}");
    }

    #[test]
    fn a_new_node_needs_a_new_id() {
        let taken = plan(&members("vvV"), 1, Change::Add, 3).expect("a plan");
        let refusal = taken.refusal(true).expect("refused");
        assert!(refusal.instead.contains('4'), "{refusal:?}");
        let added = plan(&members("vvV"), 1, Change::Add, 4).expect("a plan");
        assert_eq!((added.after.voters, added.after.live, added.refusal(false)), (4, 3, None));
        assert_eq!(added.join.len(), 2);
    }

    #[test]
    fn leaving_as_the_leader_is_said_and_even_numbers_are() {
        let plan = plan(&members("vvvv"), 1, Change::Remove, 1).expect("a member");
        assert!(plan.notes.iter().any(|note| note.contains("handed over first")), "{plan:?}");
        let plan = super::plan(&members("vvv"), 1, Change::Remove, 2).expect("a member");
        assert!(plan.notes.iter().any(|note| note.contains("2 voters")), "{plan:?}");
    }

    #[test]
    fn one_is_said_as_one_and_two_as_two() {
        let plan = |cluster, id| plan(&members(cluster), 1, Change::Remove, id).expect("a member");
        assert_eq!(
            plan("vvV", 3).notes.last().map(String::as_str),
            Some("1 of the voters does not answer now")
        );
        assert_eq!(
            plan("vvvVV", 5).notes.last().map(String::as_str),
            Some("2 of the voters do not answer now")
        );
        let why = |cluster, id| plan(cluster, id).unsafe_because[0].why.clone();
        assert!(why("vvV", 2).starts_with("of the 2 voters that there would be, 1 answers, and 2 must"));
        assert!(why("vvvvv", 5).starts_with("the cluster could bear the failure of 1 voter instead of 2"));
        assert!(why("vvv", 3).starts_with("the cluster could bear the failure of 0 voters instead of 1"));
    }
}
