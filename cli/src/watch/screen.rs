//! The live view on a terminal.

use super::{
    WatchArgs,
    frame::{Line, Tone, frame},
    look,
    sample::{Sample, Watcher},
};
use crate::{
    client::Client,
    problem::{Exit, Failure},
};
use crossterm::{
    cursor,
    event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read},
    execute, queue,
    style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor},
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// How soon the thread that reads keys notices that nobody wants them any more.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// What the person in front of it did.
enum Input {
    Quit,
    Resized,
}

/// Puts the terminal back, however the view ends.
struct Screen {
    colors: bool,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // Made before the rest, so that what fails next is undone.
        let screen = Screen { colors: colors() };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        for (row, (tone, line)) in (0u16..).zip(lines) {
            queue!(out, cursor::MoveTo(0, row))?;
            self.tone(&mut out, *tone)?;
            queue!(out, Print(line), SetAttribute(Attribute::Reset))?;
            if self.colors {
                queue!(out, ResetColor)?;
            }
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    fn tone(&self, out: &mut impl Write, tone: Tone) -> io::Result<()> {
        match tone {
            Tone::Plain => Ok(()),
            Tone::Bold => queue!(out, SetAttribute(Attribute::Bold)),
            Tone::Dim => queue!(out, SetAttribute(Attribute::Dim)),
            Tone::Bad if self.colors => {
                queue!(out, SetAttribute(Attribute::Bold), SetForegroundColor(Color::Red))
            }
            Tone::Bad => queue!(out, SetAttribute(Attribute::Bold)),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing better can be done where the terminal is gone.
        let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Whether `--color`, NO_COLOR and the terminal want any.
fn colors() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Draws until q, Ctrl-C or a signal.
///
/// # Errors
/// The terminal cannot be used.
pub async fn run(client: &Client, args: &WatchArgs) -> Result<Exit, Failure> {
    let failed = |error: io::Error| {
        Failure::local(Exit::Error, "terminal", "The terminal cannot be used", error.to_string())
            .step("without one: stockctl watch -o ndjson")
    };
    let screen = Screen::enter().map_err(failed)?;
    let mut inputs = inputs();
    let mut ticks = tokio::time::interval(args.interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut terminated = signal().map_err(failed)?;
    let (mut watcher, mut looks, mut shown) = (Watcher::default(), 0, None);
    loop {
        tokio::select! {
            input = inputs.recv() => if !matches!(input, Some(Input::Resized)) { return Ok(Exit::Ok) },
            _ = terminated.recv() => return Ok(Exit::Ok),
            _ = ticks.tick() => {
                // Keys are heard while nodes let us wait.
                let looked = tokio::select! {
                    looked = look(client, &mut watcher) => looked,
                    () = quits(&mut inputs) => return Ok(Exit::Ok),
                };
                shown = Some((looked.map_err(|failure| failure.problem.detail.clone()), Instant::now()));
                looks += 1;
            }
        }
        if let Some((sample, at)) = &shown {
            draw(&screen, sample, *at, args).map_err(failed)?;
        }
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(Exit::Ok);
        }
    }
}

fn draw(screen: &Screen, sample: &Result<Sample, String>, at: Instant, args: &WatchArgs) -> io::Result<()> {
    let (width, height) = terminal::size()?;
    let every = args.interval().as_secs_f64();
    let age = at.elapsed().as_secs();
    let old = if age > 0 { format!(", {age} s old") } else { String::new() };
    let footer = format!("q quits; a look every {every} s{old}");
    screen.draw(&frame(sample.as_ref().map_err(String::as_str), &footer, width.into(), height.into()))
}

/// SIGTERM: the terminal is put back before the process ends.
fn signal() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
}

/// Resolves once somebody quits.
async fn quits(inputs: &mut mpsc::Receiver<Input>) {
    while let Some(Input::Resized) = inputs.recv().await {}
}

/// Keys and sizes, read on a thread of their own: reading them blocks.
fn inputs() -> mpsc::Receiver<Input> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let input = match poll(KEYS_EVERY) {
                Ok(false) => continue,
                Ok(true) => read().map(|event| input_of(&event)),
                Err(error) => Err(error),
            };
            // A terminal that is gone is nobody to show anything to.
            let input = input.unwrap_or(Some(Input::Quit));
            if input.is_some_and(|input| send.blocking_send(input).is_err()) {
                return;
            }
        }
    });
    receive
}

fn input_of(event: &Event) -> Option<Input> {
    match event {
        Event::Resize(..) => Some(Input::Resized),
        Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) => {
            let control_c = *code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
            let quits = control_c || matches!(code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
            quits.then_some(Input::Quit)
        }
        _ => None,
    }
}
