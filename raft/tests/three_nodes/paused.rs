//! A leader that heard nothing for a while, and then what had been said before.

use crate::support::*;
use futures::future::BoxFuture;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use stockroom_raft::{Connect, PeerIo, TcpConnect};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Connections whose answers can be held back and whose requests can be lost.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<Mutex<Gated>>);

#[derive(Debug, Default)]
struct Gated {
    /// Answers wait.
    held: bool,
    /// What is written to these addresses is lost.
    lost: BTreeSet<String>,
    connections: Vec<Arc<Mutex<Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    address: String,
    written: usize,
    /// As they came in.
    answers: VecDeque<Vec<u8>>,
    /// So many of them may be read, while answers are held.
    allowed: usize,
    reader: Option<Waker>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no panic")
}

impl Gate {
    fn hold(&self) {
        lock(&self.0).held = true;
    }

    fn lose(&self, address: &str) {
        lock(&self.0).lost.insert(address.to_owned());
    }

    fn all(&self) -> Vec<Arc<Mutex<Line>>> {
        lock(&self.0).connections.clone()
    }

    /// The connections that most was written to, one for each peer: those that entries go by.
    fn of_entries(&self) -> Vec<Arc<Mutex<Line>>> {
        let connections = self.all();
        let addresses: BTreeSet<String> = connections.iter().map(|line| lock(line).address.clone()).collect();
        let busiest = |address: String| {
            let mut of_one: Vec<_> =
                connections.iter().filter(|line| lock(line).address == address).collect();
            of_one.sort_by_key(|line| lock(line).written);
            of_one.last().map(|line| Arc::clone(line))
        };
        addresses.into_iter().filter_map(busiest).collect()
    }
}

impl Connect for Gate {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn PeerIo>>> {
        let gate = self.clone();
        Box::pin(async move {
            let io = TcpConnect.connect(address.clone()).await?;
            let line = Arc::new(Mutex::new(Line { address, ..Line::default() }));
            lock(&gate.0).connections.push(Arc::clone(&line));
            Ok(Box::new(Connection { io, gate, line }) as Box<dyn PeerIo>)
        })
    }
}

struct Connection {
    io: Box<dyn PeerIo>,
    gate: Gate,
    line: Arc<Mutex<Line>>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (held, line) = (lock(&self.gate.0).held, Arc::clone(&self.line));
        let mut line = lock(&line);
        let mut arrived = [0; 16 << 10];
        let mut ended = false;
        loop {
            let mut arrived = ReadBuf::new(&mut arrived);
            match Pin::new(&mut self.io).poll_read(cx, &mut arrived) {
                Poll::Ready(Ok(())) if arrived.filled().is_empty() => ended = true,
                Poll::Ready(Ok(())) => {
                    line.answers.push_back(arrived.filled().to_vec());
                    continue;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            break;
        }
        if (!held || line.allowed > 0)
            && let Some(mut answer) = line.answers.pop_front()
        {
            let rest = answer.split_off(answer.len().min(buf.remaining()));
            buf.put_slice(&answer);
            if rest.is_empty() {
                line.allowed = line.allowed.saturating_sub(1);
            } else {
                line.answers.push_front(rest);
            }
            return Poll::Ready(Ok(()));
        }
        if ended {
            return Poll::Ready(Ok(()));
        }
        line.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let lost = {
            let mut line = lock(&self.line);
            line.written += bytes.len();
            lock(&self.gate.0).lost.contains(&line.address)
        };
        if lost { Poll::Ready(Ok(bytes.len())) } else { Pin::new(&mut self.io).poll_write(cx, bytes) }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn allow(lines: &[Arc<Mutex<Line>>], answers: &[usize]) {
    for (line, answers) in lines.iter().zip(answers) {
        let mut line = lock(line);
        line.allowed = *answers;
        if let Some(reader) = line.reader.take() {
            reader.wake();
        }
    }
}

fn waiting(lines: &[Arc<Mutex<Line>>]) -> Vec<usize> {
    lines.iter().map(|line| lock(line).answers.len()).collect()
}

fn written(lines: &[Arc<Mutex<Line>>]) -> Vec<usize> {
    lines.iter().map(|line| lock(line).written).collect()
}

/// What followers said before they followed another leader is no proof that this one still leads: not for a read that came
/// after, in whatever order it hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_from_before_another_leader_prove_no_read() {
    let gates: Vec<Gate> = (0..3).map(|_| Gate::default()).collect();
    let mut nodes = Vec::new();
    for (id, gate) in (1..).zip(&gates) {
        nodes.push(Node::start_connecting(id, Arc::new(gate.clone())).await);
    }
    let cluster = TestCluster::form_of(nodes).await;
    let leader = cluster.leader().await;
    let gate = &gates[usize::try_from(leader - 1).expect("three")];
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    // So much that it shows which connections are for entries.
    for n in 0..20 {
        done(&cluster.on(leader), item_with(&format!("large-{n}"), &"x".repeat(4_000))).await;
    }
    cluster.agree().await;
    let lines = gate.of_entries();
    assert_eq!(lines.len(), 2);
    // Two entries, of which the leader hears nothing yet; the others have both.
    gate.hold();
    let mut answers = Vec::new();
    let mut each = Vec::new();
    for n in 0..2 {
        let before = waiting(&lines);
        let old = cluster.on(leader);
        let one = proposal(item(&format!("pending-{n}")));
        answers.push(tokio::spawn(async move { old.propose(one, soon()).await }));
        until("both have acknowledged it", || async {
            waiting(&lines).iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
        each.push(waiting(&lines));
    }
    // The others hear nothing more of it, nor it of them, and elect another.
    for id in &others {
        gate.lose(&cluster.node(*id).address.to_string());
        gates[usize::try_from(id - 1).expect("three")].lose(&cluster.node(leader).address.to_string());
    }
    until("another leads", || async {
        others.iter().all(|id| cluster.on(*id).status().leader.is_some_and(|leads| leads != leader))
    })
    .await;
    let put = insist(|| cluster.on(others[0]), item("after")).await;
    put.expect("it is put");
    let index = cluster.on(others[0]).reader().applied().fingerprint.log_index;
    assert_eq!(cluster.on(leader).status().leader, Some(leader), "it knows of nothing");
    // A read comes, and only then what they said before.
    let old = cluster.on(leader);
    let read =
        tokio::spawn(
            async move { old.read_index(tokio::time::Instant::now() + Duration::from_secs(2)).await },
        );
    let all = gate.all();
    let before = written(&all);
    until("it asks its peers", || async { written(&all) != before }).await;
    // Of the first entry: it is committed, which the peers are told in a request without entries. They never hear it.
    let before = written(&lines);
    allow(&lines, &each[0]);
    until("the first entry is committed, and told to both", || async {
        answers[0].is_finished() && written(&lines).iter().zip(&before).all(|(now, before)| now > before)
    })
    .await;
    allow(&lines, &waiting(&lines));
    let read = read.await.expect("no panic");
    assert!(read.as_ref().is_ok_and(|shown| *shown >= index) || read.is_err(), "{read:?} without {index}");
    let staleness = cluster.on(leader).staleness_ms();
    assert!(staleness.is_none_or(|ms| ms > 200), "it says that what it shows is {staleness:?} ms old");
}
