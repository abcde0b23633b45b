//! `/v1/cluster/settings`: what holds for the whole cluster, whichever node is asked.

use crate::answer::Answer;
use crate::door::Asked;
use crate::json::{self, Number};
use crate::problem::Problem;
use crate::query::Query;
use crate::{consistency, headers, render, writes};
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use stockroom_storage::codec;
use stockroom_storage::shop::command::{Command, Settings};
use stockroom_storage::shop::effect::Reply;
use stockroom_storage::shop::ids::IdempotencyKey;

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

/// New values; what is `None` stays as it is.
struct Change {
    receipt_retention_ms: Option<u64>,
    releases_per_step: Option<u32>,
    receipt_drops_per_step: Option<u32>,
    metadata_entries: Option<u32>,
}

impl Change {
    fn parse(body: &[u8], depth: usize) -> Result<Self, Problem> {
        let body: ChangeBody = json::parse(body, depth)?;
        Ok(Change {
            receipt_retention_ms: value(
                body.receipt_retention_ms,
                RECEIPT_RETENTION_MS,
                "receipt_retention_ms",
            )?,
            releases_per_step: value(body.releases_per_step, RELEASES_PER_STEP, "releases_per_step")?,
            receipt_drops_per_step: value(
                body.receipt_drops_per_step,
                RECEIPT_DROPS_PER_STEP,
                "receipt_drops_per_step",
            )?,
            metadata_entries: value(body.metadata_entries, METADATA_ENTRIES, "metadata_entries")?,
        })
    }

    fn of(&self, now: &Settings) -> Settings {
        Settings {
            receipt_retention_ms: self.receipt_retention_ms.unwrap_or(now.receipt_retention_ms),
            releases_per_step: self.releases_per_step.unwrap_or(now.releases_per_step),
            receipt_drops_per_step: self.receipt_drops_per_step.unwrap_or(now.receipt_drops_per_step),
            metadata_entries: self.metadata_entries.unwrap_or(now.metadata_entries),
        }
    }
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

fn answer(settings: &Settings) -> Answer {
    let Settings { receipt_retention_ms, releases_per_step, receipt_drops_per_step, metadata_entries } =
        *settings;
    let body =
        SettingsBody { receipt_retention_ms, releases_per_step, receipt_drops_per_step, metadata_entries };
    Answer::json(render::json(&body, 128))
}

pub(crate) async fn get(asked: &Asked<'_>) -> Result<Answer, Problem> {
    Query::parse(asked.query, &[])?;
    let (settings, shown) =
        consistency::point(asked.cluster, asked.level, asked.deadline, |view| Ok(view.head()?.settings))
            .await?;
    Ok(answer(&settings).shown(shown))
}

/// The command replaces all settings, so those that the request leaves out are read first. Nothing keeps two changes
/// from being made of the same settings: the later one stands.
pub(crate) async fn change(asked: &Asked<'_>, key: IdempotencyKey, body: &[u8]) -> Result<Answer, Problem> {
    headers::no_precondition(asked.headers)?;
    let change = Change::parse(body, asked.limits().json_depth)?;
    let ((now, kept), shown) =
        consistency::point(asked.cluster, consistency::Level::Linearizable, asked.deadline, |view| {
            Ok((view.head()?.settings, view.outcome(&key)?))
        })
        .await?;
    let settings = change.of(&now);
    // Sent again after another setting was changed, it would be another command under its key.
    if settings == now && matches!(kept, Some((_, Some(Ok(Reply::Done))))) {
        return Ok(Answer { replayed: true, ..answer(&now).shown(shown) });
    }
    let proposal = codec::encode_proposal(Some(key.clone()), Command::Configure(settings.clone()));
    let (decided, shown) = writes::propose(asked, proposal, &key).await?;
    if let Err(rejection) = &decided.outcome {
        return Err(Problem::from(rejection).shown(shown).replayed(decided.replayed));
    }
    if !decided.replayed {
        tracing::info!(request_id = asked.request_id, ?settings, "settings of the cluster changed");
    }
    // The same command stands under the key, so a replay says what was said then.
    Ok(Answer { replayed: decided.replayed, ..answer(&settings).shown(shown) })
}
