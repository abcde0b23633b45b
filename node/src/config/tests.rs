use super::*;
use clap::{Args, FromArgMatches};
use std::io::Write as _;

fn args(flags: &[&str]) -> ConfigArgs {
    let command = ConfigArgs::augment_args(clap::Command::new("serve"));
    let words = std::iter::once("serve").chain(flags.iter().copied());
    let matches = command.try_get_matches_from(words).expect("flags of the table");
    ConfigArgs::from_arg_matches(&matches).expect("matches of the table")
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for it");
    file
}

fn error(flags: &[&str], variables: &[(&str, &str)]) -> String {
    args(flags).resolve_with(environment(variables)).expect_err("must be refused").to_string()
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let file = file("shutdown_drain_ms = 1\nrequest_timeout_ms = 11\njson_depth_max = 5");
    let path = file.path().to_str().expect("UTF-8");
    let variables =
        environment(&[("STOCKROOM_SHUTDOWN_DRAIN_MS", "2"), ("STOCKROOM_REQUEST_TIMEOUT_MS", "22")]);
    let (config, resolved) =
        args(&["--config", path, "--shutdown-drain-ms", "3"]).resolve_with(variables).expect("valid");
    assert_eq!(
        (
            config.shutdown_drain_ms,
            config.request_timeout_ms,
            config.json_depth_max,
            config.heartbeat_interval_ms
        ),
        (3, 22, 5, 150)
    );
    let printed = print_effective(&resolved);
    for (name, source) in [
        ("shutdown_drain_ms = 3", "ms, --shutdown-drain-ms"),
        ("request_timeout_ms = 22", "STOCKROOM_REQUEST_TIMEOUT_MS"),
        ("json_depth_max = 5", path),
        ("heartbeat_interval_ms = 150", "ms, default"),
    ] {
        let line = printed.lines().find(|line| line.starts_with(name)).expect(name);
        assert!(line.ends_with(source), "{line} must end with {source}");
    }
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let file = file("node_id = 7");
    let path = file.path().to_str().expect("UTF-8");
    let (config, _) =
        args(&[]).resolve_with(environment(&[("STOCKROOM_CONFIG", path)])).expect("a file by variable");
    assert_eq!(config.node_id, Some(7));
}

#[test]
fn an_unknown_key_or_variable_names_the_nearest() {
    let told = error(&[], &[("STOCKROOM_HTTP_LISTN", "127.0.0.1:1")]);
    assert!(told.contains("STOCKROOM_HTTP_LISTN") && told.contains("\"STOCKROOM_HTTP_LISTEN\""), "{told}");
    let file = file("memtable_max_byte = 1000000");
    let told = error(&["--config", file.path().to_str().expect("UTF-8")], &[]);
    assert!(told.contains("\"memtable_max_byte\"") && told.contains("\"memtable_max_bytes\""), "{told}");
}

#[test]
fn variables_of_stockctl_and_of_kubernetes_are_left_alone() {
    let variables = environment(&[
        ("STOCKROOM_ENDPOINTS", "127.0.0.1:8081"),
        ("STOCKROOM_SERVICE_HOST", "10.0.0.1"),
        ("STOCKROOM_PEERS_SERVICE_PORT_HTTP", "8081"),
        ("STOCKROOM_PORT", "tcp://10.0.0.1:8081"),
        ("STOCKROOM_PORT_8081_TCP_ADDR", "10.0.0.1"),
    ]);
    args(&[]).resolve_with(variables).expect("none of them is a setting");
}

#[test]
fn a_bad_value_names_its_source_and_what_is_allowed() {
    let told = error(&["--json-depth-max", "3"], &[]);
    assert_eq!(told, "--json-depth-max: json_depth_max must be 4 to 120 levels, not 3");
    let told = error(&[], &[("STOCKROOM_LOG_FORMAT", "xml")]);
    assert_eq!(told, "STOCKROOM_LOG_FORMAT: log_format must be auto, text or json, not \"xml\"");
    assert!(error(&["--http-listen", "8081"], &[]).contains("host:port"));
    assert!(error(&["--node-id", "0"], &[]).contains("must be 1 to"));
    assert!(error(&["--member", "x=127.0.0.1:1"], &[]).contains("id=host:port"));
    let file = file("http_listen = 8081");
    assert!(error(&["--config", file.path().to_str().expect("UTF-8")], &[]).contains("a string in quotes"));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert!(error(&["--election-timeout-min-ms", "2000"], &[]).contains("below election_timeout_max_ms"));
    assert!(error(&["--heartbeat-interval-ms", "400"], &[]).contains("twice heartbeat_interval_ms"));
    assert!(error(&["--log-segment-bytes", "1048576"], &[]).contains("must hold an entry"));
    assert!(error(&["--memtable-max-bytes", "1048576"], &[]).contains("at least checkpoint_bytes"));
    assert!(error(&["--peer-listen", "127.0.0.1:8081"], &[]).contains("are both"));
}

#[test]
fn lists_are_separated_by_commas_or_by_repeated_flags() {
    let (config, _) =
        args(&["--join", "a:1,b:2", "--join", "[::1]:3", "--member", "1=a:1", "--member", "2=b:2"])
            .resolve_with([])
            .expect("valid");
    let join: Vec<_> = config.join.iter().map(Address::as_str).collect();
    assert_eq!(join, ["a:1", "b:2", "[::1]:3"]);
    assert_eq!(
        config.bootstrap.iter().map(|m| (m.id, m.address.as_str())).collect::<Vec<_>>(),
        [(1, "a:1"), (2, "b:2")]
    );
}

/// To write the file anew: `cargo run -- config --template > deploy/stockroom.toml`.
#[test]
fn the_commented_file_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/stockroom.toml");
    let text = std::fs::read_to_string(path).expect("deploy/stockroom.toml");
    // Line by line, so that a failure shows the line and not two whole files.
    for (number, (in_file, in_table)) in text.lines().zip(template().lines()).enumerate() {
        assert_eq!(in_file, in_table, "line {}", number + 1);
    }
    assert_eq!(text.len(), template().len(), "one of them goes on where the other ends");
}

#[test]
fn every_default_in_the_commented_file_is_valid_and_the_default() {
    let mut text = String::new();
    for line in template().lines() {
        let Some(line) = line.strip_prefix("# ") else { continue };
        let is_assignment = SETTINGS.iter().any(|s| line.starts_with(&format!("{} =", s.name)));
        if is_assignment && !line.ends_with('=') {
            text.push_str(line);
            text.push('\n');
        }
    }
    // Without a default: what the node is, and what depends on its disk.
    let has_default = |name| !["node_id", "disk_low_bytes", "disk_full_bytes"].contains(&name);
    assert_eq!(text.lines().count(), SETTINGS.iter().filter(|s| has_default(s.name)).count());
    let file = file(&text);
    let from_file =
        args(&["--config", file.path().to_str().expect("UTF-8")]).resolve_with([]).expect("valid").0;
    assert_eq!(from_file, args(&[]).resolve_with([]).expect("valid").0);
}
