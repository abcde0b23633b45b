//! What a run is asked to do, and what of it this machine can do.

use crate::cluster::{Needs, machine};
use crate::history::RunInfo;
use crate::nemesis::{self, Entry};
use crate::network::netns;
use crate::workload::{self, Workload};
use anyhow::{Context as _, bail};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// What lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    /// The harness's own TCP proxies between every pair; needs no root
    Loopback,
    /// A network namespace for each node, on a bridge; needs root
    Netns,
}

impl NetworkKind {
    /// The name under which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            NetworkKind::Loopback => "loopback",
            NetworkKind::Netns => "netns",
        }
    }
}

/// What `run` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// What clients ask for; `list` names all
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    /// What is done to the cluster meanwhile, all at the same time, separated by commas; `none` for nothing
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    pub nemesis: Vec<String>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub nodes: u64,
    /// How long clients and faults run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub time: u64,
    /// Every choice comes from it; a random one where absent
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many clients; the workload's own number where absent
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub clients: Option<u64>,
    /// Calls per second of each client; the workload's own where absent
    #[arg(long)]
    pub rate: Option<f64>,
    /// What lies between the nodes
    #[arg(long, value_enum, default_value_t = NetworkKind::Loopback)]
    pub network: NetworkKind,
    /// Directory of the results, new or empty [default: jepsen-results/TIME-WORKLOAD-NEMESES]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The `stockroom` binary [default: built from this workspace]
    #[arg(long, value_name = "PATH")]
    pub bin: Option<PathBuf>,
    /// A setting of the nodes, as `stockroom serve --help` names it: `memtable-max-bytes=65536`
    #[arg(long, value_name = "FLAG=VALUE", value_parser = pair)]
    pub setting: Vec<(String, String)>,
    /// Keep the nodes' data directories also when all verdicts hold
    #[arg(long)]
    pub keep: bool,
    /// A variable of the nodes' environment, such as a planted bug: `STOCKROOM_PLANTED=half-order`
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has to be NAME=VALUE".to_owned()),
    }
}

/// An argument that means nothing: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A run, decided in all it depends on.
pub struct Plan {
    /// What clients ask for.
    pub workload: &'static Workload,
    /// What is done to the cluster.
    pub nemeses: Vec<&'static Entry>,
    /// What was asked for and cannot be had here: the nemesis, and why.
    pub skipped: Vec<(String, String)>,
    /// What all of it needs together.
    pub needs: Needs,
    /// How many nodes.
    pub nodes: u64,
    /// How long clients and faults run, in seconds.
    pub time_s: u64,
    /// Every choice comes from it.
    pub seed: u64,
    /// How many clients at a time.
    pub clients: usize,
    /// Calls per second of each.
    pub rate: f64,
    /// What lies between the nodes.
    pub network: NetworkKind,
    /// Where results go.
    pub dir: PathBuf,
    /// The binary, where one is named.
    pub bin: Option<PathBuf>,
    /// Variables of the nodes.
    pub env: Vec<(String, String)>,
    /// Whether data directories stay.
    pub keep: bool,
    /// The command that runs it again.
    pub command: String,
}

impl Plan {
    /// Decides all that is open, and leaves out what this machine cannot do.
    ///
    /// # Errors
    /// [`Usage`] where a name or a number means nothing; other errors where this machine can do nothing of it.
    pub fn new(args: &RunArgs) -> anyhow::Result<Self> {
        let workload = find_workload(&args.workload)?;
        if let Some(rate) = args.rate
            && !(rate.is_finite() && rate > 0.0)
        {
            bail!(Usage(format!("--rate {rate}: it has to be above 0")));
        }
        if args.network == NetworkKind::Netns
            && let Some(lacks) = netns::missing()
        {
            bail!("--network netns cannot be had here: {lacks}; --network loopback needs nothing");
        }
        let (nemeses, skipped) = choose(&args.nemesis, args.nodes)?;
        if nemeses.is_empty() && !skipped.is_empty() {
            let why: Vec<String> = skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            bail!("nothing that was asked for can be done here: {}", why.join("; "));
        }
        let needs = merged(&nemeses, &args.setting)?;
        let seed = args.seed.unwrap_or_else(|| rand::rng().next_u64() % 1_000_000);
        Ok(Plan {
            workload,
            needs,
            seed,
            nodes: args.nodes,
            time_s: args.time,
            clients: args.clients.and_then(|n| usize::try_from(n).ok()).unwrap_or(workload.clients),
            rate: args.rate.unwrap_or(workload.rate),
            network: args.network,
            dir: match &args.dir {
                Some(dir) => dir.clone(),
                None => default_dir(workload.name, &nemeses),
            },
            bin: args.bin.clone(),
            env: args.env.clone(),
            keep: args.keep,
            command: command(args, seed),
            nemeses,
            skipped,
        })
    }

    /// As the history says it.
    pub fn info(&self, version: &str) -> RunInfo {
        RunInfo {
            workload: self.workload.name.to_owned(),
            nemeses: self.nemeses.iter().map(|entry| entry.name.to_owned()).collect(),
            nodes: self.nodes,
            time_s: self.time_s,
            seed: self.seed,
            network: self.network.name().to_owned(),
            command: self.command.clone(),
            version: version.to_owned(),
            settings: self
                .needs
                .settings
                .iter()
                .map(|(flag, value)| ((*flag).to_owned(), value.clone()))
                .collect(),
        }
    }

    /// Random numbers for one part of the run, apart from those of all others, so that what one part
    /// draws does not change what another gets.
    pub fn random(&self, part: &str) -> StdRng {
        StdRng::seed_from_u64(self.seed ^ xxh3_64(part.as_bytes()))
    }
}

/// A workload by its name.
///
/// # Errors
/// [`Usage`] where there is none.
pub fn find_workload(name: &str) -> anyhow::Result<&'static Workload> {
    let names: Vec<&str> = workload::ALL.iter().map(|workload| workload.name).collect();
    workload::ALL
        .iter()
        .find(|workload| workload.name == name)
        .ok_or_else(|| Usage(format!("there is no workload {name:?}; there are {}", names.join(", "))).into())
}

/// A nemesis by its name.
///
/// # Errors
/// [`Usage`] where there is none.
pub fn find_nemesis(name: &str) -> anyhow::Result<&'static Entry> {
    let names: Vec<&str> = nemesis::all().map(|entry| entry.name).collect();
    nemesis::all()
        .find(|entry| entry.name == name)
        .ok_or_else(|| Usage(format!("there is no nemesis {name:?}; there are {}", names.join(", "))).into())
}

/// Why a nemesis cannot be had here, if it cannot.
pub fn lacking(entry: &Entry, nodes: u64) -> Option<String> {
    let needs = (entry.needs)();
    if needs.nodes > nodes {
        return Some(format!("it needs --nodes {} or more", needs.nodes));
    }
    machine::missing(&needs)
}

type Chosen = (Vec<&'static Entry>, Vec<(String, String)>);

fn choose(names: &[String], nodes: u64) -> anyhow::Result<Chosen> {
    let (mut chosen, mut skipped) = Chosen::default();
    if names == ["none"] {
        return Ok((chosen, skipped));
    }
    for name in names {
        let entry = find_nemesis(name)?;
        match lacking(entry, nodes) {
            Some(why) => skipped.push((name.clone(), why)),
            None if chosen.iter().any(|known| known.name == entry.name) => {}
            None => chosen.push(entry),
        }
    }
    Ok((chosen, skipped))
}

/// What all need together, under the settings that the user chose.
fn merged(nemeses: &[&'static Entry], settings: &[(String, String)]) -> anyhow::Result<Needs> {
    let mut needs = Needs::default();
    for (flag, value) in settings {
        // Names of settings are `'static` for the nemeses' sake; a run has few of them.
        let flag: &'static str = format!("--{}", flag.trim_start_matches('-')).leak();
        needs.settings.push((flag, value.clone()));
    }
    for entry in nemeses {
        let more = (entry.needs)();
        for (flag, value) in &more.settings {
            let set = needs.settings.iter().find(|(set, _)| set == flag);
            if let Some((_, other)) = set
                && other != value
                && settings
                    .iter()
                    .all(|(name, _)| name.trim_start_matches('-') != flag.trim_start_matches('-'))
            {
                eprintln!("{flag} stays {other}; {} alone would have {value}", entry.name);
            }
        }
        needs = needs.and(more);
    }
    Ok(needs)
}

/// Quotes for a shell where it has to be.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// The arguments of `run` that make the same run again, but for its directory.
pub fn arguments(args: &RunArgs, seed: u64) -> Vec<String> {
    let mut words = vec![
        "run".to_owned(),
        "--workload".to_owned(),
        args.workload.clone(),
        "--nemesis".to_owned(),
        args.nemesis.join(","),
        "--nodes".to_owned(),
        args.nodes.to_string(),
        "--time".to_owned(),
        args.time.to_string(),
        "--seed".to_owned(),
        seed.to_string(),
    ];
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    if args.network != NetworkKind::Loopback {
        option("network", args.network.name().to_owned());
    }
    if let Some(clients) = args.clients {
        option("clients", clients.to_string());
    }
    if let Some(rate) = args.rate {
        option("rate", rate.to_string());
    }
    if let Some(bin) = &args.bin {
        option("bin", bin.display().to_string());
    }
    for (name, value) in &args.setting {
        option("setting", format!("{name}={value}"));
    }
    for (name, value) in &args.env {
        option("env", format!("{name}={value}"));
    }
    words
}

fn command(args: &RunArgs, seed: u64) -> String {
    let words: Vec<String> = arguments(args, seed).iter().map(|text| word(text)).collect();
    let profile = if cfg!(debug_assertions) { "" } else { "--release " };
    format!("cargo run {profile}-p jepsen-tests -- {}", words.join(" "))
}

fn default_dir(workload: &str, nemeses: &[&'static Entry]) -> PathBuf {
    /// Names of files have an end.
    const NAMES_MAX: usize = 80;
    let names: Vec<&str> = nemeses.iter().map(|entry| entry.name).collect();
    let mut names = if names.is_empty() { "none".to_owned() } else { names.join("+") };
    names.truncate(NAMES_MAX);
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    Path::new("jepsen-results").join(format!("{time}-{workload}-{names}"))
}

/// Makes the directory of the results; one with something in it is refused.
///
/// # Errors
/// [`Usage`] where it is not empty; others where it cannot be made.
pub fn make_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut inside = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    if inside.next().is_some() {
        bail!(Usage(format!("{} is not empty; results go into a new directory", dir.display())));
    }
    dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        assert_eq!(word("partition,kill"), "partition,kill");
        assert_eq!(word("it's here"), "'it'\\''s here'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn a_pair_needs_a_name() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("=b").is_err());
        assert!(pair("a").is_err());
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(make_dir(&dir.path().join("new/one")).is_ok());
        let error = make_dir(dir.path()).expect_err("it has `new` in it");
        assert!(error.is::<Usage>(), "{error:#}");
    }
}
