//! A process that plays a node: this test binary, started again in the node's place in the network.

use jepsen_tests::network::{Addresses, Network};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const VARIABLE: &str = "NETWORK_TEST_NODE";
const PATIENCE: Duration = Duration::from_secs(30);

/// Not a test: what the process does that plays a node. It echoes lines on the addresses in its variable
/// and says `heard LINE`; on its standard input it is told to `connect NAME ADDRESS` and to
/// `send NAME LINE`, and it says `got NAME LINE` for what comes back and `closed NAME` at the end.
#[test]
fn play() {
    let Ok(addresses) = std::env::var(VARIABLE) else { return };
    for address in addresses.split(' ') {
        let listener = TcpListener::bind(address).expect("a free address");
        std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| drop(std::thread::spawn(move || echo(&stream))));
        });
    }
    println!("\nready");
    let mut connections: HashMap<String, TcpStream> = HashMap::new();
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let name = words[1].to_owned();
        match words[0] {
            "connect" => {
                let stream = TcpStream::connect(words[2]).expect("can be reached");
                let theirs = stream.try_clone().expect("can be cloned");
                println!("connected {name}");
                connections.insert(name.clone(), stream);
                std::thread::spawn(move || {
                    for line in BufReader::new(theirs).lines().map_while(Result::ok) {
                        println!("got {name} {line}");
                    }
                    println!("closed {name}");
                });
            }
            "send" => {
                let mut stream = &connections[&name];
                stream.write_all(format!("{}\n", words[2]).as_bytes()).expect("can be sent");
            }
            other => panic!("what is {other}?"),
        }
    }
}

fn echo(mut stream: &TcpStream) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        // Nobody may be reading: long lines would fill the pipe.
        println!("heard {}", &line[..line.len().min(100)]);
        if stream.write_all(format!("{line}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// The process as the tests see it. It ends with its standard input.
pub struct Node {
    pub addresses: Addresses,
    /// Where other nodes reach it.
    pub peer: String,
    input: ChildStdin,
    lines: Lines<tokio::io::BufReader<ChildStdout>>,
    said: Vec<String>,
    child: Child,
}

impl Node {
    pub async fn start(network: &dyn Network, id: u64) -> Self {
        let addresses = network.addresses(id);
        let mut words = network.enter(id);
        words.push(std::env::current_exe().expect("this test").into());
        words.extend(["--exact", "child::play", "--nocapture"].map(Into::into));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env(VARIABLE, format!("{} {}", addresses.http_listen, addresses.peer_listen))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("can be started");
        network.started(id, child.id().expect("it runs"));
        let input = child.stdin.take().expect("piped");
        let output = child.stdout.take().expect("piped");
        let lines = tokio::io::BufReader::new(output).lines();
        let peer = addresses.peer_advertise.clone();
        let mut node = Node { addresses, peer, input, lines, said: Vec::new(), child };
        node.hears("ready", PATIENCE).await;
        node
    }

    /// Ends it, and waits until its addresses are free again.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    pub async fn connect(&mut self, name: &str, address: &str) {
        self.say(&format!("connect {name} {address}")).await;
        self.hears(&format!("connected {name}"), PATIENCE).await;
    }

    /// Tells it what to do.
    pub async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("it runs");
    }

    /// Waits until it has said a line, and gives the line's place among all.
    pub async fn hears(&mut self, wanted: &str, patience: Duration) -> usize {
        let short: String = wanted.chars().take(60).collect();
        self.look(wanted, patience).await.unwrap_or_else(|| panic!("not within {patience:?}: {short}"))
    }

    /// Expects that it does not say a line for a while.
    pub async fn hears_nothing(&mut self, unwanted: &str, silence: Duration) {
        assert!(self.look(unwanted, silence).await.is_none(), "came through: {unwanted}");
    }

    async fn look(&mut self, wanted: &str, patience: Duration) -> Option<usize> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.said.iter().position(|line| line == wanted) {
                return Some(at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.lines.next_line()).await {
                Ok(line) => self.said.push(line.expect("text").expect("it runs")),
                Err(_) => return None,
            }
        }
    }
}
