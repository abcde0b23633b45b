//! What both kinds of network share: the layers of trouble, and what trouble does to one piece.

use super::{End, Trouble};
use std::collections::BTreeMap;
use std::time::Duration;

/// TCP's shortest wait before it sends a lost packet again; it doubles with every further loss
/// (Linux: `TCP_RTO_MIN`).
const RETRANSMIT_MS: f64 = 200.0;
/// After this many losses in a row a piece passes: 200 ms doubled eight times is most of a minute, and
/// every client and peer has given up by then.
const LOSSES_MAX: i32 = 8;
/// How long a piece that is to be overtaken waits: some round trips of what follows it.
const OVERTAKEN_MS: f64 = 25.0;

/// Who imposed what. Layers are independent: what holds on a link is the worse of all of them.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<String, BTreeMap<(End, End), Trouble>>);

impl Layers {
    /// Replaces what a layer held.
    pub(super) fn impose(&mut self, layer: &str, links: &[(End, End, Trouble)]) {
        let mut held: BTreeMap<(End, End), Trouble> = BTreeMap::new();
        for (from, to, trouble) in links {
            let link = held.entry((*from, *to)).or_default();
            *link = link.and(*trouble);
        }
        self.0.insert(layer.to_owned(), held);
    }

    pub(super) fn lift(&mut self, layer: &str) {
        self.0.remove(layer);
    }

    /// What holds in one direction.
    pub(super) fn on(&self, from: End, to: End) -> Trouble {
        let found = self.0.values().filter_map(|links| links.get(&(from, to)));
        found.fold(Trouble::default(), |all, one| all.and(*one))
    }

    /// All directions that a layer names.
    pub(super) fn links(&self) -> std::collections::BTreeSet<(End, End)> {
        self.0.values().flat_map(|links| links.keys().copied()).collect()
    }
}

/// The draws that decide what happens to one piece or packet. Drawn once, so that the same piece can be
/// judged again when the trouble changes while it waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Luck {
    jitter: f64,
    loss: f64,
    reorder: f64,
}

impl Luck {
    pub(super) fn draw() -> Self {
        Luck { jitter: rand::random(), loss: rand::random(), reorder: rand::random() }
    }

    /// How often in a row it is lost. Each time is as likely as the first.
    fn losses(self, trouble: &Trouble) -> i32 {
        if trouble.loss <= 0.0 {
            return 0;
        }
        let chance = trouble.loss.min(1.0);
        (1..=LOSSES_MAX).take_while(|times| self.loss < chance.powi(*times)).count().try_into().unwrap_or(0)
    }

    /// Whether a packet is lost.
    pub(super) fn is_lost(self, trouble: &Trouble) -> bool {
        self.loss < trouble.loss
    }

    /// Whether others are to overtake it.
    pub(super) fn is_overtaken(self, trouble: &Trouble) -> bool {
        self.reorder < trouble.reorder
    }

    /// How much later a packet arrives that is not lost.
    pub(super) fn delay(self, trouble: &Trouble) -> Duration {
        let mut ms = f64::from(trouble.delay_ms) + self.jitter * f64::from(trouble.jitter_ms);
        if self.is_overtaken(trouble) {
            ms += OVERTAKEN_MS;
        }
        Duration::from_secs_f64(ms / 1000.0)
    }

    /// How much later a piece of a stream arrives: its delay, and TCP's waits for each time it is lost.
    pub(super) fn lateness(self, trouble: &Trouble) -> Duration {
        let resent = RETRANSMIT_MS * (2f64.powi(self.losses(trouble)) - 1.0);
        self.delay(trouble) + Duration::from_secs_f64(resent / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn luck(loss: f64) -> Luck {
        Luck { jitter: 0.5, loss, reorder: 0.5 }
    }

    #[test]
    fn each_loss_doubles_the_wait() {
        let half = Trouble { loss: 0.5, ..Trouble::default() };
        for (drawn, ms) in [(0.9, 0), (0.4, 200), (0.2, 600), (0.1, 1400), (0.0, 51_000)] {
            assert_eq!(luck(drawn).lateness(&half).as_millis(), ms, "drawn {drawn}");
        }
    }

    #[test]
    fn a_piece_without_trouble_is_not_late() {
        assert_eq!(luck(0.0).lateness(&Trouble::default()), Duration::ZERO);
    }

    #[test]
    fn delay_and_a_part_of_jitter_add_up() {
        let trouble = Trouble { delay_ms: 30, jitter_ms: 20, ..Trouble::default() };
        assert_eq!(luck(0.0).lateness(&trouble).as_millis(), 40);
    }

    #[test]
    fn layers_compose_and_lift_independently() {
        let (a, b) = (End::Node(1), End::Clients);
        let slow = Trouble { delay_ms: 10, ..Trouble::default() };
        let mut layers = Layers::default();
        layers.impose("one", &[(a, b, Trouble::CUT)]);
        layers.impose("two", &[(a, b, slow)]);
        assert_eq!(layers.on(a, b), Trouble { cut: true, ..slow });
        assert_eq!(layers.on(b, a), Trouble::default());
        layers.lift("one");
        assert_eq!(layers.on(a, b), slow);
        layers.impose("two", &[]);
        assert_eq!(layers.on(a, b), Trouble::default());
    }
}
