//! Carries one connection, both ways, through the trouble of its link.
//!
//! One task holds both directions, so that a break seen on one can be told to the other. Without trouble
//! it is a plain copy. With trouble every piece waits in a queue until it is due; what is due is worked
//! out anew whenever the trouble changes, so that a change also acts on what already waits.

use crate::network::Trouble;
use crate::network::link::{Link, PACKET_BYTES};
use crate::network::trouble::Luck;
use futures::FutureExt as _;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

const READ_BYTES: usize = 16 * 1024;
/// How much may wait in one direction of one connection before its sender has to wait too: about what
/// the kernel lets be under way on a long line.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// What travels.
enum Load {
    Bytes(Vec<u8>),
    /// The sender will send no more.
    Fin,
    /// The connection is broken.
    Reset,
}

struct Piece {
    load: Load,
    /// How many of its bytes have been passed on.
    passed: usize,
    arrived: Instant,
    luck: Luck,
    harmed: bool,
}

impl Piece {
    fn left(&self) -> usize {
        match &self.load {
            Load::Bytes(bytes) => bytes.len() - self.passed,
            Load::Fin | Load::Reset => 0,
        }
    }

    fn due(&self, trouble: &Trouble) -> Instant {
        self.arrived + self.luck.lateness(trouble)
    }
}

/// What can be done with the first piece that waits.
enum Next {
    /// Nothing waits, or it waits for the trouble to change.
    Nothing,
    /// Pass it on as soon as the receiver takes it.
    Pass,
    /// Not before then.
    At(Instant),
}

/// The connection ended for both.
struct Broken;

struct Direction {
    link: Arc<Link>,
    changes: watch::Receiver<Trouble>,
    trouble: Trouble,
    queue: VecDeque<Piece>,
    waiting_bytes: usize,
    /// Nothing more comes from the sender.
    ended: bool,
    /// The receiver has been told so.
    told: bool,
}

impl Direction {
    fn new(link: Arc<Link>) -> Self {
        let changes = link.watch();
        let trouble = *changes.borrow();
        Direction {
            link,
            changes,
            trouble,
            queue: VecDeque::new(),
            waiting_bytes: 0,
            ended: false,
            told: false,
        }
    }

    async fn changed(&mut self) {
        // The link, and with it the sender of changes, is held by this direction.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Looks at the trouble anew, and counts what waits because of it.
    fn look(&mut self) {
        let trouble = *self.changes.borrow_and_update();
        if trouble == self.trouble {
            return;
        }
        self.trouble = trouble;
        for piece in &mut self.queue {
            judge(&self.link, piece, &trouble);
        }
    }

    fn next(&mut self, now: Instant) -> Next {
        let Some(piece) = self.queue.front_mut() else { return Next::Nothing };
        if self.trouble.cut {
            return Next::Nothing;
        }
        let due = piece.due(&self.trouble).max(self.link.passes_at(&self.trouble, piece.left(), now));
        if due <= now {
            return Next::Pass;
        }
        harm(&self.link, piece);
        Next::At(due)
    }

    fn wants_more(&self) -> bool {
        !self.ended && self.waiting_bytes < WAITING_BYTES_MAX
    }

    fn finished(&self) -> bool {
        self.told && self.queue.is_empty()
    }

    fn push(&mut self, load: Load) {
        let mut piece = Piece { load, passed: 0, arrived: Instant::now(), luck: Luck::draw(), harmed: false };
        judge(&self.link, &mut piece, &self.trouble);
        self.ended |= !matches!(piece.load, Load::Bytes(_));
        self.waiting_bytes += piece.left();
        self.queue.push_back(piece);
    }

    /// Takes what the sender has sent, and passes it on at once where nothing is in the way.
    fn read(&mut self, from: &TcpStream, to: &TcpStream, scratch: &mut [u8]) {
        let free = self.trouble == Trouble::default();
        // With trouble, each packet has a fate of its own.
        let size = if free { scratch.len() } else { PACKET_BYTES };
        let bytes = match from.try_read(&mut scratch[..size]) {
            Ok(0) => return self.push(Load::Fin),
            Ok(count) => &scratch[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.push(Load::Reset),
        };
        let mut passed = 0;
        if free && self.queue.is_empty() {
            // Where this fails the queue meets the same error.
            passed = to.try_write(bytes).unwrap_or(0);
        }
        if passed < bytes.len() {
            self.push(Load::Bytes(bytes[passed..].to_vec()));
        }
    }

    /// Passes on the first piece that waits, or as much of it as the receiver and the rate take.
    fn pass(&mut self, to: &TcpStream) -> Result<(), PassError> {
        let Some(piece) = self.queue.front_mut() else { return Ok(()) };
        match &piece.load {
            Load::Bytes(bytes) => {
                let left = &bytes[piece.passed..];
                let may = self.link.take(&self.trouble, left.len(), Instant::now());
                let taken = match to.try_write(&left[..may]) {
                    Ok(taken) => taken,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(_) => return Err(PassError::Receiver),
                };
                self.link.give_back(&self.trouble, may - taken);
                self.waiting_bytes -= taken;
                piece.passed += taken;
                if piece.left() > 0 {
                    return Ok(());
                }
            }
            Load::Fin => {
                self.told = true;
                rustix::net::shutdown(to, rustix::net::Shutdown::Write).map_err(|_| PassError::Receiver)?;
            }
            Load::Reset => return Err(PassError::Sender),
        }
        self.queue.pop_front();
        Ok(())
    }

    /// The receiver is gone: nothing of this can arrive.
    fn give_up(&mut self) {
        self.queue.clear();
        self.waiting_bytes = 0;
        (self.ended, self.told) = (true, true);
    }
}

/// Which side broke the connection.
enum PassError {
    /// The sender's reset has arrived.
    Sender,
    /// The receiver takes nothing more.
    Receiver,
}

/// Counts a piece that the trouble holds or makes late.
fn judge(link: &Link, piece: &mut Piece, trouble: &Trouble) {
    if trouble.cut || !piece.luck.lateness(trouble).is_zero() {
        harm(link, piece);
    }
}

fn harm(link: &Link, piece: &mut Piece) {
    if !std::mem::replace(&mut piece.harmed, true) {
        link.harm();
    }
}

/// Waits as long as opening a connection would take: a packet there and one back. `false` where whoever
/// opened it has given up meanwhile, so that nothing of it may arrive.
pub(super) async fn open(near: &TcpStream, there: &Link, back: &Link) -> bool {
    let began = Instant::now();
    let luck = (Luck::draw(), Luck::draw());
    let (mut there_changes, mut back_changes) = (there.watch(), back.watch());
    let mut harmed = (false, false);
    loop {
        let (to, fro) = (*there_changes.borrow_and_update(), *back_changes.borrow_and_update());
        let late = (luck.0.lateness(&to), luck.1.lateness(&fro));
        for (link, count, bad) in [
            (there, &mut harmed.0, to.cut || !late.0.is_zero()),
            (back, &mut harmed.1, fro.cut || !late.1.is_zero()),
        ] {
            if bad && !std::mem::replace(count, true) {
                link.harm();
            }
        }
        let due = began + late.0 + late.1;
        let blocked = to.cut || fro.cut;
        if !blocked && due <= Instant::now() {
            let waited = harmed.0 || harmed.1;
            let ready = near.ready(Interest::READABLE).now_or_never();
            let gave_up = ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()));
            return !(waited && gave_up);
        }
        tokio::select! {
            _ = there_changes.changed() => {}
            _ = back_changes.changed() => {}
            () = tokio::time::sleep_until(due), if !blocked => {}
        }
    }
}

/// Carries until both sides have closed, or one has broken it.
pub(super) async fn carry(near: &TcpStream, far: TcpStream, there: Arc<Link>, back: Arc<Link>) {
    // A piece that the fault let go has to go now.
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let mut guard = Guard { far, closed: false };
    match run(near, &guard.far, Direction::new(there), Direction::new(back)).await {
        Ok(()) => guard.closed = true,
        Err(Broken) => break_off(near),
    }
}

/// Breaks the far side off unless both sides have closed: also where carrying is stopped from outside.
struct Guard {
    far: TcpStream,
    closed: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.closed {
            break_off(&self.far);
        }
    }
}

/// Makes the stream end with a reset when it is dropped.
pub(super) fn break_off(stream: &TcpStream) {
    // It fails only where the connection is gone already.
    let _ = stream.set_zero_linger();
}

async fn run(
    near: &TcpStream,
    far: &TcpStream,
    mut there: Direction,
    mut back: Direction,
) -> Result<(), Broken> {
    let mut scratch = vec![0; READ_BYTES];
    while !(there.finished() && back.finished()) {
        there.look();
        back.look();
        let now = Instant::now();
        let next = (there.next(now), back.next(now));
        tokio::select! {
            () = there.changed() => {}
            () = back.changed() => {}
            _ = near.readable(), if there.wants_more() => there.read(near, far, &mut scratch),
            _ = far.readable(), if back.wants_more() => back.read(far, near, &mut scratch),
            _ = far.writable(), if matches!(next.0, Next::Pass) => pass(&mut there, &mut back, far)?,
            _ = near.writable(), if matches!(next.1, Next::Pass) => pass(&mut back, &mut there, near)?,
            () = until(&next.0) => {}
            () = until(&next.1) => {}
        }
    }
    Ok(())
}

/// Passes on; a receiver that is gone answers with a reset, which has to travel back through the trouble.
fn pass(direction: &mut Direction, opposite: &mut Direction, to: &TcpStream) -> Result<(), Broken> {
    match direction.pass(to) {
        Ok(()) => Ok(()),
        Err(PassError::Sender) => Err(Broken),
        Err(PassError::Receiver) => {
            direction.give_up();
            opposite.push(Load::Reset);
            Ok(())
        }
    }
}

async fn until(next: &Next) {
    match next {
        Next::At(due) => tokio::time::sleep_until(*due).await,
        Next::Nothing | Next::Pass => std::future::pending().await,
    }
}
