//! `serve`, `bootstrap` and `config` as whoever runs them sees them.

use crate::harness::{Cluster, Server, alone, free_ports, stderr, stockroom, until};
use serde_json::json;

#[tokio::test]
async fn a_misspelt_variable_is_refused_with_the_nearest_one() {
    let output = stockroom(&["serve", "--node-id", "1"], &[("STOCKROOM_DATA_DRI", "/nowhere")]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean \"STOCKROOM_DATA_DIR\""), "{}", stderr(&output));
}

#[tokio::test]
async fn a_misspelt_key_in_the_file_is_refused_with_the_nearest_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("stockroom.toml");
    std::fs::write(&file, "node_id = 1\nhttp_lissten = \"127.0.0.1:1\"\n").expect("room");
    let output = stockroom(&["serve", "--config", file.to_str().expect("UTF-8")], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean \"http_listen\""), "{}", stderr(&output));
}

#[tokio::test]
async fn settings_are_taken_from_flags_then_variables_then_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("stockroom.toml");
    std::fs::write(&file, "shutdown_drain_ms = 1\nrequest_timeout_ms = 11\n").expect("room");
    let file = file.to_str().expect("UTF-8");
    let variables = [("STOCKROOM_CONFIG", file), ("STOCKROOM_SHUTDOWN_DRAIN_MS", "2")];
    let output = stockroom(&["config", "--node-id", "3"], &variables).await;
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    for (setting, source) in [
        ("node_id = 3", "--node-id"),
        ("shutdown_drain_ms = 2", "STOCKROOM_SHUTDOWN_DRAIN_MS"),
        ("request_timeout_ms = 11", file),
        ("log_format = \"auto\"", "default"),
    ] {
        let line = printed.lines().find(|line| line.starts_with(setting)).expect(setting);
        assert!(line.ends_with(source), "{line}");
    }
}

#[tokio::test]
async fn serve_without_a_node_id_says_how_to_give_one() {
    let output = stockroom(&["serve"], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--node-id, STOCKROOM_NODE_ID"), "{}", stderr(&output));
}

#[tokio::test]
async fn an_address_in_use_is_named_and_no_data_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let data_dir = data.to_str().expect("UTF-8");
    let args = ["serve", "--node-id", "1", "--data-dir", data_dir, "--http-listen", &address];
    let output = stockroom(&args, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_lives_is_not_ready_and_stops_cleanly() {
    let _alone = alone().await;
    let dir = tempfile::tempdir().expect("a directory");
    let port = free_ports(2);
    let mut node = Server::new(1, dir.path(), port, port + 1, &[]);
    node.start();
    until("it lives", || async { node.get("/livez").await.filter(|(status, _)| *status == 200) }).await;
    let (status, told) = node.get("/readyz?verbose").await.expect("an answer");
    assert_eq!(status, 503);
    assert!(told.to_string().contains("stockroom bootstrap"), "{told}");
    assert_eq!(node.terminate().await, Some(0), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_formed_once() {
    let mut cluster = Cluster::of_three(&[]).await;
    assert_eq!(cluster.id.len(), 32, "{}", cluster.id);
    let again = cluster.bootstrap().await;
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim(), cluster.id);
    assert!(stderr(&again).contains("already"), "{}", stderr(&again));
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_the_leader_over_and_ends_with_0() {
    let mut cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(100).await;
    let mut orders = cluster.orders("before", 10).await;
    let leader = cluster.leader().await;
    let log = cluster.nodes[leader].log();
    assert_eq!(cluster.nodes[leader].terminate().await, Some(0), "{log}");
    assert!(!cluster.nodes[leader].log().contains("ERROR"), "a stop in order is no error: {log}");
    orders.extend(cluster.orders("after", 10).await);
    cluster.nodes[leader].start();
    cluster.wait_until_ready().await;
    cluster.assert_kept(&orders, 100).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_prometheus_text_with_help_and_units() {
    let cluster = Cluster::of_three(&[]).await;
    cluster.stock_mugs(10).await;
    cluster.order("one").await;
    let (status, body) = cluster.nodes[0].get("/metrics").await.expect("an answer");
    let text = body.as_str().expect("text");
    assert_eq!(status, 200);
    let names: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.contains(&"stockroom_build_info"), "{text}");
    for name in names {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    let bad = cluster.nodes[0].post("/v1/orders", Some("bad"), &json!({"lines": []})).await;
    assert!(bad.expect("an answer").0 >= 400);
}

#[tokio::test]
async fn an_address_that_names_no_place_is_not_told_to_others() {
    for (listen, advertise) in [("--http-listen", "http_advertise"), ("--peer-listen", "peer_advertise")] {
        for anywhere in ["0.0.0.0:18999", "[::]:18999", "127.0.0.1:0"] {
            let output = stockroom(&["config", "--node-id", "1", listen, anywhere], &[]).await;
            assert_eq!(output.status.code(), Some(2), "{listen} {anywhere}");
            assert!(stderr(&output).contains(&format!("give {advertise}")), "{}", stderr(&output));
        }
    }
    let listens = ["--http-listen", "0.0.0.0:18999", "--http-advertise", "shop-1:18999"];
    let output = stockroom(&[&["config", "--node-id", "1"], &listens[..]].concat(), &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test]
async fn a_filter_of_the_log_that_is_none_is_refused_with_the_settings() {
    let output = stockroom(&["config", "--node-id", "1", "--log-filter", "info,=="], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("log_filter"), "{}", stderr(&output));
}

#[tokio::test]
async fn bootstrap_says_by_its_exit_code_that_nobody_answers() {
    let silent = format!("1=127.0.0.1:{}", free_ports(1));
    let args = ["bootstrap", "--bootstrap", &silent, "--bootstrap-timeout-ms", "300"];
    let output = stockroom(&args, &[]).await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[tokio::test]
async fn intermediate_files_go_when_it_is_interrupted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (export, scratch) = (dir.path().join("export"), dir.path().join("scratch"));
    std::fs::create_dir(&export).expect("room");
    // Reads it for ever: nobody writes.
    let made = std::process::Command::new("mkfifo").arg(export.join("about.json")).status();
    assert!(made.expect("mkfifo").success());
    let mut import = tokio::process::Command::new(crate::harness::STOCKROOM)
        .args([
            "import".as_ref(),
            export.as_os_str(),
            "--scratch".as_ref(),
            scratch.as_os_str(),
            "--dir".as_ref(),
        ])
        .args([dir.path().join("d1").as_os_str(), "--member".as_ref(), "1=127.0.0.1:9,127.0.0.1:10".as_ref()])
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let files = || std::fs::read_dir(&scratch).map_or(0, Iterator::count);
    until("it has made its place", || async { (files() == 1).then_some(()) }).await;
    // The handler is there a moment after the place: until then a signal ends it as it did before.
    let handles = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 2 != 0))
    };
    let id = import.id().expect("it runs");
    until("it listens", || async { handles(id).then_some(()) }).await;
    let pid = rustix::process::Pid::from_raw(id.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let ended = import.wait().await.expect("it ends");
    assert_eq!((ended.code(), files()), (Some(1), 0));
}
