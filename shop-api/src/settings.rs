//! `/v1/cluster/settings`: what holds for the whole cluster, whichever node is asked.

use crate::answer::Answer;
use crate::door::Asked;
use crate::json::{self, Number};
use crate::limits::Limits;
use crate::problem::Problem;
use crate::query::Query;
use crate::{consistency, render};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use stockroom_storage::shop::command::{Command, Settings, SettingsChange};

/// Shorter, and a client that tries again after a failover may find its key forgotten, and do its write twice. Longer, and
/// what is kept under keys outgrows the shop.
const RECEIPT_RETENTION_MS: (i64, i64) = (60_000, 90 * 24 * 60 * 60 * 1000);
/// More would make one entry slow for all that is in it; none would free nothing.
const RELEASES_PER_STEP: (i64, i64) = (1, 100_000);
/// With one an entry, dropping would never catch up.
const RECEIPT_DROPS_PER_STEP: (i64, i64) = (2, 1_000);
/// As many as a node's own setting may allow.
const METADATA_ENTRIES: (i64, i64) = (0, 1_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    receipt_retention_ms: Option<Number>,
    releases_per_step: Option<Number>,
    receipt_drops_per_step: Option<Number>,
    metadata_entries: Option<Number>,
}

pub(crate) fn change(limits: &Limits, body: &[u8]) -> Result<Command, Problem> {
    let body: ChangeBody = json::parse(body, limits.json_depth)?;
    Ok(Command::Configure(SettingsChange {
        receipt_retention_ms: value(body.receipt_retention_ms, RECEIPT_RETENTION_MS, "receipt_retention_ms")?,
        releases_per_step: value(body.releases_per_step, RELEASES_PER_STEP, "releases_per_step")?,
        receipt_drops_per_step: value(
            body.receipt_drops_per_step,
            RECEIPT_DROPS_PER_STEP,
            "receipt_drops_per_step",
        )?,
        metadata_entries: value(body.metadata_entries, METADATA_ENTRIES, "metadata_entries")?,
    }))
}

fn value<T>(number: Option<Number>, (least, most): (i64, i64), name: &str) -> Result<Option<T>, Problem>
where
    T: TryFrom<i64, Error: Debug>,
{
    let Some(number) = number else { return Ok(None) };
    let value = number.within(least, most, || name.into())?;
    Ok(Some(T::try_from(value).expect("its range was checked a line above")))
}

#[derive(Serialize)]
struct SettingsBody {
    receipt_retention_ms: u64,
    releases_per_step: u32,
    receipt_drops_per_step: u32,
    metadata_entries: u32,
}

/// Those in force, as they are answered.
pub(crate) fn body(settings: &Settings) -> Vec<u8> {
    let Settings { receipt_retention_ms, releases_per_step, receipt_drops_per_step, metadata_entries } =
        *settings;
    let body =
        SettingsBody { receipt_retention_ms, releases_per_step, receipt_drops_per_step, metadata_entries };
    render::json(&body, 128)
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let (settings, shown) =
        consistency::point(asked.cluster, asked.level, asked.deadline, |view| Ok(view.head()?.settings))
            .await?;
    Ok(Answer::json(body(&settings)).shown(shown))
}
