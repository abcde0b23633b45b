//! `doctor`: looks at every node and says what is not as it should be, and what to do about it. It changes nothing.

use crate::{
    client::{Call, Client},
    output::Format,
    problem::{Exit, Failure, plain},
    status::differences_of,
    view::{Report, SILENT_MS, View, views},
};
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// A leader hands over beyond 500 ms; well before that a time service has work to do.
const CLOCK_OFF_MS: i64 = 100;
/// An order waits for one or two of them.
const SLOW_SYNC_MS: f64 = 50.0;
/// How many times the fastest disk's time is far above it.
const SLOW_SYNC_FACTOR: f64 = 5.0;
/// Entries: beyond it `/readyz` fails.
const BEHIND: u64 = 1_000;
/// Of the file system: log, snapshot and tables need room for a second copy now and then.
const DISK_FREE_SHARE: f64 = 0.10;
/// Connections are files, too; the default allows 8,192 of them.
const FILES_AT_LEAST: f64 = 10_000.0;
const FILES_FREE_SHARE: f64 = 0.2;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, for programs.
    pub check: &'static str,
    /// `None`: the whole cluster.
    pub node: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

/// What one node says of itself in `/metrics`.
pub type Metrics = BTreeMap<String, f64>;

/// All that was seen.
pub struct Seen {
    /// By endpoint; why where there is no answer.
    pub views: Vec<(String, Result<View, String>)>,
    /// By node, of those that answered.
    pub metrics: BTreeMap<u64, Metrics>,
}

impl Seen {
    /// The leader's view, which hears all; else that of whoever knows of the newest term.
    pub fn best(&self) -> Option<&View> {
        let views = self.views.iter().filter_map(|(_, view)| view.as_ref().ok());
        views.max_by_key(|view| (view.term, view.leader == Some(view.node_id)))
    }
}

/// Looks and prints.
///
/// # Errors
/// Nobody answers.
pub async fn run(client: &Client, format: Format) -> Result<Exit, Failure> {
    let findings = examine(&look(client).await?);
    let value = json!({ "findings": findings, "checked": CHECKS });
    format.print(&value, "findings", || text(&findings));
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Findings })
}

/// Asks every node for what it sees and what it spends.
///
/// # Errors
/// Nobody answers.
pub async fn look(client: &Client) -> Result<Seen, Failure> {
    let views = views(client).await;
    if views.iter().all(|(_, view)| view.is_err()) {
        let first = views.into_iter().find_map(|(_, view)| view.err());
        return Err(first.expect("there is at least one endpoint, and none answered"));
    }
    let asked = views.iter().filter_map(|(endpoint, view)| Some((endpoint, view.as_ref().ok()?.node_id)));
    let metrics =
        join_all(asked.map(|(endpoint, node)| async move { (node, metrics(client, endpoint).await) }));
    let metrics = metrics.await.into_iter().collect();
    let views = views
        .into_iter()
        .map(|(endpoint, view)| {
            let view = view.map_err(|failure| failure.of_node(&endpoint));
            (endpoint, view)
        })
        .collect();
    Ok(Seen { views, metrics })
}

async fn metrics(client: &Client, endpoint: &str) -> Metrics {
    let Ok(answer) = client.ask(endpoint, &Call::get("/metrics")).await else { return Metrics::new() };
    parse(&String::from_utf8_lossy(&answer.body))
}

/// Samples without labels.
fn parse(text: &str) -> Metrics {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

const CHECKS: [&str; 10] =
    ["leader", "unreachable", "quorum", "clock", "sync", "lag", "digest", "version", "disk", "files"];

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let node = finding.node.map_or("the cluster".to_owned(), |id| format!("node {id}"));
        let Finding { check, what, next, .. } = finding;
        out.push_str(&format!("FINDING: {check} ({node}): {what}\n  next: {next}\n"));
    }
    let clean = CHECKS.iter().filter(|check| findings.iter().all(|finding| finding.check != **check));
    let clean: Vec<&str> = clean.copied().collect();
    out.push_str(&format!(
        "nothing found: {}\n",
        if clean.is_empty() { "-".into() } else { clean.join(", ") }
    ));
    out
}

/// What is not as it should be in what was seen.
pub fn examine(seen: &Seen) -> Vec<Finding> {
    let views: Vec<&View> = seen.views.iter().filter_map(|(_, view)| view.as_ref().ok()).collect();
    let Some(best) = seen.best() else { return Vec::new() };
    let mut found = Vec::new();
    if best.leader.is_none() {
        found.push(Finding {
            check: "leader",
            node: None,
            what: "no node leads: writes and linearizable reads wait".into(),
            next: "start the voters that do not answer; where a majority of them is lost for good: stockroom recover".into(),
        });
    }
    unreachable(seen, best, &mut found);
    quorum(best, &mut found);
    for member in &best.members {
        if let Some(report) = &member.report {
            of_report(best, member.id, report, &mut found);
        }
    }
    for what in differences_of(&views) {
        let next = "stop nobody by hand: the odd one out of a majority stops itself; replace it: stockctl member replace ID";
        found.push(Finding { check: "digest", node: None, what, next: next.into() });
    }
    versions(best, &mut found);
    for (node, metrics) in &seen.metrics {
        machine(*node, metrics, &mut found);
    }
    found
}

fn unreachable(seen: &Seen, best: &View, found: &mut Vec<Finding>) {
    for why in seen.views.iter().filter_map(|(_, view)| view.as_ref().err()) {
        found.push(Finding {
            check: "unreachable",
            node: None,
            what: format!("no answer of {why}"),
            next: "see whether the node runs and its log, and whether --endpoints is right".into(),
        });
    }
    for member in best.members.iter().filter(|member| member.id != best.node_id) {
        let age = member.report.as_ref().map(|report| report.heard_ms_ago.unwrap_or(0));
        if age.is_none_or(|ms| ms > SILENT_MS) {
            let what = match age {
                Some(ms) => format!("node {} has not heard of it for {} s", best.node_id, ms / 1_000),
                None => format!("node {} has not heard of it", best.node_id),
            };
            found.push(Finding {
                check: "unreachable",
                node: Some(member.id),
                what,
                next: format!(
                    "start it again with its data directory; if that is gone: stockctl member replace {}",
                    member.id
                ),
            });
        }
    }
}

fn quorum(best: &View, found: &mut Vec<Finding>) {
    let voters: Vec<_> = best.members.iter().filter(|member| member.role == "voter").collect();
    let heard = |report: &Report| report.heard_ms_ago.unwrap_or(0) <= SILENT_MS;
    let live = voters
        .iter()
        .filter(|voter| voter.id == best.node_id || voter.report.as_ref().is_some_and(heard))
        .count();
    let majority = voters.len() / 2 + 1;
    if live <= majority {
        let what = if live < majority {
            format!("{live} of {} voters answer, {majority} are needed: nothing can be written", voters.len())
        } else {
            format!("{live} of {} voters answer, {majority} are needed: none of them may fail", voters.len())
        };
        let next = "bring back those that do not answer, or add a node: stockctl member add".into();
        found.push(Finding { check: "quorum", node: None, what, next });
    }
}

fn of_report(best: &View, id: u64, report: &Report, found: &mut Vec<Finding>) {
    let mut add = |check, what: String, next: &str| {
        found.push(Finding { check, node: Some(id), what, next: next.into() });
    };
    if let Some(off) = report.clock_offset_ms.as_i64().filter(|ms| ms.abs() > CLOCK_OFF_MS) {
        let next = "see that its time service (chrony, systemd-timesyncd) runs and has a source";
        add("clock", format!("its clock is {off} ms off the cluster's"), next);
    }
    if let Some(lag) = report.lag.as_u64().filter(|lag| *lag > BEHIND) {
        let next = "wait if it has just started and the number falls; else see its CPU, its disk and its log";
        add("lag", format!("it is {lag} entries behind the leader"), next);
    }
    let ms = |report: &Report| report.sync_us.map(|us| us as f64 / 1_000.0);
    let fastest =
        best.members.iter().filter_map(|member| ms(member.report.as_ref()?)).fold(f64::MAX, f64::min);
    if let Some(own) = ms(report).filter(|own| *own >= SLOW_SYNC_MS) {
        let far = if own >= fastest * SLOW_SYNC_FACTOR { ", far above the others'" } else { "" };
        let next = "see what else writes to its disk, and the disk's health (smartctl, iostat -x 1)";
        add("sync", format!("a sync of its log takes {own:.1} ms{far}"), next);
    }
}

fn versions(best: &View, found: &mut Vec<Finding>) {
    let reports = best.members.iter().filter_map(|member| member.report.as_ref());
    let versions: BTreeSet<String> = reports.map(|report| plain(&report.version)).collect();
    if versions.len() > 1 {
        let list: Vec<String> = versions.into_iter().collect();
        found.push(Finding {
            check: "version",
            node: None,
            what: format!("the nodes run different versions: {}", list.join(", ")),
            next: "finish the upgrade: restart the older ones with the newer program, one after the other (stockctl upgrade check)"
                .into(),
        });
    }
    let serves = best.members.iter().map(|member| member.report.as_ref()?.serves);
    let newest =
        serves.collect::<Option<Vec<_>>>().and_then(|all| all.iter().map(|serves| serves.newest).min());
    if let (Some(in_force), Some(newest)) = (best.cluster_version.as_u64(), newest)
        && newest > in_force
    {
        found.push(Finding {
            check: "version",
            node: None,
            what: format!("all nodes serve cluster version {newest}, and {in_force} is in force: the upgrade is not finalised"),
            next: "once nobody wants to go back: stockctl upgrade check, stockctl upgrade finalize".into(),
        });
    }
}

fn machine(node: u64, metrics: &Metrics, found: &mut Vec<Finding>) {
    let get = |name: &str| metrics.get(name).copied();
    if let (Some(free), Some(total)) = (get("stockroom_disk_free_bytes"), get("stockroom_disk_bytes"))
        && total > 0.0
        && free / total < DISK_FREE_SHARE
    {
        found.push(Finding {
            check: "disk",
            node: Some(node),
            what: format!(
                "{:.1} % of the disk of its data directory are free ({:.1} GiB)",
                free / total * 100.0,
                free / f64::from(1 << 30)
            ),
            next: "make room, or move the data directory of the stopped node to a larger disk".into(),
        });
    }
    if let (Some(open), Some(most)) = (get("process_open_fds"), get("process_max_fds")) {
        let next = "raise the limit (LimitNOFILE= of systemd, ulimit -n) above http_connections_max and restart the node";
        let too_few = most < FILES_AT_LEAST;
        if too_few || open > most * (1.0 - FILES_FREE_SHARE) {
            let what = format!("it may open {most:.0} files and has {open:.0} open");
            found.push(Finding { check: "files", node: Some(node), what, next: next.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn view(node: u64, change: impl Fn(&mut Value)) -> View {
        let member = |id: u64| {
            json!({"id": id, "http_address": "h:1", "peer_address": "p:1", "role": "voter",
                "report": {"applied_index": 7, "digest": "d", "state_hash": "s", "lag": 0, "version": "0.1.0", "heard_ms_ago": 5, "serves": {"oldest": 1, "newest": 1},
                    "clock_offset_ms": 3, "sync_us": 900}})
        };
        let mut view = json!({"cluster_id": "c", "node_id": node, "leader": 1, "term": 4, "cluster_version": 1, "members": [member(1), member(2), member(3)]});
        change(&mut view);
        serde_json::from_value(view).unwrap()
    }

    fn checks(change: impl Fn(&mut Value), metrics: &str) -> Vec<(&'static str, Option<u64>)> {
        let views = vec![("http://a".into(), Ok(view(1, change)))];
        let seen = Seen { views, metrics: BTreeMap::from([(1, parse(metrics))]) };
        examine(&seen).iter().map(|finding| (finding.check, finding.node)).collect()
    }

    #[test]
    fn each_check_finds_what_it_is_for_and_nothing_else() {
        let fine = "# HELP x y\nprocess_max_fds 65536\nprocess_open_fds 80\nstockroom_disk_free_bytes 50\nstockroom_disk_bytes 100\n";
        assert_eq!(checks(|_| {}, fine), []);
        let report = |name: &'static str, value: Value| {
            move |view: &mut Value| view["members"][2]["report"][name] = value.clone()
        };
        assert_eq!(checks(report("clock_offset_ms", json!(-400)), fine), [("clock", Some(3))]);
        assert_eq!(checks(report("sync_us", json!(80_000)), fine), [("sync", Some(3))]);
        assert_eq!(checks(report("lag", json!(5_000)), fine), [("lag", Some(3))]);
        assert_eq!(checks(report("version", json!("0.2.0")), fine), [("version", None)]);
        let next = |ids: &'static [usize]| {
            move |view: &mut Value| {
                ids.iter().for_each(|id| view["members"][id]["report"]["serves"]["newest"] = json!(2));
            }
        };
        assert_eq!(checks(next(&[0, 1, 2]), fine), [("version", None)], "nobody finalised");
        assert_eq!(
            checks(next(&[0, 1]), fine),
            [],
            "in the midst of it: the versions of the programs differ"
        );
        let silent = checks(report("heard_ms_ago", json!(60_000)), fine);
        assert_eq!(silent, [("unreachable", Some(3)), ("quorum", None)]);
        assert_eq!(checks(report("digest", json!("other")), fine), [("digest", None); 2]);
        assert_eq!(checks(|view| view["leader"] = Value::Null, fine), [("leader", None)]);
        assert_eq!(
            checks(|_| {}, "stockroom_disk_free_bytes 5\nstockroom_disk_bytes 100"),
            [("disk", Some(1))]
        );
        assert_eq!(checks(|_| {}, "process_max_fds 1024\nprocess_open_fds 80"), [("files", Some(1))]);
        assert_eq!(checks(|_| {}, "process_max_fds 65536\nprocess_open_fds 60000"), [("files", Some(1))]);
    }

    #[test]
    fn an_endpoint_that_does_not_answer_is_found() {
        let views = vec![
            ("http://a".into(), Ok(view(1, |_| {}))),
            ("http://b".into(), Err("http://b: refused".into())),
        ];
        let found = examine(&Seen { views, metrics: BTreeMap::new() });
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("http://b") && !found[0].next.is_empty());
    }
}
