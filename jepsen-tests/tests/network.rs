//! Both networks with real sockets and processes, without Stockroom: what a fault holds, what it lets
//! through, and whose connection is whose. At the end, with `NETWORK_TEST_SERVER` set, a real cluster.

#[path = "network/child.rs"]
mod child;
#[path = "network/cluster.rs"]
mod cluster;

use child::Node;
use jepsen_tests::network::{End, Network, Trouble, loopback::Loopback, netns, netns::Netns};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const N1: End = End::Node(1);
const N2: End = End::Node(2);
const N3: End = End::Node(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must come through a cut before we believe it. More than a retransmission.
const SILENCE: Duration = Duration::from_millis(400);

/// The networks that this machine can build. The others are named.
async fn networks(nodes: u64) -> Vec<Arc<dyn Network>> {
    let mut all = vec![Loopback::new(nodes).await.expect("a loopback network")];
    match netns::missing() {
        None => all.push(Netns::new(nodes).await.expect("a network of namespaces")),
        Some(why) => eprintln!("skipped on namespaces: {why}"),
    }
    all
}

/// Waits until at least this many pieces met a fault.
async fn until_harmed(network: &dyn Network, from: End, to: End, at_least: u64) {
    let deadline = Instant::now() + PATIENCE;
    while network.harmed(from, to).await.expect("can be read") < at_least {
        assert!(Instant::now() < deadline, "{}: no fault met anything", network.name());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn harmed(network: &dyn Network, from: End, to: End) -> u64 {
    network.harmed(from, to).await.expect("can be read")
}

/// `connection` of `node` to its echo and back.
async fn round_trip(node: &mut Node, connection: &str, word: &str) -> Duration {
    let begun = Instant::now();
    node.say(&format!("send {connection} {word}")).await;
    node.hears(&format!("got {connection} {word}"), PATIENCE).await;
    begun.elapsed()
}

#[tokio::test]
async fn a_cut_holds_and_then_delivers() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        round_trip(&mut one, "a", "before").await;
        assert_eq!(harmed(&*network, N1, N2).await, 0);

        network.impose("cut", &[(N1, N2, Trouble::CUT)]).await.expect("imposed");
        one.say("send a held").await;
        until_harmed(&*network, N1, N2, 1).await;
        one.hears_nothing("got a held", SILENCE).await;
        network.lift("cut").await.expect("lifted");
        one.hears("got a held", PATIENCE).await;
        let met = harmed(&*network, N1, N2).await;
        round_trip(&mut one, "a", "after").await;
        assert_eq!(harmed(&*network, N1, N2).await, met, "{}: nothing is cut any more", network.name());
        network.close().await;
    }
}

#[tokio::test]
async fn a_one_way_cut_cuts_one_way() {
    for network in networks(3).await {
        let (mut one, mut two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        let three = Node::start(&*network, 3).await;
        one.connect("a", &two.peer).await;
        one.connect("b", &three.peer).await;
        round_trip(&mut one, "a", "before").await;
        network.impose("cut", &[(N2, N1, Trouble::CUT)]).await.expect("imposed");
        one.say("send a there").await;
        two.hears("heard there", PATIENCE).await;
        until_harmed(&*network, N2, N1, 1).await;
        one.hears_nothing("got a there", SILENCE).await;
        round_trip(&mut one, "b", "aside").await;
        for (from, to) in [(N1, N2), (N1, N3), (N3, N1), (End::Clients, N1)] {
            assert_eq!(harmed(&*network, from, to).await, 0, "{}: {from:?} to {to:?}", network.name());
        }
        network.lift("cut").await.expect("lifted");
        one.hears("got a there", PATIENCE).await;
        network.close().await;
    }
}

#[tokio::test]
async fn a_new_connection_under_a_cut_waits() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        network.impose("cut", &[(N1, N2, Trouble::CUT), (N2, N1, Trouble::CUT)]).await.expect("imposed");
        one.say(&format!("connect a {}", two.peer)).await;
        one.say("send a first").await;
        until_harmed(&*network, N1, N2, 1).await;
        one.hears_nothing("got a first", SILENCE).await;
        network.lift("cut").await.expect("lifted");
        one.hears("got a first", PATIENCE).await;
        network.close().await;
    }
}

#[tokio::test]
async fn layers_compose_and_lift_independently() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        let slow = Trouble { delay_ms: 150, ..Trouble::default() };
        network.impose("slow", &[(N1, N2, slow)]).await.expect("imposed");
        network.impose("cut", &[(N1, N2, Trouble::CUT)]).await.expect("imposed");
        one.say("send a both").await;
        until_harmed(&*network, N1, N2, 1).await;
        one.hears_nothing("got a both", SILENCE).await;
        network.lift("cut").await.expect("lifted");
        one.hears("got a both", PATIENCE).await;
        let took = round_trip(&mut one, "a", "slow").await;
        assert!(took >= Duration::from_millis(150), "{}: still slow: {took:?}", network.name());
        network.lift("slow").await.expect("lifted");
        let took = round_trip(&mut one, "a", "free").await;
        assert!(took < Duration::from_millis(140), "{}: free again: {took:?}", network.name());
        network.close().await;
    }
}

#[tokio::test]
async fn delay_and_jitter_are_as_long_as_asked_for_and_keep_the_order() {
    for network in networks(2).await {
        let (mut one, mut two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        let slow = Trouble { delay_ms: 100, jitter_ms: 100, ..Trouble::default() };
        network.impose("slow", &[(N2, N1, slow)]).await.expect("imposed");
        let took = round_trip(&mut one, "a", "slow").await;
        let bounds = Duration::from_millis(100)..Duration::from_millis(1000);
        assert!(bounds.contains(&took), "{}: {took:?}", network.name());
        assert!(harmed(&*network, N2, N1).await > 0);
        assert_eq!(harmed(&*network, N1, N2).await, 0, "{}: the other way is free", network.name());
        for word in 0..20 {
            one.say(&format!("send a {word}")).await;
            two.hears(&format!("heard {word}"), PATIENCE).await;
        }
        let mut last = 0;
        for word in 0..20 {
            let at = one.hears(&format!("got a {word}"), PATIENCE).await;
            assert!(at >= last, "{}: out of order", network.name());
            last = at;
        }
        network.close().await;
    }
}

#[tokio::test]
async fn lost_packets_are_sent_again() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        let lossy = Trouble { loss: 0.2, ..Trouble::default() };
        network.impose("loss", &[(N1, N2, lossy)]).await.expect("imposed");
        let mut sent = 0;
        // By chance nothing may be lost for a while; 200 times in a row it will not be.
        while harmed(&*network, N1, N2).await < 2 {
            round_trip(&mut one, "a", &format!("word{sent}")).await;
            sent += 1;
            assert!(sent < 200, "{}: nothing was lost of {sent}", network.name());
        }
        network.close().await;
    }
}

#[tokio::test]
async fn reordering_makes_some_pieces_late_and_loses_none() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        let swapped = Trouble { reorder: 0.5, ..Trouble::default() };
        network.impose("reorder", &[(N1, N2, swapped)]).await.expect("imposed");
        for word in 0..20 {
            round_trip(&mut one, "a", &word.to_string()).await;
        }
        let met = harmed(&*network, N1, N2).await;
        assert!((1..1000).contains(&met), "{}: {met} were overtaken", network.name());
        network.close().await;
    }
}

#[tokio::test]
async fn a_rate_limit_holds_for_all_connections_of_a_link_together() {
    const BYTES: usize = 40_000;
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        one.connect("b", &two.peer).await;
        let narrow = Trouble { rate_kbit: 400, ..Trouble::default() };
        network.impose("rate", &[(N1, N2, narrow)]).await.expect("imposed");
        let begun = Instant::now();
        for name in ["a", "b"] {
            one.say(&format!("send {name} {}", "x".repeat(BYTES))).await;
        }
        for name in ["a", "b"] {
            one.hears(&format!("got {name} {}", "x".repeat(BYTES)), PATIENCE).await;
        }
        // 80 kB at 50 kB/s, less what may pass at once.
        let took = begun.elapsed();
        let bounds = Duration::from_millis(1200)..Duration::from_secs(12);
        assert!(bounds.contains(&took), "{}: {took:?}", network.name());
        assert!(harmed(&*network, N1, N2).await > 0);
        network.close().await;
    }
}

#[tokio::test]
async fn clients_can_be_cut_off_while_the_harness_still_looks() {
    for network in networks(2).await {
        let one = Node::start(&*network, 1).await;
        let two = Node::start(&*network, 2).await;
        network.impose("cut", &[(End::Clients, N1, Trouble::CUT)]).await.expect("imposed");
        let cut = tokio::spawn(client(one.addresses.http_clients.clone()));
        until_harmed(&*network, End::Clients, N1, 1).await;
        assert!(!cut.is_finished(), "{}: came through", network.name());
        client(two.addresses.http_clients.clone()).await.expect("node 2 is not cut off");
        let admin = network.admin_source().map(|source| SocketAddr::new(source, 0));
        echo(admin, &one.addresses.http_listen).await.expect("the harness sees it");
        assert_eq!(harmed(&*network, N2, N1).await, 0);
        network.lift("cut").await.expect("lifted");
        cut.await.expect("no panic").expect("it came through at last");
        network.close().await;
    }
}

async fn client(address: String) -> std::io::Result<()> {
    echo(None, &address).await
}

/// Sends a line to an echo and waits for it.
async fn echo(source: Option<SocketAddr>, address: &str) -> std::io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    if let Some(source) = source {
        socket.bind(source)?;
    }
    let mut stream = socket.connect(address.parse().expect("an address")).await?;
    stream.write_all(b"hello\n").await?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hello\n");
    Ok(())
}

#[tokio::test]
async fn a_reset_ends_connections_but_new_ones_work() {
    for network in networks(2).await {
        let (mut one, two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
        one.connect("a", &two.peer).await;
        round_trip(&mut one, "a", "before").await;
        network.reset().await;
        one.hears("closed a", PATIENCE).await;
        one.connect("b", &two.peer).await;
        round_trip(&mut one, "b", "after").await;
        network.close().await;
    }
}

#[tokio::test]
async fn a_replacement_has_a_place_too() {
    for network in networks(1).await {
        network.impose("slow", &[(N1, End::Node(15), Trouble::CUT)]).await.expect("imposed");
        let mut one = Node::start(&*network, 1).await;
        let late = Node::start(&*network, 15).await;
        one.say(&format!("connect a {}", late.peer)).await;
        one.say("send a hello").await;
        until_harmed(&*network, N1, End::Node(15), 1).await;
        network.lift("slow").await.expect("lifted");
        one.hears("got a hello", PATIENCE).await;
        network.close().await;
    }
}

#[tokio::test]
async fn the_peer_proxy_knows_a_process_from_another() {
    let network = Loopback::new(3).await.expect("a loopback network");
    let (mut one, mut two) = (Node::start(&*network, 1).await, Node::start(&*network, 2).await);
    let three = Node::start(&*network, 3).await;
    network.impose("cut", &[(N1, N3, Trouble::CUT)]).await.expect("imposed");
    two.connect("a", &three.peer).await;
    round_trip(&mut two, "a", "not cut").await;
    // This process is no node: a client's, which is not cut either.
    client(three.peer.clone()).await.expect("a stranger is a client");
    one.say(&format!("connect a {}", three.peer)).await;
    one.say("send a hello").await;
    until_harmed(&*network, N1, N3, 1).await;
    assert_eq!(harmed(&*network, N2, N3).await, 0);
    assert_eq!(harmed(&*network, End::Clients, N3).await, 0);
    // Its next life is another process.
    one.kill().await;
    let mut one = Node::start(&*network, 1).await;
    let met = harmed(&*network, N1, N3).await;
    one.say(&format!("connect a {}", three.peer)).await;
    one.say("send a again").await;
    until_harmed(&*network, N1, N3, met + 1).await;
    network.close().await;
}

/// A client's connection through the proxy, and the other end of it.
async fn pair(network: &dyn Network) -> (TcpStream, TcpStream) {
    let addresses = network.addresses(1);
    let listener = TcpListener::bind(&addresses.http_listen).await.expect("free");
    let near = TcpStream::connect(&addresses.http_clients).await.expect("the proxy listens");
    let (far, _) = listener.accept().await.expect("carried");
    (near, far)
}

#[tokio::test]
async fn a_proxy_carries_half_closed_connections() {
    let network = Loopback::new(1).await.expect("a loopback network");
    let (mut near, mut far) = pair(&*network).await;
    near.write_all(b"question").await.expect("written");
    near.shutdown().await.expect("shut down");
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.expect("to the end");
    assert_eq!(heard, "question");
    far.write_all(b"answer").await.expect("the other way is open");
    drop(far);
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.expect("to the end");
    assert_eq!(answer, "answer");
    network.close().await;
}

#[tokio::test]
async fn a_proxy_carries_a_reset_as_a_reset_and_holds_it_under_a_cut() {
    let network = Loopback::new(1).await.expect("a loopback network");
    let (near, mut far) = pair(&*network).await;
    network.impose("cut", &[(End::Clients, N1, Trouble::CUT)]).await.expect("imposed");
    near.set_zero_linger().expect("set");
    drop(near);
    let mut byte = [0];
    tokio::time::timeout(SILENCE, far.read(&mut byte)).await.expect_err("held");
    network.lift("cut").await.expect("lifted");
    let error = far.read(&mut byte).await.expect_err("not an orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    network.close().await;
}

#[tokio::test]
async fn a_node_that_is_down_refuses() {
    let network = Loopback::new(1).await.expect("a loopback network");
    let mut stream = TcpStream::connect(network.addresses(1).http_clients).await.expect("the proxy listens");
    let error = stream.read(&mut [0]).await.expect_err("no orderly end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    network.close().await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_the_sender() {
    let network = Loopback::new(1).await.expect("a loopback network");
    let (near, mut far) = pair(&*network).await;
    // The kernel's buffers and the proxy's take some megabytes, never a gigabyte.
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    while let Ok(ready) = tokio::time::timeout(SILENCE, near.writable()).await {
        ready.expect("open");
        match near.try_write(&block) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 1 << 30, "nothing stops the sender");
    }
    let mut all = vec![0; sent];
    far.read_exact(&mut all).await.expect("all of it arrives");
    assert!(all.iter().all(|byte| *byte == 7));
    network.close().await;
}

#[tokio::test]
async fn nothing_is_left_behind() {
    if let Some(why) = netns::missing() {
        return eprintln!("skipped: {why}");
    }
    let network = Netns::new(1).await.expect("a network of namespaces");
    let words: Vec<String> =
        network.enter(1).iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let place = words.iter().find_map(|word| word.strip_prefix("--net=")).expect("a namespace").to_owned();
    assert!(std::path::Path::new(&place).exists());
    network.close().await;
    assert!(!std::path::Path::new(&place).exists(), "{place} is still there");
}
