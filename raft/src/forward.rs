//! A follower's coalesced stream to the leader, both ends: proposals, read indexes, reports.

use crate::core::Core;
use crate::error::ProposeError;
use crate::network::Lane;
use crate::proposer::{
    ANSWERS_BYTES, Item, Origin, REFUSED_PAUSE, RETRY_AFTER, StreamHandle, StreamReply, gather, unknown_all,
};
use crate::proto::{
    Answered, ForwardRequest, ForwardResponse, ReadAnswer, Refusal, Route, answered, refusal,
};
use crate::reads::{PROOFS_IN_FLIGHT, ReadWaiter};
use crate::reports::REPORT_INTERVAL;
use crate::{Leadership, Served, wire};
use futures::StreamExt as _;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stockroom_storage::codec::{ProposalBytes, decode_answer, decode_proposal, encode_proposal};
use stockroom_storage::shop::planted::{self, Bug};
use stockroom_storage::type_config::Member;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Most bytes of proposals in one frame: one entry's worth.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// Frames on their way to the transport; what waits longer waits in the queue, where giving up is
/// definite.
const FRAMES_AHEAD: usize = 2;
/// A leader answers each report; silent for so long, it is gone.
const SILENCE: Duration = Duration::from_secs(2);
/// Time for a stream to be taken up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// After leadership moved, a former leader may still answer for so long.
const LINGER: Duration = Duration::from_secs(5);

/// Follows: hands what is queued to the leader, until another one leads.
pub(crate) async fn follow(
    core: &Arc<Core>,
    leader_id: u64,
    leader: &Member,
    leadership: &mut watch::Receiver<Leadership>,
) {
    let mut pause = Duration::from_millis(20);
    loop {
        let opened = tokio::select! {
            opened = tokio::time::timeout(OPEN_TIMEOUT, Session::open(core, leader_id, leader)) => opened,
            _ = leadership.changed() => return,
        };
        metrics::counter!("stockroom_raft_forward_streams_total").increment(1);
        match opened {
            Ok(Ok((session, frames, answers))) => {
                pause = Duration::from_millis(20);
                if session.run(frames, answers, leadership).await {
                    return;
                }
            }
            Ok(Err(status)) => tracing::debug!(leader_id, %status, "no stream to the leader"),
            Err(_) => tracing::debug!(leader_id, "no stream to the leader in time"),
        }
        core.queue.sweep(false);
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_millis(500)),
            _ = leadership.changed() => return,
        }
    }
}

/// One stream to one leader.
struct Session {
    core: Arc<Core>,
    leader_id: u64,
    route: Route,
    next_sequence: u64,
    next_read: u64,
    /// Handed to the leader and not answered yet.
    sent: BTreeMap<u64, Item>,
    /// How many proposals the last frame had.
    last: usize,
    reads: VecDeque<(u64, Vec<ReadWaiter>)>,
    heard: Instant,
    /// A leader that refused is not asked again before.
    asks_from: Instant,
}

impl Session {
    async fn open(
        core: &Arc<Core>,
        leader_id: u64,
        leader: &Member,
    ) -> Result<(Session, mpsc::Sender<ForwardRequest>, Streaming<ForwardResponse>), Status> {
        let (frames, outbound) = mpsc::channel(FRAMES_AHEAD);
        let mut client = core.dialer.client(&core.address_of(leader_id, leader), Lane::Forward)?;
        let session = Session {
            core: Arc::clone(core),
            leader_id,
            route: core.route(leader_id, leader.incarnation),
            next_sequence: 1,
            next_read: 1,
            sent: BTreeMap::new(),
            last: 0,
            reads: VecDeque::new(),
            heard: Instant::now(),
            asks_from: Instant::now(),
        };
        let answers = client.forward(ReceiverStream::new(outbound)).await?.into_inner();
        Ok((session, frames, answers))
    }

    /// Runs until the stream is lost (false) or leadership moves (true).
    async fn run(
        mut self,
        frames: mpsc::Sender<ForwardRequest>,
        mut answers: Streaming<ForwardResponse>,
        leadership: &mut watch::Receiver<Leadership>,
    ) -> bool {
        let core = Arc::clone(&self.core);
        let mut reports = tokio::time::interval(REPORT_INTERVAL);
        reports.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (asks_from, may_read) = (self.asks_from, self.reads.len() < PROOFS_IN_FLIGHT);
            // As with entries: at once where nothing is unanswered, else at least as many as before.
            let (idle, last) = (self.sent.is_empty(), self.last);
            let queued = async {
                core.queue.has(if idle { 1 } else { last.max(1) }).await;
                if idle {
                    gather(last).await;
                }
            };
            let ready = async {
                tokio::time::sleep_until(asks_from).await;
                tokio::select! {
                    () = queued => {}
                    () = core.reads.ready(), if may_read => {}
                }
                frames.clone().reserve_owned().await
            };
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.take(answer),
                    ended => {
                        self.lose(&ended.err().map_or_else(|| "it ended".into(), |status| status.to_string()));
                        return false;
                    }
                },
                permit = ready => match permit {
                    Ok(permit) => {
                        if let Some(frame) = self.frame() {
                            drop(permit.send(frame));
                        }
                    }
                    Err(_) => {
                        self.lose("the transport closed it");
                        return false;
                    }
                },
                _ = reports.tick() => {
                    core.queue.sweep(false);
                    if self.heard.elapsed() > SILENCE {
                        self.lose("the leader is silent");
                        return false;
                    }
                    // Where there is no room the report would be late: the next one will do.
                    let _ = frames.try_send(self.report());
                }
                changed = leadership.changed() => {
                    if changed.is_err() || leadership.borrow().leader != Some(self.leader_id) {
                        // `frames` ends here, which tells the leader that no more will come.
                        self.linger(answers);
                        return true;
                    }
                }
            }
        }
    }

    /// Proposals and at most one read index that arrived until now.
    fn frame(&mut self) -> Option<ForwardRequest> {
        let items = self.core.queue.take(self.core.options.max_entry_proposals, FRAME_BYTES, false);
        let waiters =
            if self.reads.len() < PROOFS_IN_FLIGHT { self.core.reads.take(false) } else { Vec::new() };
        if items.is_empty() && waiters.is_empty() {
            return None;
        }
        let mut frame = ForwardRequest {
            route: Some(self.route.clone()),
            first_sequence: self.next_sequence,
            ..ForwardRequest::default()
        };
        let now = Instant::now();
        self.last = items.len();
        for item in items {
            frame.proposals.push(item.proposal.0.clone());
            let remaining = item.deadline.saturating_duration_since(now).as_millis();
            frame.remaining_ms.push(u32::try_from(remaining).unwrap_or(u32::MAX));
            self.sent.insert(self.next_sequence, item);
            self.next_sequence += 1;
        }
        if !waiters.is_empty() {
            frame.read = self.next_read;
            self.reads.push_back((self.next_read, waiters));
            self.next_read += 1;
        }
        Some(frame)
    }

    fn report(&self) -> ForwardRequest {
        ForwardRequest {
            route: Some(self.route.clone()),
            report: Some(self.core.report()),
            echo_us: u64::try_from(self.core.time.monotonic().as_micros()).unwrap_or(u64::MAX).max(1),
            ..ForwardRequest::default()
        }
    }

    fn take(&mut self, response: ForwardResponse) {
        self.heard = Instant::now();
        let mut refused = Vec::new();
        for answered in response.answers {
            let Some(item) = self.sent.remove(&answered.sequence) else { continue };
            match outcome(answered.result, self.leader_id) {
                Some(result) => item.finish(result),
                None => refused.push(item),
            }
        }
        if !refused.is_empty() {
            self.core.queue.put_back(refused);
            self.asks_from = Instant::now() + REFUSED_PAUSE;
        }
        for answer in response.reads {
            self.take_read(&answer);
        }
        let now = Instant::now();
        let own = self.core.node_id();
        let mut board = self.core.board();
        for report in response.reports.into_iter().filter(|report| report.node_id != own) {
            board.hear(report, now);
        }
        if let Some(leadership) = response.leadership {
            let asked = Duration::from_micros(leadership.echo_us);
            let since_asked = self.core.time.monotonic().saturating_sub(asked);
            let age = since_asked.saturating_add(Duration::from_millis(leadership.confirmed_ms_ago));
            if leadership.echo_us > 0
                && let Some(confirmed) = now.checked_sub(age)
            {
                board.confirmed(leadership.committed_index, confirmed);
            }
            drop(board);
            let applied = self.core.reader.applied().clock.0;
            self.core.clock().applied(applied, leadership.follows_clock, self.core.time.monotonic());
        }
    }

    fn take_read(&mut self, answer: &ReadAnswer) {
        let Some(at) = self.reads.iter().position(|(read, _)| *read == answer.read) else { return };
        let Some((_, waiters)) = self.reads.remove(at) else { return };
        if answer.log_index > 0 {
            waiters.into_iter().for_each(|waiter| waiter.finish(answer.log_index));
        } else {
            self.core.reads.push(waiters);
            self.asks_from = Instant::now() + REFUSED_PAUSE;
        }
    }

    /// What the leader may have taken is unknown from here on; reads are asked again elsewhere.
    fn lose(&mut self, why: &str) {
        tracing::debug!(
            leader_id = self.leader_id,
            unanswered = self.sent.len(),
            why,
            "lost the stream to the leader"
        );
        metrics::counter!("stockroom_raft_forward_streams_lost_total").increment(1);
        let why = format!("the stream to node {} was lost: {why}", self.leader_id);
        let sent = std::mem::take(&mut self.sent).into_values();
        if planted::is(Bug::DuplicateOnRetry) {
            self.core.queue.put_back(sent.filter_map(as_new).collect());
        } else {
            unknown_all(sent, &why);
        }
        for (_, waiters) in self.reads.drain(..) {
            self.core.reads.push(waiters);
        }
    }

    /// Leadership moved: the former leader still answers what it was handed, in the background.
    fn linger(mut self, mut answers: Streaming<ForwardResponse>) {
        for (_, waiters) in self.reads.drain(..) {
            self.core.reads.push(waiters);
        }
        tokio::spawn(async move {
            let drain = async {
                while !self.sent.is_empty() {
                    match answers.message().await {
                        Ok(Some(answer)) => self.take(answer),
                        _ => break,
                    }
                }
            };
            let _ = tokio::time::timeout(LINGER, drain).await;
            if !self.sent.is_empty() {
                self.lose("another node leads");
            }
        });
    }
}

/// A proposal without its key, so that no receipt answers it: of the planted bug only.
fn as_new(item: Item) -> Option<Item> {
    let command = decode_proposal(&item.proposal.0).ok()?.command;
    Some(Item { proposal: encode_proposal(None, command), ..item })
}

/// What an answer means; `None`: definitely not taken, route it again.
fn outcome(result: Option<answered::Result>, leader_id: u64) -> Option<Result<Served, ProposeError>> {
    let unknown = |why: String| Some(Err(ProposeError::Unknown(why)));
    match result {
        Some(answered::Result::Answer(bytes)) => match decode_answer(&bytes) {
            Ok(answer) => Some(Ok(Served { answer, node_id: leader_id })),
            Err(error) => unknown(format!("node {leader_id} answered what cannot be read: {error}")),
        },
        Some(answered::Result::Unknown(why)) => unknown(why),
        Some(answered::Result::DiskFull(full)) => Some(Err(ProposeError::DiskFull { nodes: full.nodes })),
        Some(answered::Result::Refused(refused)) => match refused.reason() {
            refusal::Reason::NotLeader => None,
            refusal::Reason::Overloaded => Some(Err(ProposeError::Overloaded {
                what: "the leader",
                retry_after: Duration::from_millis(refused.retry_after_ms.into()),
            })),
            refusal::Reason::TimedOut => Some(Err(ProposeError::TimedOutBefore)),
            refusal::Reason::TooLarge => {
                Some(Err(ProposeError::NotServing("the leader takes smaller entries than this node".into())))
            }
            refusal::Reason::Unspecified => unknown("the leader refused for a reason unknown here".into()),
        },
        None => unknown(format!("node {leader_id} answered nothing")),
    }
}

/// What the leader sends back on a follower's stream.
pub(crate) type Responses = Pin<Box<dyn futures::Stream<Item = Result<ForwardResponse, Status>> + Send>>;

/// Serves one follower's stream.
pub(crate) fn serve(core: Arc<Core>, requests: Streaming<ForwardRequest>) -> Responses {
    let (responses, outbound) = mpsc::channel(16);
    let held = Arc::clone(&core.streams);
    tokio::spawn(async move {
        let ending = core.ending.clone();
        let serving = Serving::new(core, responses);
        tokio::select! {
            () = serving.run(requests) => {}
            () = ending.cancelled() => {}
        }
    });
    Box::pin(ReceiverStream::new(outbound).inspect(move |_| {
        let _until_it_ends = &held;
    }))
}

struct Serving {
    core: Arc<Core>,
    stream: StreamHandle,
    replies: mpsc::UnboundedReceiver<StreamReply>,
    responses: mpsc::Sender<Result<ForwardResponse, Status>>,
}

impl Serving {
    fn new(core: Arc<Core>, responses: mpsc::Sender<Result<ForwardResponse, Status>>) -> Self {
        let (sender, replies) = mpsc::unbounded_channel();
        let id = core.next_stream.fetch_add(1, Ordering::Relaxed);
        Serving { core, stream: StreamHandle { id, replies: sender }, replies, responses }
    }

    async fn run(mut self, mut requests: Streaming<ForwardRequest>) {
        let mut route = None;
        loop {
            let response = tokio::select! {
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        if let Err(refused) = wire::check(request.route.as_ref(), &self.core.identity) {
                            let _ = self.responses.send(Err(refused.into())).await;
                            return;
                        }
                        if let Some(from) = &request.route {
                            route = Some(self.core.route(from.from_node, from.from_incarnation));
                        }
                        self.serve(request)
                    }
                    _ => break,
                },
                Some(reply) = self.replies.recv() => Some(self.collect(reply)),
            };
            if let Some(response) = response
                && self
                    .responses
                    .send(Ok(ForwardResponse { route: route.clone(), ..response }))
                    .await
                    .is_err()
            {
                return;
            }
        }
        if let Some(route) = &route {
            self.core.board().leave(route.to_node);
        }
        self.answer_the_rest(route).await;
    }

    /// The follower sends no more, but still wants the answers to what it sent.
    async fn answer_the_rest(self, route: Option<Route>) {
        let Serving { mut replies, stream, responses, .. } = self;
        // The senders that are left belong to what is queued or in flight.
        drop(stream);
        while let Some(reply) = replies.recv().await {
            let response = ForwardResponse { route: route.clone(), ..with_all(reply, &mut replies) };
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }

    fn collect(&mut self, first: StreamReply) -> ForwardResponse {
        with_all(first, &mut self.replies)
    }

    fn serve(&self, request: ForwardRequest) -> Option<ForwardResponse> {
        let leads = self.core.leadership.borrow().mine;
        let takes = leads && !self.core.draining.load(Ordering::Relaxed);
        let mut response = ForwardResponse::default();
        let (now, first) = (Instant::now(), request.first_sequence);
        let items = request.proposals.into_iter().zip(request.remaining_ms).zip(first..);
        let full = self.core.limits.memtable_full.load(Ordering::Relaxed);
        if takes && !full {
            let item = |((proposal, remaining_ms), sequence)| Item {
                proposal: ProposalBytes(proposal),
                deadline: now + Duration::from_millis(u64::from(remaining_ms)),
                origin: Origin::Stream { stream: self.stream.clone(), sequence },
            };
            self.core.queue.push_all(items.map(item));
        } else {
            let reason = if takes { refusal::Reason::Overloaded } else { refusal::Reason::NotLeader };
            let retry_after_ms = u32::try_from(RETRY_AFTER.as_millis()).unwrap_or(u32::MAX);
            let refused = Refusal { reason: reason.into(), retry_after_ms };
            let bounced =
                |(_, sequence)| Answered { sequence, result: Some(answered::Result::Refused(refused)) };
            response.answers.extend(items.map(bounced));
        }
        if request.read > 0 && takes {
            self.core.reads.push([ReadWaiter::Stream { stream: self.stream.clone(), read: request.read }]);
        } else if request.read > 0 {
            response.reads.push(ReadAnswer { read: request.read, log_index: 0 });
        }
        if let Some(report) = request.report {
            // Also while it drains: what is in flight needs a quorum that is there, and a successor one that answers.
            if leads {
                self.core.hear_follower(report);
            }
            response.reports = self.core.board().reports(now);
            response.leadership = self.core.confirmation(request.echo_us);
        } else if response.answers.is_empty() && response.reads.is_empty() {
            return None;
        }
        Some(response)
    }
}

/// All replies that wait, in one response, as far as they fit.
fn with_all(first: StreamReply, replies: &mut mpsc::UnboundedReceiver<StreamReply>) -> ForwardResponse {
    let (mut response, mut bytes) = (ForwardResponse::default(), 0);
    let mut next = Some(first);
    while let Some(reply) = next {
        match reply {
            StreamReply::Answers(answers) => {
                bytes += answers.iter().map(answer_bytes).sum::<usize>();
                response.answers.extend(answers);
            }
            StreamReply::Read { read, log_index } => response.reads.push(ReadAnswer { read, log_index }),
        }
        next = if bytes < ANSWERS_BYTES { replies.try_recv().ok() } else { None };
    }
    response
}

fn answer_bytes(answered: &Answered) -> usize {
    match &answered.result {
        Some(answered::Result::Answer(bytes)) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_go_in_several_messages_and_none_is_lost() {
        const EACH: usize = 100_000;
        let (replies, mut waiting) = mpsc::unbounded_channel();
        let answer = |sequence| {
            let result = Some(answered::Result::Answer(vec![0; EACH].into()));
            replies.send(StreamReply::Answers(vec![Answered { sequence, result }])).expect("it is open");
        };
        (0..1_000).for_each(answer);
        replies.send(StreamReply::Read { read: 7, log_index: 9 }).expect("it is open");
        let (mut seen, mut reads) = (Vec::new(), 0);
        while let Ok(first) = waiting.try_recv() {
            let response = with_all(first, &mut waiting);
            let bytes = response.answers.iter().map(answer_bytes).sum::<usize>();
            assert!(bytes < ANSWERS_BYTES + EACH + 1, "{bytes} bytes in one message");
            seen.extend(response.answers.iter().map(|answered| answered.sequence));
            reads += response.reads.len();
        }
        assert_eq!((seen, reads), ((0..1_000).collect(), 1));
    }
}
