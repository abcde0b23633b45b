//! The demo cluster: real nodes as child processes, real orders, a live view.
//!
//! `layout.rs` says where everything is, `nodes.rs` looks after the processes, `client.rs` and `load.rs` send what
//! `sample.rs` unpacks, `live.rs` shows how it goes, and `once.rs` breaks it on purpose and checks the rest.

mod client;
mod layout;
mod live;
mod load;
mod nodes;
mod once;
mod progress;
mod sample;
mod status;
mod stream;
mod verify;
mod view;

use crate::{bootstrap, shutdown};
use anyhow::ensure;
use client::{Client, Command};
use layout::{Layout, SampleState};
use live::Live;
use load::{BULK, SHOPPERS, Tally, load};
use nodes::Nodes;
use progress::Progress;
use sample::Sample;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::time::{Instant, sleep};

/// How long nodes may take to start, to form a cluster and to be ready.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The nodes of a playground that was killed end by themselves, and need a moment for it.
const PORTS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Flags of the playground. Other settings of its nodes are taken from `STOCKROOM_*` variables.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Number of nodes, 1 to 9 [default: 3, or as the directory has it]
    #[arg(long)]
    nodes: Option<u16>,
    /// Directory to keep and to use again; a temporary one otherwise, removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// HTTP port of node 1; the others follow, and the peer ports after them [default: 8081]
    #[arg(long)]
    port: Option<u16>,
    /// Start empty, without the bundled orders
    #[arg(long, conflicts_with = "once")]
    no_sample: bool,
    /// Load the sample, kill the leader half way, verify, and exit with 0 if everything holds
    #[arg(long)]
    once: bool,
}

/// Runs the playground until a signal, a key, or the verdict.
///
/// # Errors
/// Where the cluster cannot be started or the sample not be loaded.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(start(options));
    runtime.shutdown_background();
    code
}

async fn start(options: Options) -> anyhow::Result<ExitCode> {
    let temporary = options.dir.is_none().then(|| tempfile::Builder::new().prefix("stockroom-").tempdir());
    let temporary = temporary.transpose()?;
    let dir = match (&options.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of them is made above"),
    };
    let mut layout = Layout::open(dir, options.nodes, options.port)?;
    ensure!(
        !options.once || layout.memory.cluster_id.is_none(),
        "--once counts every order, so it needs an empty directory; {} holds a cluster",
        layout.dir.display()
    );
    layout.check_ports(PORTS_WITHIN)?;
    let stop = shutdown::on_signal()?;
    let nodes = Nodes::start(&layout)?;
    let result = tokio::select! {
        result = play(&mut layout, &nodes, &options) => result,
        // Not a failure: it was asked to.
        () = stop.cancelled() => Ok(!options.once),
    };
    let clean = nodes.stop().await;
    println!("{}", if clean { "all nodes stopped cleanly" } else { "a node did not stop cleanly" });
    let passed = matches!(result, Ok(true));
    match temporary {
        // What went wrong can only be found out from the logs.
        Some(temporary) if !passed => println!("logs and data: {}", temporary.keep().display()),
        Some(_) => {}
        None => println!("kept: {}", layout.dir.display()),
    }
    Ok(if result? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(layout: &mut Layout, nodes: &Nodes, options: &Options) -> anyhow::Result<bool> {
    println!("{} nodes in {}", layout.nodes, layout.dir.display());
    let client = Client::new(layout.ids().map(|id| layout.http(id)))?;
    let cluster_id = form(layout, nodes, &client).await?;
    println!("cluster {cluster_id} is ready");
    let sample = Arc::new(Sample::unpack()?);
    if !options.no_sample && layout.memory.sample != SampleState::Loaded {
        let resumed = layout.memory.sample == SampleState::Begun;
        layout.memory.sample = SampleState::Begun;
        layout.save()?;
        load_stock(&client, &sample, resumed).await?;
        if options.once {
            return once::run(nodes, &client, &sample).await;
        }
        load_orders(&client, &sample).await?;
        layout.memory.sample = SampleState::Loaded;
        layout.save()?;
    }
    let live = Live {
        nodes,
        client: &client,
        stream: (layout.memory.sample == SampleState::Loaded).then(Arc::default),
        cluster_id: &cluster_id,
        try_it: try_it(layout, &client, options.no_sample).await?,
    };
    watch(live, client.clone(), sample).await
}

/// The cluster as it runs, with orders in the background where there is someone to watch them.
async fn watch(live: Live<'_>, client: Client, sample: Arc<Sample>) -> anyhow::Result<bool> {
    println!("\nTry in another terminal:");
    for line in &live.try_it {
        println!("  {line}");
    }
    if live::is_interactive() {
        let placing = live.stream.clone().map(|stream: Arc<Stream>| {
            stream.toggle();
            tokio::spawn(stream.run(client, sample))
        });
        live.table().await?;
        placing.inspect(|placing| placing.abort());
    } else {
        println!("\nrunning until SIGTERM or SIGINT");
        live.lines().await;
    }
    Ok(true)
}

/// Forms the cluster the first time, finds it again later.
async fn form(layout: &mut Layout, nodes: &Nodes, client: &Client) -> anyhow::Result<String> {
    // A node that cannot start, because of its data or its settings, ends here and says why.
    wait(nodes, client, "/livez", false).await?;
    let cluster_id = match layout.memory.cluster_id.clone() {
        Some(cluster_id) => cluster_id,
        None => {
            let members: Vec<_> = layout.ids().map(|id| (u64::from(id), layout.peer(id))).collect();
            format!("{:032x}", bootstrap::form(&members, START_WITHIN).await?.cluster_id)
        }
    };
    nodes.set_cluster_id(&cluster_id);
    layout.memory.cluster_id = Some(cluster_id.clone());
    layout.save()?;
    wait_until_ready(nodes, client).await?;
    Ok(cluster_id)
}

/// Waits until `/readyz` passes on each node, through deaths and restarts.
async fn wait_until_ready(nodes: &Nodes, client: &Client) -> anyhow::Result<()> {
    wait(nodes, client, "/readyz", true).await
}

async fn wait(nodes: &Nodes, client: &Client, path: &str, may_die: bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_WITHIN;
    for (at, node) in nodes.list().iter().enumerate() {
        while !client.is_ok(at, path).await {
            if let (false, Some(failure)) = (may_die, nodes.failure(node.id)) {
                return Err(failure);
            }
            let log = node.log.display();
            ensure!(Instant::now() < deadline, "node {} does not pass {path}; its log is {log}", node.id);
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

async fn load_all(
    client: &Client,
    what: &'static str,
    commands: &[Command],
    shape: load::Shape,
) -> anyhow::Result<()> {
    let outcomes =
        load(client, commands, shape, &Tally::default(), &Progress::new(what, commands.len())).await?;
    let refused = outcomes.iter().find(|outcome| !outcome.is_done());
    ensure!(refused.is_none(), "the sample was refused: {refused:?}");
    Ok(())
}

/// Items, then the stock that the orders need.
async fn load_stock(client: &Client, sample: &Sample, resumed: bool) -> anyhow::Result<()> {
    load_all(client, "items", &sample.put_items(), BULK).await?;
    let mut receipts = sample.receive_stock();
    if resumed {
        // Keys are remembered for a day. After that, only the stock itself tells that it was received.
        let mut missing = Vec::new();
        for receipt in receipts {
            if !is_received(client, &receipt).await? {
                missing.push(receipt);
            }
        }
        receipts = missing;
    }
    load_all(client, "receipts", &receipts, load::Shape { batch: 10, ..BULK }).await
}

/// A receipt is all or nothing, so its first line stands for all.
async fn is_received(client: &Client, receipt: &Command) -> anyhow::Result<bool> {
    let line = &receipt.body["lines"][0];
    let path = format!("/v1/stock?sku={}", line["sku"].as_str().unwrap_or_default());
    let body = client.read(0, &path, Instant::now() + START_WITHIN).await?;
    let stocks = body["items"].as_array().into_iter().flatten();
    let mut locations = stocks.flat_map(|stock| stock["locations"].as_array().into_iter().flatten());
    Ok(locations.any(|location| location["location"] == line["location"]))
}

async fn load_orders(client: &Client, sample: &Sample) -> anyhow::Result<()> {
    load_all(client, "orders", &sample.place_orders(), SHOPPERS).await
}

/// What can be tried with a mug, which is given some stock unless the cluster shall stay empty.
async fn try_it(layout: &Layout, client: &Client, empty: bool) -> anyhow::Result<Vec<String>> {
    let (first, last) = (layout.http(1), layout.http(layout.nodes));
    let item = json!({"name": "A mug", "price": {"amount_minor": 900, "currency": "USD"}});
    let write =
        |key: &str, method, path: &str, body| Command { key: key.into(), method, path: path.into(), body };
    let put = write("try-item", "PUT", "/v1/items/mug", item);
    let stock = json!({"lines": [{"sku": "mug", "location": "main", "quantity": 1000}]});
    let receive = write("try-stock", "POST", "/v1/stock/receive", stock);
    let order = json!({"lines": [{"sku": "mug", "quantity": 2}]});
    let order = write("try-order", "POST", "/v1/orders", order);
    if empty {
        return Ok(vec![curl(&first, &put), curl(&last, &receive), curl(&first, &order)]);
    }
    let deadline = Instant::now() + START_WITHIN;
    client.settle(&[put], deadline).await?;
    if !is_received(client, &receive).await? {
        client.settle(&[receive], deadline).await?;
    }
    let get = |address: &str, path: &str| format!("curl -s http://{address}{path}");
    Ok(vec![get(&first, "/v1/cluster"), curl(&last, &order), get(&first, "/v1/stock/mug")])
}

fn curl(address: &str, write: &Command) -> String {
    let Command { key, method, path, body } = write;
    let headers = format!("-H 'Content-Type: application/json' -H 'Idempotency-Key: {key}'");
    format!("curl -s -X {method} http://{address}{path} {headers} -d '{body}'")
}
