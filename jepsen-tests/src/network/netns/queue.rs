//! Reads the packets of one namespace's queue, and says when each goes on, or that it is lost.
//!
//! One thread a namespace. What is due is worked out anew at every turn, so that a change of trouble also
//! acts on what already waits. Where the thread ends the kernel drops what the rules send to the queue,
//! and every later call of the network says so: a fault never vanishes silently.

use super::build::Plan;
use super::rules;
use crate::history::NodeId;
use crate::network::link::{Link, Links};
use crate::network::trouble::Luck;
use crate::network::{End, Trouble};
use anyhow::{Context as _, bail, ensure};
use nfq::{Message, Queue, Verdict};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::Instant;

/// How long the thread sleeps between two looks while packets may come: the clock of all delays. `nfq`
/// does not show its descriptor, so that there is nothing to wait on.
const TURN: Duration = Duration::from_micros(500);
/// How many packets may wait in the kernel for the thread, which is seconds of a fast link.
const KERNEL_PACKETS_MAX: u32 = 32_768;
/// How many packets wait for a slow link, as in a router; later ones are lost, and TCP slows down.
const RATE_PACKETS_MAX: usize = 128;

/// The thread of one namespace.
pub(super) struct Reader {
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Control {
    wish: Mutex<Wish>,
    changed: Condvar,
    /// Why the thread ended, where it was not asked to.
    failed: Mutex<Option<String>>,
}

#[derive(Default, Clone, Copy)]
struct Wish {
    active: bool,
    stop: bool,
}

impl Reader {
    /// Starts the thread, and waits until it reads the queue and the kernel knows the queue's rule.
    pub(super) fn start(plan: &Plan, node: NodeId, links: Arc<Links>) -> anyhow::Result<Self> {
        let control = Arc::new(Control::default());
        let (ready, begun) = mpsc::channel();
        let (theirs, plan) = (control.clone(), plan.clone());
        let thread = std::thread::Builder::new().name(format!("queue of n{node}")).spawn(move || {
            let mut packets = match open(&plan, node) {
                Ok(queue) => {
                    Packets { queue, plan, node, links, known: HashMap::new(), waiting: VecDeque::new() }
                }
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            if let Err(error) = packets.serve(&theirs) {
                *theirs.failed.lock().expect("no panic while held") = Some(format!("{error:#}"));
            }
        })?;
        begun.recv().context("the queue's thread ended at once")??;
        Ok(Reader { control, thread: Mutex::new(Some(thread)) })
    }

    /// Whether packets are to be expected.
    pub(super) fn set_active(&self, active: bool) {
        self.control.wish.lock().expect("no panic while held").active = active;
        self.control.changed.notify_all();
    }

    /// # Errors
    /// Where the thread has ended.
    pub(super) fn ensure_alive(&self) -> anyhow::Result<()> {
        if let Some(why) = &*self.control.failed.lock().expect("no panic while held") {
            bail!("the queue of packets is no longer read: {why}");
        }
        let thread = self.thread.lock().expect("no panic while held");
        ensure!(thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the queue's thread has ended");
        Ok(())
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.control.wish.lock().expect("no panic while held").stop = true;
        self.control.changed.notify_all();
        if let Some(thread) = self.thread.lock().expect("no panic while held").take() {
            // A panic of the thread was printed, and `ensure_alive` told of it.
            let _ = thread.join();
        }
    }
}

/// Enters the namespace and opens its queue. The socket stays in the namespace in which it was made.
fn open(plan: &Plan, node: NodeId) -> anyhow::Result<Queue> {
    let path = plan.namespace_path(node);
    let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {}", path.display()))?;
    rules::add_queue_rule()?;
    let mut queue = Queue::open().context("cannot open a netfilter queue")?;
    queue.bind(rules::QUEUE).context("the kernel has no netfilter queue (nfnetlink_queue)")?;
    queue.set_queue_max_len(rules::QUEUE, KERNEL_PACKETS_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

struct Packets {
    queue: Queue,
    plan: Plan,
    node: NodeId,
    links: Arc<Links>,
    known: HashMap<(Ipv4Addr, Ipv4Addr), Option<Arc<Link>>>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    message: Message,
    link: Arc<Link>,
    arrived: Instant,
    luck: Luck,
    harmed: bool,
}

/// What is done with a packet that waits.
enum Fate {
    Wait,
    Pass,
    Lose,
}

impl Packets {
    fn serve(&mut self, control: &Control) -> anyhow::Result<()> {
        loop {
            let wish = {
                let wish = control.wish.lock().expect("no panic while held");
                let idle = |wish: &mut Wish| !wish.active && !wish.stop && self.waiting.is_empty();
                *control.changed.wait_while(wish, idle).expect("no panic while held")
            };
            if wish.stop {
                return Ok(());
            }
            self.receive()?;
            self.release()?;
            std::thread::sleep(TURN);
        }
    }

    /// Takes all that came. What is lost is dropped at once.
    fn receive(&mut self) -> anyhow::Result<()> {
        loop {
            let mut message = match self.queue.recv() {
                Ok(message) => message,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read the queue"),
            };
            let Some(link) = self.link(message.get_payload()) else {
                message.set_verdict(Verdict::Accept);
                self.queue.verdict(message)?;
                continue;
            };
            let (trouble, luck) = (link.trouble(), Luck::draw());
            let full = trouble.rate_kbit != 0 && self.waiting_for(&link) >= RATE_PACKETS_MAX;
            if full || luck.is_lost(&trouble) {
                link.harm();
                message.set_verdict(Verdict::Drop);
                self.queue.verdict(message)?;
                continue;
            }
            let harmed = !luck.delay(&trouble).is_zero();
            if harmed {
                link.harm();
            }
            self.waiting.push_back(Waiting { message, link, arrived: Instant::now(), luck, harmed });
        }
    }

    fn waiting_for(&self, link: &Arc<Link>) -> usize {
        self.waiting.iter().filter(|waiting| Arc::ptr_eq(&waiting.link, link)).count()
    }

    /// The direction of an IPv4 packet. `None` where it is none of the network's.
    fn link(&mut self, packet: &[u8]) -> Option<Arc<Link>> {
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let (from, to) = (address(12)?, address(16)?);
        let Packets { plan, node, links, known, .. } = self;
        let own = plan.node(*node);
        let find = || match (from, to) {
            (from, to) if from == own && to == plan.clients() => {
                Some(links.link(End::Node(*node), End::Clients))
            }
            (from, to) if to == own => Some(links.link(plan.end(from)?, End::Node(*node))),
            _ => None,
        };
        known.entry((from, to)).or_insert_with(find).clone()
    }

    /// Lets go what is due. Packets of one direction keep their order, but those that are to be overtaken.
    fn release(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut held: HashSet<*const Link> = HashSet::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            let trouble = waiting.link.trouble();
            let overtaken = waiting.luck.is_overtaken(&trouble);
            let place = Arc::as_ptr(&waiting.link);
            let fate =
                if !overtaken && held.contains(&place) { Fate::Wait } else { waiting.fate(&trouble, now) };
            match fate {
                Fate::Wait => {
                    if !overtaken {
                        held.insert(place);
                    }
                    self.waiting.push_back(waiting);
                    continue;
                }
                Fate::Pass => waiting.message.set_verdict(Verdict::Accept),
                Fate::Lose => waiting.message.set_verdict(Verdict::Drop),
            }
            self.queue.verdict(waiting.message).context("cannot answer the queue")?;
        }
        Ok(())
    }
}

impl Waiting {
    fn fate(&mut self, trouble: &Trouble, now: Instant) -> Fate {
        let bytes = self.message.get_payload().len();
        let due = self.arrived + self.luck.delay(trouble);
        let wait = due > now || self.link.passes_at(trouble, bytes, now) > now;
        if (trouble.cut || wait) && !std::mem::replace(&mut self.harmed, true) {
            self.link.harm();
        }
        match (trouble.cut, wait) {
            (true, _) => Fate::Lose,
            (false, true) => Fate::Wait,
            (false, false) => {
                self.link.take(trouble, bytes, now);
                Fate::Pass
            }
        }
    }
}
