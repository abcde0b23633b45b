//! `stockroom bootstrap`: forms a new cluster exactly once.

use crate::config::{Config, ConfigError};
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

/// Forms the cluster of the members that `config` lists, and prints its id. All of them are asked first; where they
/// are a cluster already, nothing happens and its id is printed.
///
/// # Errors
/// Where a member does not answer in time, or belongs to another cluster.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let members = members(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let deadline = Duration::from_millis(config.bootstrap_timeout_ms);
    let formed = runtime.block_on(form(&members, deadline))?;
    eprintln!("{}", if formed.already { "these nodes are a cluster already" } else { "cluster formed" });
    println!("{:032x}", formed.cluster_id);
    Ok(ExitCode::SUCCESS)
}

fn members(config: &Config) -> Result<Vec<(u64, String)>, ConfigError> {
    if config.bootstrap.is_empty() {
        return Err(ConfigError::Missing { name: "bootstrap" });
    }
    let mut members: Vec<_> = config.bootstrap.iter().map(|m| (m.id, m.address.to_string())).collect();
    members.sort();
    if let Some(twice) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let why = format!("bootstrap names node {} twice", twice[0].0);
        return Err(ConfigError::Contradiction(why));
    }
    Ok(members)
}

/// The same for the playground.
pub async fn form(members: &[(u64, String)], within: Duration) -> anyhow::Result<stockroom_raft::Formed> {
    Ok(stockroom_raft::bootstrap(members, Instant::now() + within).await?)
}
