//! A node that comes back from its peers by `stockroom rebuild`: on its machine, with its settings, as a new member.

use super::process::without_settings;
use super::{Cluster, Node, Standing};
use crate::history::NodeId;
use crate::network::Network as _;
use anyhow::Context as _;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the command may take: it asks the peers, each for some seconds.
const REBUILT_WITHIN: Duration = Duration::from_secs(15);
/// What comes behind the name of a directory that a rebuild set aside.
const SET_ASIDE: &str = ".set-aside-";

impl Cluster {
    /// Runs `stockroom rebuild` for a node that was taken, or is down for good, and starts it under its new number,
    /// which it gives. What was set aside is removed.
    ///
    /// # Errors
    /// Where the command cannot be run, and, within, what it said where it refused; then nothing was changed.
    pub async fn rebuild(&self, old: NodeId) -> anyhow::Result<Result<NodeId, String>> {
        let _one_number_at_a_time = self.joining.lock().await;
        let (new, node) = (self.new_number(), self.node(old));
        let mut words: Vec<OsString> = self.places.enter(old);
        words.push(self.options.binary.clone().into());
        words.extend(["rebuild".into(), "--new-id".into(), new.to_string().into()]);
        let settings = settings_of(&node.arguments, old);
        words.extend(settings.iter().map(OsString::from));
        let mut command = without_settings(&words);
        command.args(["--join", &self.peers()]).arg("--data-dir").arg(&node.data_dir).kill_on_drop(true);
        let output = tokio::time::timeout(REBUILT_WITHIN, command.output());
        let Ok(output) = output.await else {
            return Ok(Err(format!("it did not end within {REBUILT_WITHIN:?}")));
        };
        let output = output?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Ok(Err(format!("{}: {said}", output.status)));
        }
        let said = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(said.trim() == new.to_string(), "stockroom rebuild made node {said}, not {new}");
        remove_set_aside(&node)?;
        self.stands(old, Standing::Gone);
        self.places.takes_over(new, old);
        let node = Arc::new(Node::in_place_of(&node, new, settings, self.dir()));
        self.nodes.lock().expect("no panic while held").insert(new, (Standing::Member, node));
        self.start_node(new).await?;
        Ok(Ok(new))
    }
}

impl Node {
    /// The same machine, disk and clock.
    fn in_place_of(old: &Node, id: NodeId, arguments: Vec<String>, dir: &Path) -> Self {
        Node {
            id,
            addresses: old.addresses.clone(),
            data_dir: old.data_dir.clone(),
            log: dir.join(format!("node-{id}.log")),
            faults: old.faults.clone(),
            clock: old.clock.clone(),
            disk: old.disk.clone(),
            arguments,
            process: tokio::sync::Mutex::default(),
        }
    }
}

/// The settings with which a node is started, with its number as it was up to now: they may keep it. Whom to join the
/// rebuilt node knows by itself.
fn settings_of(arguments: &[String], id: NodeId) -> Vec<String> {
    let pairs = arguments.chunks(2).filter(|pair| !["--join", "--node-id"].contains(&pair[0].as_str()));
    ["--node-id".to_owned(), id.to_string()].into_iter().chain(pairs.flatten().cloned()).collect()
}

/// It would be kept for study; here there is nobody to study it, and disks are small.
fn remove_set_aside(node: &Node) -> anyhow::Result<()> {
    let name = node.data_dir.file_name().unwrap_or_default().to_string_lossy().into_owned() + SET_ASIDE;
    let beside = node.data_dir.parent().context("a data directory lies in another one")?;
    for entry in std::fs::read_dir(beside).with_context(|| format!("reading {}", beside.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&name) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuild_has_the_settings_of_the_node_with_the_number_that_it_has_now() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let before = words("--node-id 2 --http-listen a:1 --join old:1 --log-format text");
        assert_eq!(settings_of(&before, 7), words("--node-id 7 --http-listen a:1 --log-format text"));
    }
}
