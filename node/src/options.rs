//! Settings as the crates below take them: plain values, passed down.

use crate::config::Config;
use std::num::TryFromIntError;
use std::time::Duration;
use stockroom_raft::RaftOptions;
use stockroom_shop_api::Limits;
use stockroom_storage::StorageOptions;
use stockroom_storage::log_store::LogOptions;

/// What a request may be at most.
///
/// # Errors
/// Where a number is too large for this machine's words.
pub fn limits(config: &Config) -> Result<Limits, TryFromIntError> {
    Ok(Limits {
        body_bytes: config.body_max_bytes.try_into()?,
        batch_body_bytes: config.batch_body_max_bytes.try_into()?,
        json_depth: config.json_depth_max.try_into()?,
        lines: config.lines_max.try_into()?,
        skus_per_read: config.read_skus_max.try_into()?,
        id_bytes: config.id_max_bytes.try_into()?,
        metadata_entries: config.metadata_entries_max.try_into()?,
        metadata_bytes: config.metadata_max_bytes.try_into()?,
        attributes_bytes: config.attributes_max_bytes.try_into()?,
        text_bytes: config.text_max_bytes.try_into()?,
        batch_commands: config.batch_commands_max.try_into()?,
        page_rows: config.page_rows_max.try_into()?,
        timeout: Duration::from_millis(config.request_timeout_ms),
        ..Limits::default()
    })
}

/// How this node takes part in replication, and where it keeps its log and tables.
///
/// # Errors
/// Where a number is too large for this machine's words.
pub fn raft_options(config: &Config, node_id: u64) -> Result<RaftOptions, TryFromIntError> {
    Ok(RaftOptions {
        peer_address: config.peer_address().to_string(),
        http_address: config.http_address().to_string(),
        version: crate::VERSION.to_owned(),
        join: config.join.iter().map(ToString::to_string).collect(),
        initial_cluster: config.initial_cluster.iter().map(|m| (m.id, m.address.to_string())).collect(),
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        election_timeout_min_ms: config.election_timeout_min_ms,
        election_timeout_max_ms: config.election_timeout_max_ms,
        proposals_in_flight: config.proposals_in_flight_max.try_into()?,
        bytes_in_flight: config.proposal_bytes_in_flight_max.try_into()?,
        max_entry_bytes: config.entry_max_bytes.try_into()?,
        max_entry_proposals: config.entry_proposals_max.try_into()?,
        entries_in_flight: config.entries_in_flight_max.try_into()?,
        // Half of the time is for requests, half for the log.
        drain_timeout_ms: config.shutdown_drain_ms / 2,
        ..RaftOptions::new(node_id, config.data_dir.clone(), storage_options(config)?)
    })
}

fn storage_options(config: &Config) -> Result<StorageOptions, TryFromIntError> {
    Ok(StorageOptions {
        log: LogOptions {
            segment_bytes: config.log_segment_bytes,
            cache_bytes: config.log_cache_bytes.try_into()?,
        },
        checkpoint_bytes: config.checkpoint_bytes.try_into()?,
        checkpoint_interval: Duration::from_millis(config.checkpoint_interval_ms),
        memtable_max_bytes: config.memtable_max_bytes.try_into()?,
        sled_cache_bytes: config.sled_cache_bytes,
        shelf_segment_bytes: config.shelf_segment_bytes,
        snapshot_min_log_bytes: config.snapshot_min_log_bytes,
        purge_margin_bytes: config.log_keep_bytes,
        purge_margin_entries: config.log_keep_entries,
        ..StorageOptions::new(&config.data_dir)
    })
}
