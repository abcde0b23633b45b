//! A cluster of two programs: the one of the last release, and this one with a cluster version more, as the next release may
//! have it. Slow, as it builds both: the README says how to run it.

use crate::harness::{Cluster, STOCKROOM, Server, free_ports, until};
use crate::load::{Load, assert_all_there};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version in force before, and the one that the later program brings.
const VERSIONS: (u64, u64) = (1, 2);

/// Names another commit than the last tagged one to upgrade from.
const FROM: &str = "STOCKROOM_UPGRADE_FROM";

/// The programs of two releases.
struct Programs {
    before: PathBuf,
    later: PathBuf,
}

impl Programs {
    fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let target = Path::new(STOCKROOM).ancestors().nth(2).expect("target/debug/stockroom").join("upgrade");
        let tags = ["describe", "--tags", "--abbrev=0"];
        let last_tag = || output(Command::new("git").args(tags).current_dir(root));
        let before = match std::env::var(FROM).ok().or_else(last_tag) {
            Some(tag) => {
                println!("N is {tag}; N+1 is this source with the feature next-version");
                build(&sources_of(root, &tag, &target), &target.join(&tag), &[])
            }
            None => {
                println!(
                    "there is no tag yet: N is this source as it is, N+1 the same with the feature next-version"
                );
                STOCKROOM.into()
            }
        };
        let later = build(root, &target.join("next"), &["--features", "next-version"]);
        Programs { before, later }
    }
}

/// What a command prints, where it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn sources_of(root: &Path, tag: &str, target: &Path) -> PathBuf {
    let sources = target.join(format!("{tag}-sources"));
    std::fs::create_dir_all(&sources).expect("a directory");
    let mut archive = Command::new("git")
        .args(["archive", tag])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .expect("git");
    let tar = archive.stdout.take().expect("piped");
    let unpacked = Command::new("tar").arg("-x").current_dir(&sources).stdin(tar).status().expect("tar");
    assert!(unpacked.success() && archive.wait().expect("git").success(), "{tag} cannot be unpacked");
    sources
}

fn build(sources: &Path, target: &Path, features: &[&str]) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "-p", "stockroom", "--target-dir"])
        .arg(target)
        .args(features)
        .current_dir(sources)
        .status();
    assert!(built.expect("cargo").success(), "{} cannot be built", sources.display());
    target.join("debug/stockroom")
}

/// Restarts a node with a program, and waits until it takes its part.
async fn run_program(cluster: &mut Cluster, at: usize, program: &Path) {
    let node = &mut cluster.nodes[at];
    assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    node.program = program.to_owned();
    node.start();
    cluster.wait_until_ready().await;
    // A rule that both have, and decide otherwise: by the version in force, not by the program.
    let name = format!("item-{at}-{}", cluster.leader().await);
    assert_eq!(name_given(cluster, &name).await, name);
    each_serves(cluster, &name).await;
}

/// What an item is called that is put without a name, on every node.
async fn name_given(cluster: &Cluster, sku: &str) -> String {
    let put = json!({"commands": [{"key": format!("put-{sku}"), "method": "PUT", "path": format!("/v1/items/{sku}"), "body": {}}]});
    until("the item is put", || async {
        let (status, body) = cluster.nodes[0].post("/v1/batch", None, &put).await?;
        (status == 200 && body["outcomes"][0]["status"].as_u64()? < 300).then_some(())
    })
    .await;
    let mut names = Vec::new();
    for node in &cluster.nodes {
        let path = format!("/v1/items/{sku}");
        let read = || async { node.get(&path).await.filter(|(status, _)| *status == 200) };
        let (_, item) = until("the item is read", read).await;
        names.push(item["name"].as_str().expect("a name").to_owned());
    }
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    names.remove(0)
}

/// Each node takes an order and shows the one that the node before took.
async fn each_serves(cluster: &Cluster, prefix: &str) {
    for (at, node) in cluster.nodes.iter().enumerate() {
        let (id, key) = (format!("{prefix}-by-{at}"), format!("key-{prefix}-by-{at}"));
        let body = json!({"id": id, "lines": [{"sku": "tea", "quantity": 1}]});
        let place = || async {
            node.post("/v1/orders", Some(&key), &body).await.filter(|(s, _)| matches!(s, 200 | 201))
        };
        let (_, placed) = until("an order by each node", place).await;
        let other = &cluster.nodes[(at + 1) % cluster.nodes.len()];
        let path = format!("/v1/orders/{id}");
        let read = || async { other.get(&path).await.filter(|(status, _)| *status == 200) };
        assert_eq!(until("it is seen by each node", read).await.1, placed);
    }
}

async fn lead(cluster: &Cluster, at: usize) {
    let to = json!({"to": cluster.nodes[at].id});
    until("it leads", || async {
        cluster.nodes[at]
            .post("/v1/cluster/leader/transfer", None, &to)
            .await
            .filter(|(status, _)| *status == 200)
    })
    .await;
}

/// What is worked out, once every member has been heard.
async fn plan(cluster: &Cluster, at: usize) -> Value {
    until("a plan", || async {
        let (status, plan) = cluster.nodes[at].get("/v1/cluster/upgrade").await?;
        let all_heard = plan["members"].as_array()?.iter().all(|member| member["answers"] == true);
        (status == 200 && all_heard).then_some(plan)
    })
    .await
}

async fn finalize(cluster: &Cluster, at: usize) -> (u16, Value) {
    until("an answer", || async {
        let answer = cluster.nodes[at].post("/v1/cluster/upgrade/finalize", None, &json!({})).await;
        answer.filter(|(status, _)| *status != 503)
    })
    .await
}

async fn assert_blocked(cluster: &Cluster) {
    for at in 0..cluster.nodes.len() {
        let plan = plan(cluster, at).await;
        assert_eq!(
            (plan["from"].as_u64(), plan["to"].as_u64()),
            (Some(VERSIONS.0), Some(VERSIONS.1)),
            "{plan}"
        );
        assert_eq!(plan["blocked_by"][0]["code"], "member_too_old", "{plan}");
        let (status, refused) = finalize(cluster, at).await;
        assert_eq!((status, refused["code"].as_str()), (409, Some("unsafe_upgrade")), "{refused}");
    }
    let (status, _) = until("an answer", || cluster.nodes[0].get("/v1/items/rehearsal")).await;
    assert_eq!(status, 404, "what is not in force does nothing, however often it is proposed");
}

/// A program that does not serve the version in force ends by itself, and says why.
async fn assert_too_old(node: &mut Server, exit: i32) {
    node.start();
    assert_eq!(node.ended().await, Some(exit), "{}", node.log());
    let log = node.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("is at cluster version 2") && last.contains("too old"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds two programs: see the README"]
async fn two_programs_work_together_until_an_upgrade_is_finalised_and_after() {
    let programs = Programs::build();
    let mut cluster = Cluster::of_three_of(&programs.before, &[]).await;
    let tea = json!({"commands": [
        {"key": "tea", "method": "PUT", "path": "/v1/items/tea", "body": {}},
        {"key": "teas", "method": "POST", "path": "/v1/stock/receive", "body": {"lines": [{"sku": "tea", "quantity": 1000}]}}]});
    until("there is tea", || async {
        cluster.nodes[0].post("/v1/batch", None, &tea).await.filter(|(s, _)| *s == 200)
    })
    .await;
    let load = Load::start(&cluster).await;

    // One is later, then two; each kind leads; one goes back, and on again.
    run_program(&mut cluster, 2, &programs.later).await;
    assert_blocked(&cluster).await;
    lead(&cluster, 2).await;
    each_serves(&cluster, "later-leads").await;
    lead(&cluster, 0).await;
    each_serves(&cluster, "before-leads").await;
    run_program(&mut cluster, 1, &programs.later).await;
    assert_blocked(&cluster).await;
    run_program(&mut cluster, 2, &programs.before).await;
    assert_blocked(&cluster).await;
    run_program(&mut cluster, 2, &programs.later).await;
    run_program(&mut cluster, 0, &programs.later).await;
    let before = plan(&cluster, 1).await;
    assert_eq!(before["blocked_by"], json!([]), "{before}");
    assert_eq!(before["switches_on"][0]["version"].as_u64(), Some(VERSIONS.1), "{before}");
    assert_eq!(name_given(&cluster, "not-yet").await, "not-yet");

    let (status, done) = finalize(&cluster, 1).await;
    assert_eq!((status, &done["done"], &done["already"]), (200, &json!(true), &json!(false)), "{done}");
    assert_eq!(finalize(&cluster, 0).await.1["already"], true);
    for node in &cluster.nodes {
        until("the command is in force", || async {
            node.get("/v1/items/rehearsal")
                .await
                .filter(|(status, item)| *status == 200 && item["version"].as_u64() > Some(3))
        })
        .await;
    }
    assert_eq!(name_given(&cluster, "now").await, "now, since version 2");

    // No way back, nor in, for the program before.
    assert_eq!(cluster.nodes[1].terminate().await, Some(0));
    cluster.nodes[1].program = programs.before.clone();
    assert_too_old(&mut cluster.nodes[1], 1).await;
    cluster.nodes[1].program = programs.later.clone();
    cluster.nodes[1].start();
    cluster.wait_until_ready().await;
    let (port, peers) = (free_ports(2), cluster.nodes[0].peer.clone());
    let mut fourth = Server::new(4, cluster.dir.path(), port, port + 1, &["--join", &peers]);
    fourth.program = programs.before.clone();
    assert_too_old(&mut fourth, 3).await;

    let seen = load.stop().await;
    println!("{} orders, {} refusals tried elsewhere, none failed", seen.orders.len(), seen.refusals);
    assert_all_there(&cluster, seen.orders).await;
}
