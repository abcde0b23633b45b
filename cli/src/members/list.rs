//! `member list`: every member, what it last said of itself, and what the cluster can bear.

use super::plan::Quorum;
use crate::{
    client::Client,
    output::{Format, Table},
    problem::{Exit, Failure, plain},
    view::{self, Member, Report, View, answers},
};
use serde_json::{Value, json};

/// `stockctl member list`, `stockctl members`
///
/// # Errors
/// Nobody answers.
pub async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let view = view::best(client).await?;
    let quorum = Quorum::seen(&view);
    let members: Vec<Value> = view.members.iter().map(|member| as_json(&view, member)).collect();
    let value = json!({
        "cluster_id": view.cluster_id, "leader": view.leader, "term": view.term, "quorum": quorum, "members": members,
    });
    format.print(&value, "members", || format!("{}{}\n", table(&view).render(), quorum.text()));
    Ok(if view.leader.is_some() { Exit::Ok } else { Exit::Unavailable })
}

fn as_json(view: &View, member: &Member) -> Value {
    let report = member.report.as_ref();
    json!({
        "id": member.id, "role": member.role, "leads": view.leader == Some(member.id), "answers": answers(view, member),
        "peer_address": member.peer_address, "http_address": member.http_address,
        "applied_index": report.map(|r| r.applied_index), "lag": report.map(|r| &r.lag),
        "sync_us": report.map(|r| &r.sync_us), "clock_offset_ms": report.map(|r| &r.clock_offset_ms),
        "version": report.map(|r| &r.version), "serves": report.and_then(|r| r.serves), "heard_ms_ago": report.and_then(|r| r.heard_ms_ago),
    })
}

fn table(view: &View) -> Table {
    let columns = [
        ">NODE",
        "ROLE",
        "PEER",
        "HTTP",
        "ANSWERS",
        ">APPLIED",
        ">LAG",
        ">SYNC MS",
        ">CLOCK OFF MS",
        "VERSION",
        "SERVES",
        ">HEARD MS AGO",
    ];
    let mut table = Table::new(&columns);
    for member in &view.members {
        let report = |of: fn(&Report) -> String| member.report.as_ref().map_or("-".into(), of);
        let role = if view.leader == Some(member.id) { "leader" } else { &member.role };
        table.row(vec![
            member.id.to_string(),
            role.into(),
            member.peer_address.clone(),
            member.http_address.clone(),
            if answers(view, member) { "yes" } else { "no" }.into(),
            report(|r| r.applied_index.to_string()),
            report(|r| plain(&r.lag)),
            report(|r| r.sync_us.map_or("-".into(), |us| format!("{:.1}", us as f64 / 1_000.0))),
            report(|r| plain(&r.clock_offset_ms)),
            report(|r| plain(&r.version)),
            report(|r| r.serves.map_or("-".into(), |serves| serves.to_string())),
            report(|r| r.heard_ms_ago.map_or("-".into(), |ms| ms.to_string())),
        ]);
    }
    table
}
