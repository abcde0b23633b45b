//! The times of faults: each nemesis acts in turns of its own, apart from the others.

use super::recorder::Recorder;
use crate::cluster::Cluster;
use crate::history::Fault;
use crate::nemesis::{Entry, Nemesis};
use anyhow::Context as _;
use rand::Rng as _;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon a nemesis that found nothing to do tries again.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// How long one injection, and one healing, may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long faults last and how long the pauses between them are, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rhythm {
    hold: (u64, u64),
    pause: (u64, u64),
}

impl Rhythm {
    /// So that each nemesis acts several times, also in a short run.
    fn of(time_s: u64) -> Self {
        let hold_max = (time_s * 1_000 / 8).clamp(1_500, 8_000);
        let pause_max = (time_s * 1_000 / 16).clamp(1_000, 4_000);
        Rhythm { hold: (1_000, hold_max), pause: (500, pause_max) }
    }
}

fn between((from, to): (u64, u64), rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(from..=to))
}

/// One nemesis, until the deadline: quiet, then inject, hold, heal and pause in turns. What it began is
/// healed when this returns.
///
/// # Errors
/// Where the harness itself cannot inject or heal: a fault that is not injected is no test.
pub async fn run(
    entry: &'static Entry,
    cluster: Arc<Cluster>,
    recorder: Arc<Recorder>,
    mut rng: StdRng,
    time_s: u64,
    deadline: Instant,
) -> anyhow::Result<()> {
    let rhythm = Rhythm::of(time_s);
    let mut nemesis = (entry.make)();
    pause(between((1_000, 2_500), &mut rng), deadline).await;
    while Instant::now() < deadline {
        let hold = Duration::from_millis(rng.random_range(rhythm.hold.0..=rhythm.hold.1));
        let acted = once(entry, nemesis.as_mut(), &cluster, &recorder, &mut rng, (hold, deadline)).await?;
        let rest = if acted { between(rhythm.pause, &mut rng) } else { TRY_AGAIN };
        pause(rest, deadline).await;
    }
    Ok(())
}

async fn pause(time: Duration, deadline: Instant) {
    tokio::time::sleep_until((Instant::now() + time).min(deadline).into()).await;
}

/// One fault; `false` where there was nothing to be done to.
async fn once(
    entry: &'static Entry,
    nemesis: &mut dyn Nemesis,
    cluster: &Cluster,
    recorder: &Recorder,
    rng: &mut StdRng,
    (hold, deadline): (Duration, Instant),
) -> anyhow::Result<bool> {
    let from = recorder.now();
    let injected = tokio::time::timeout(PATIENCE, nemesis.inject(cluster, rng))
        .await
        .with_context(|| format!("nemesis {} did not inject within {PATIENCE:?}", entry.name))?
        .with_context(|| format!("nemesis {} cannot inject", entry.name))?;
    let Some(injected) = injected else { return Ok(false) };
    let hold = injected.hold_ms.map_or(hold, Duration::from_millis);
    let place = recorder.fault_began(Fault {
        nemesis: entry.name.to_owned(),
        kind: entry.kind.to_owned(),
        what: injected.what,
        nodes: injected.nodes,
        from,
        until: None,
        effective: false,
        evidence: "not healed yet".to_owned(),
    });
    pause(hold, deadline).await;
    let effect = tokio::time::timeout(PATIENCE, nemesis.heal(cluster))
        .await
        .with_context(|| format!("nemesis {} did not heal within {PATIENCE:?}", entry.name))?
        .with_context(|| format!("nemesis {} cannot heal", entry.name))?;
    recorder.fault_ended(place, effect);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nemesis_acts_several_times_in_a_run_of_any_length() {
        for time_s in [20, 30, 60, 120, 600] {
            let Rhythm { hold, pause } = Rhythm::of(time_s);
            let longest_turn_ms = hold.1 + pause.1;
            assert!(longest_turn_ms * 3 <= time_s * 1_000, "{time_s} s: turns of {longest_turn_ms} ms");
            assert!(hold.0 <= hold.1 && pause.0 <= pause.1);
        }
    }
}
