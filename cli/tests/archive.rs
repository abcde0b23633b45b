//! The archive of a real cluster's log, where the nodes keep less of it than the archive needs.

#![allow(clippy::unwrap_used, reason = "clippy knows #[test] functions only, not what they call")]

mod real;

use real::{Cluster, stockroom, text};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The first two keep next to nothing behind their snapshot files; the third keeps what nodes keep by default.
fn flags(id: u64) -> &'static [&'static str] {
    if id == 3 { &[] } else { &["--log-keep-bytes", "0", "--log-keep-entries", "16"] }
}

fn log_of(cluster: &Cluster, id: u64) -> Option<Value> {
    Some(cluster.json(&["log", "--node", &id.to_string()])?["log"].clone())
}

/// Sells more in small imports, each some entries of the log, until the first two nodes have removed what the archive would
/// need next. How much was sold in all.
fn purge(cluster: &Cluster, mut sold: usize) -> usize {
    let newest = log_of(cluster, 1).unwrap()["last_index"].as_u64().unwrap();
    cluster.until("the logs of nodes 1 and 2 begin later", |cluster| {
        for _ in 0..10 {
            sold += 1;
            cluster.sell(sold);
        }
        cluster.ok(&["snapshot", "create"]);
        let first = |id| log_of(cluster, id)?["first_index"].as_u64();
        (first(1)? > newest + 1 && first(2)? > newest + 1).then_some(())
    });
    sold
}

fn archive(cluster: &Cluster, dir: &Path, from: Option<usize>) -> Output {
    let url = from.map(|at| format!("http://{}", cluster.nodes[at].http));
    let from = url.iter().flat_map(|url| ["--from", url]);
    let args: Vec<&str> =
        ["backup", "archive", "--dir", dir.to_str().unwrap()].into_iter().chain(from).collect();
    cluster.run(&args)
}

fn backups(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "bak")).collect();
    found.sort();
    found
}

#[test]
fn a_log_that_was_purged_is_told_and_both_next_steps_help() {
    let mut cluster = Cluster::of_three_with(flags);
    cluster.sell(5);
    let backup_dir = cluster.dir.path().join("backups");
    std::fs::create_dir(&backup_dir).unwrap();
    let to = format!("{}/", backup_dir.display());
    cluster.ok(&["backup", "create", "--to", &to]);
    let sold = purge(&cluster, 5);

    let refused = archive(&cluster, &backup_dir, Some(0));
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    for part in ["log_purged", "Ask another node, which may have kept more", "stockctl backup create --to"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(archive(&cluster, &backup_dir, Some(1)).status.code(), Some(4), "the second has purged, too");

    // "Ask another node, which may have kept more": without --from, all are asked.
    let asked = archive(&cluster, &backup_dir, None);
    assert_eq!(asked.status.code(), Some(0), "{}", text(&asked.stderr));

    // "... or take a new backup and begin a new archive with it", by the command that is printed.
    let sold = purge(&cluster, sold) + 1;
    let refused = text(&archive(&cluster, &backup_dir, Some(0)).stderr);
    let command = refused.lines().find_map(|line| line.split_once("stockctl backup create")).unwrap().1;
    let printed: Vec<&str> = ["backup", "create"].into_iter().chain(command.split_whitespace()).collect();
    cluster.ok(&printed);
    cluster.sell(sold);
    let begun = archive(&cluster, &backup_dir, Some(0));
    assert_eq!(begun.status.code(), Some(0), "{}", text(&begun.stderr));

    // With what lies there now all of it comes back: the gap is before the new backup.
    let newest = backups(&backup_dir).pop().unwrap();
    let restored = Command::new(stockroom())
        .arg("restore")
        .arg(&newest)
        .arg("--archive")
        .arg(&backup_dir)
        .arg("--dir")
        .arg(cluster.dir.path().join("restored"))
        .args(["--member", "1=127.0.0.1:1,127.0.0.1:2"])
        .env_clear()
        .output()
        .unwrap();
    let said = text(&restored.stderr);
    let newest = log_of(&cluster, 1).unwrap()["applied_index"].as_u64().unwrap();
    assert!(restored.status.success() && said.contains(&format!("log index {newest}")), "{said}");

    // Where the only node that may have kept more is away, the gap is told all the same, and also to who archives for ever.
    purge(&cluster, sold + 1);
    cluster.nodes[2].kill();
    for every in [&[][..], &["--every", "1"]] {
        let args = ["backup", "archive", "--dir", backup_dir.to_str().unwrap()];
        let refused = cluster.run(&[&args, every].concat());
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(4), "{said}");
        let start = format!("start http://{}, which does not answer", cluster.nodes[2].http);
        assert!(said.contains("log_purged") && said.contains(&start), "{said}");
    }
}
