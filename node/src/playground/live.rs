//! While it runs: the table and the keys on a terminal, lines elsewhere.

use super::client::Client;
use super::nodes::{Action, Node, Nodes, State};
use super::status::{self, Comparison, NodeStatus};
use super::stream::Stream;
use super::view::{self, Frame, Orders};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue, style, terminal};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::interval;

const REFRESH: Duration = Duration::from_millis(500);
/// The rate of orders is that of the last few seconds.
const RATE_OVER: Duration = Duration::from_secs(3);

/// What is shown while it runs.
#[derive(Debug)]
pub struct Live<'a> {
    /// The processes.
    pub nodes: &'a Nodes,
    /// Asks them.
    pub client: &'a Client,
    /// Orders in the background; `None` without a sample.
    pub stream: Option<Arc<Stream>>,
    /// Cluster id.
    pub cluster_id: &'a str,
    /// Lines to try.
    pub try_it: Vec<String>,
}

/// Whether there is someone to show a table to, who has keys: a job in the background would be stopped for asking.
pub fn is_interactive() -> bool {
    let stdin = std::io::stdin();
    let in_front = rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    std::io::stdout().is_terminal() && stdin.is_terminal() && in_front
}

/// Puts the terminal back, however the table ends.
struct Screen;

impl Screen {
    fn enter() -> std::io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Screen;
        execute!(std::io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing better can be done where the terminal is gone.
        let _ = execute!(std::io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Rate of orders over the last few seconds, and how long the stream placed none.
struct Meter {
    /// Orders placed as each node counts them: whoever places them, each node applies them all.
    seen: Vec<(Instant, Vec<Option<u64>>)>,
    placed: u64,
    last_placed: Instant,
}

impl Meter {
    fn new() -> Self {
        Meter { seen: Vec::new(), placed: 0, last_placed: Instant::now() }
    }

    fn add(&mut self, status: &[NodeStatus]) {
        let now = Instant::now();
        self.seen.push((now, status.iter().map(|node| node.orders_placed).collect()));
        self.seen.retain(|(at, _)| now - *at <= RATE_OVER);
    }

    /// The middle of what the nodes counted: one that catches up counts too many, one that hangs too few, and one
    /// that was restarted began at zero.
    fn per_second(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.seen.first(), self.seen.last()) else {
            return 0.0;
        };
        let pairs = before.iter().zip(after);
        let mut counts: Vec<_> =
            pairs.filter_map(|(before, after)| (*after)?.checked_sub((*before)?)).collect();
        counts.sort_unstable();
        let counted = counts.get(counts.len() / 2).copied().unwrap_or(0);
        let seconds = (*to - *from).as_secs_f64();
        if seconds > 0.0 { counted as f64 / seconds } else { 0.0 }
    }

    fn read(&mut self, stream: Option<&Stream>) -> Orders {
        let per_second = self.per_second();
        let Some(stream) = stream else { return Orders { per_second, ..Orders::default() } };
        let (now, placed) = (Instant::now(), stream.placed());
        if !stream.is_on() || placed != self.placed {
            (self.placed, self.last_placed) = (placed, now);
        }
        Orders {
            on: stream.is_on(),
            placed,
            per_second,
            refused: stream.refused(),
            silent: Some(now - self.last_placed),
            trouble: stream.trouble(),
        }
    }
}

impl Live<'_> {
    /// The table, until `q`.
    ///
    /// # Errors
    /// Where the terminal cannot be used.
    pub async fn table(&self) -> anyhow::Result<()> {
        let _screen = Screen::enter()?;
        let mut keys = keys();
        let (mut selected, started) = (1, Instant::now());
        let (mut meter, mut comparison) = (Meter::new(), Comparison::default());
        let mut status = vec![NodeStatus::default(); self.client.nodes()];
        let mut refresh = interval(REFRESH);
        loop {
            tokio::select! {
                _ = refresh.tick() => {
                    status = status::ask(self.client).await;
                    comparison.add(&status);
                    meter.add(&status);
                }
                key = keys.recv() => {
                    let Some(key) = key else { return Ok(()) };
                    if !self.press(key, &mut selected).await {
                        return Ok(());
                    }
                }
            }
            draw(&view::render(&Frame {
                cluster_id: self.cluster_id,
                up: started.elapsed(),
                nodes: &self.nodes.list(),
                status: &status,
                selected,
                orders: meter.read(self.stream.as_deref()),
                comparison: &comparison,
                try_it: &self.try_it,
                width: width(),
            }))?;
        }
    }

    /// False to quit.
    async fn press(&self, key: char, selected: &mut u16) -> bool {
        match key {
            'q' => return false,
            '1'..='9' => {
                let id = u16::try_from(key as u32 - '0' as u32).expect("a digit");
                if self.nodes.get(id).is_some() {
                    *selected = id;
                }
            }
            'k' => self.nodes.act(*selected, Action::Kill).await,
            'p' => self.nodes.act(*selected, Action::Pause).await,
            'r' => self.nodes.act(*selected, Action::Resume).await,
            's' => self.nodes.act(*selected, Action::Restart).await,
            'o' => {
                self.stream.as_ref().map(|stream| stream.toggle());
            }
            _ => {}
        }
        true
    }

    /// A line for each change, for ever.
    pub async fn lines(&self) {
        let mut refresh = interval(REFRESH);
        let (mut before, mut lead) = (self.nodes.list(), None);
        let mut comparison = Comparison::default();
        let mut told_difference = false;
        loop {
            refresh.tick().await;
            let now = self.nodes.list();
            for line in changes(&before, &now) {
                println!("{line}");
            }
            before = now;
            let status = status::ask(self.client).await;
            comparison.add(&status);
            let leader = status::leader(&status);
            if leader != lead && leader.is_some() {
                println!(
                    "{}",
                    leader.map(|(id, term)| format!("leader: node {id}, term {term}")).unwrap_or_default()
                );
                lead = leader;
            }
            if let (Some(difference), false) = (&comparison.difference, told_difference) {
                println!("DIFFERENT: {difference}");
                told_difference = true;
            }
        }
    }
}

fn changes(before: &[Node], now: &[Node]) -> Vec<String> {
    let pairs = before.iter().zip(now).filter(|(b, n)| (b.state, b.pid) != (n.state, n.pid));
    pairs
        .map(|(_, node)| match (node.state, node.pid) {
            (State::Died, _) => format!("node {} died; it starts again in two seconds", node.id),
            (state, Some(pid)) => format!("node {} is {}, pid {pid}", node.id, view::word(state)),
            (state, None) => format!("node {} is {}", node.id, view::word(state)),
        })
        .collect()
}

fn width() -> usize {
    terminal::size().map_or(120, |(width, _)| width.into())
}

fn draw(lines: &[String]) -> std::io::Result<()> {
    let width = width();
    let mut out = std::io::stdout().lock();
    queue!(out, cursor::MoveTo(0, 0))?;
    for line in lines {
        // A line that wraps would push the table down, frame by frame.
        let line: String = line.chars().take(width).collect();
        queue!(out, style::Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
    }
    queue!(out, Clear(ClearType::FromCursorDown))?;
    out.flush()
}

/// Key presses, from a thread that ends when nobody listens. In raw mode Ctrl-C is a key as well.
fn keys() -> mpsc::Receiver<char> {
    let (sender, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            if !poll(Duration::from_millis(200)).unwrap_or(false) {
                continue;
            }
            let Ok(event) = read() else { return };
            let Event::Key(key) = event else { continue };
            let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
            let key = match key.code {
                _ if key.kind != KeyEventKind::Press => continue,
                _ if interrupt => 'q',
                KeyCode::Char(letter) => letter,
                _ => continue,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_not_that_of_a_node_that_was_restarted_or_catches_up() {
        let now = Instant::now();
        let mut meter = Meter::new();
        meter.seen = vec![
            (now, vec![Some(100), Some(100), Some(50), Some(100), None]),
            (now + Duration::from_secs(2), vec![Some(180), Some(5), Some(950), Some(180), Some(7)]),
        ];
        assert_eq!(meter.per_second(), 40.0);
        assert_eq!(Meter::new().per_second(), 0.0);
    }
}
