//! What one SKU's stock is, and what each call does to it: the tables of the HTTP contract.

use crate::history::Counters;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Units of this SKU by location (numbered), of one order or reservation.
pub type Lines = Arc<[(usize, u64)]>;

/// What was sent as the body of an order or a reservation; equal bodies are the same request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Body {
    /// Number of the body among all bodies of the history.
    pub number: usize,
    /// Its lines of this SKU.
    pub lines: Lines,
}

/// One location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Units {
    /// Physically there.
    pub on_hand: u64,
    /// Held by reservations.
    pub reserved: u64,
    /// Promised to orders.
    pub allocated: u64,
}

impl Units {
    fn available(self) -> u64 {
        self.on_hand.saturating_sub(self.reserved).saturating_sub(self.allocated)
    }
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the words of the HTTP contract")]
pub enum Status {
    Held,
    Confirmed,
    Cancelled,
    Expired,
}

impl Status {
    /// As answers say it.
    pub fn of(text: &str) -> Option<Self> {
        Some(match text {
            "held" => Status::Held,
            "confirmed" => Status::Confirmed,
            "cancelled" => Status::Cancelled,
            "expired" => Status::Expired,
            _ => return None,
        })
    }
}

/// A reservation that is known. One cancelled before its try has no body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hold {
    status: Status,
    body: Option<Body>,
}

/// An order that is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    cancelled: bool,
    body: usize,
    lines: Lines,
}

/// One SKU.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    /// Whether there is such an item.
    pub item: bool,
    units: Vec<Units>,
    holds: BTreeMap<usize, Hold>,
    orders: BTreeMap<usize, Order>,
}

/// What is asked of one SKU. Locations, orders and reservations are numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the HTTP contract")]
pub enum Ask {
    PutItem,
    Receive {
        lines: Lines,
    },
    Transfer {
        from: usize,
        to: usize,
        quantity: u64,
    },
    PlaceOrder {
        order: usize,
        body: Body,
        reservation: Option<usize>,
    },
    CancelOrder {
        order: usize,
    },
    Reserve {
        hold: usize,
        body: Body,
    },
    Confirm {
        hold: usize,
    },
    CancelReservation {
        hold: usize,
    },
    Extend {
        hold: usize,
    },
    /// The time of a reservation is over: nobody asks for it.
    Expire {
        hold: usize,
    },
    ReadStock,
    /// The newest movement of each location.
    ReadMovements,
    ReadReservation {
        hold: usize,
    },
    ReadOrder {
        order: usize,
    },
}

/// What is answered of one SKU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It was done.
    Done,
    /// An order, cancelled or not, with its lines.
    Order {
        /// Whether it is cancelled.
        cancelled: bool,
        /// Its lines of this SKU.
        lines: Lines,
    },
    /// A reservation.
    Hold {
        /// Where it stands.
        status: Status,
        /// Its lines of this SKU.
        lines: Lines,
    },
    /// Counters of each location, and of all.
    Stock {
        /// By number of the location.
        locations: Vec<(usize, Counters)>,
        /// Their sum.
        total: Counters,
    },
    /// Counters of some locations, after their newest movement.
    Newest(Vec<(usize, Units)>),
    /// Too little of this SKU: location, asked, available. None: too little of another SKU only.
    Short(Vec<(usize, u64, u64)>),
    /// Another refusal, by its code.
    Refused(&'static str),
    /// What no rule of the model ever answers.
    Strange(String),
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Said::Done => write!(f, "done"),
            Said::Order { cancelled, .. } => {
                write!(f, "{} order", if *cancelled { "a cancelled" } else { "an" })
            }
            Said::Hold { status, .. } => write!(f, "a reservation {status:?}"),
            Said::Stock { total: t, .. } => {
                write!(f, "on hand {}, reserved {}, allocated {}", t.on_hand, t.reserved, t.allocated)
            }
            Said::Newest(units) => write!(f, "newest movements {units:?}"),
            Said::Short(short) if short.is_empty() => write!(f, "out of stock, of other SKUs only"),
            Said::Short(short) => {
                write!(f, "out of stock")?;
                short
                    .iter()
                    .try_for_each(|(_, asked, left)| write!(f, ", {asked} asked and {left} available"))
            }
            Said::Refused(code) => write!(f, "{code}"),
            Said::Strange(what) => write!(f, "{what}"),
        }
    }
}

/// What a call answers, and the state after it where that is another.
type Step = (Said, Option<State>);

const UNKNOWN_SKU: Said = Said::Refused("unknown_sku");
const WRONG_STATE: Said = Said::Refused("wrong_state");
const ID_TAKEN: Said = Said::Refused("id_taken");
const NO_ORDER: Said = Said::Refused("order_not_found");
const NO_HOLD: Said = Said::Refused("reservation_not_found");

impl State {
    /// Whether a call may be answered like this now, and what follows. `None`: it may not. Where
    /// nobody heard the answer, any will do.
    pub fn step(&self, ask: &Ask, said: Option<&Said>) -> Option<Option<State>> {
        let (would, next) = self.apply(ask);
        match said {
            None => Some(next),
            // Refused for another SKU's sake: this one was asked, and not changed.
            Some(Said::Short(short)) if short.is_empty() => {
                matches!(would, Said::Order { .. } | Said::Hold { .. }).then_some(None)
            }
            Some(said) => self.admits(ask, &would, said).then_some(next),
        }
    }

    fn admits(&self, ask: &Ask, would: &Said, said: &Said) -> bool {
        match (ask, said) {
            (Ask::ReadStock, Said::Stock { locations, total }) => {
                *would == Said::Done && self.shows(locations, total)
            }
            (Ask::ReadMovements, Said::Newest(newest)) => {
                *would == Said::Done && newest.iter().all(|(location, units)| self.at(*location) == *units)
            }
            _ => would == said,
        }
    }

    fn shows(&self, locations: &[(usize, Counters)], total: &Counters) -> bool {
        let same = |seen: &Counters, units: Units| {
            let Counters { on_hand, reserved, allocated, available } = *seen;
            Units { on_hand, reserved, allocated } == units && available == units.available()
        };
        let shown = |number: usize| locations.iter().find(|(location, _)| *location == number);
        let mut sum = Units::default();
        let all = self.units.iter().enumerate().all(|(number, units)| {
            sum.on_hand += units.on_hand;
            sum.reserved += units.reserved;
            sum.allocated += units.allocated;
            // A location without stock need not be there.
            shown(number).map_or(*units == Units::default(), |(_, seen)| same(seen, *units))
        });
        let known = locations.iter().all(|(number, seen)| same(seen, self.at(*number)));
        all && known && same(total, sum)
    }

    fn at(&self, location: usize) -> Units {
        self.units.get(location).copied().unwrap_or_default()
    }

    fn at_mut(&mut self, location: usize) -> &mut Units {
        if self.units.len() <= location {
            self.units.resize(location + 1, Units::default());
        }
        &mut self.units[location]
    }

    /// What a call would answer now, and the state after it.
    fn apply(&self, ask: &Ask) -> Step {
        match ask {
            Ask::PutItem => (Said::Done, (!self.item).then(|| State { item: true, ..self.clone() })),
            Ask::Receive { .. } | Ask::Transfer { .. } | Ask::ReadStock | Ask::ReadMovements
                if !self.item =>
            {
                (UNKNOWN_SKU, None)
            }
            Ask::Receive { lines } => (Said::Done, Some(self.moved(lines, |units, q| units.on_hand += q))),
            Ask::Transfer { from, to, quantity } => self.transfer(*from, *to, *quantity),
            Ask::PlaceOrder { order, body, reservation } => self.place(*order, body, *reservation),
            Ask::CancelOrder { order } => self.cancel_order(*order),
            Ask::Reserve { hold, body } => self.reserve(*hold, body),
            Ask::Confirm { hold } => self.confirm(*hold),
            Ask::CancelReservation { hold } => self.cancel_hold(*hold),
            Ask::Extend { hold } => (self.extend(*hold), None),
            Ask::Expire { hold } => (Said::Done, self.expire(*hold)),
            Ask::ReadStock | Ask::ReadMovements => (Said::Done, None),
            Ask::ReadReservation { hold } => (self.holds.get(hold).map_or(NO_HOLD, Hold::said), None),
            Ask::ReadOrder { order } => (self.orders.get(order).map_or(NO_ORDER, Order::said), None),
        }
    }

    fn moved(&self, lines: &Lines, change: impl Fn(&mut Units, u64)) -> State {
        let mut next = self.clone();
        for (location, quantity) in lines.iter() {
            change(next.at_mut(*location), *quantity);
        }
        next
    }

    /// Every location that has too little of what lines ask for, summed.
    fn short(&self, lines: &[(usize, u64)]) -> Vec<(usize, u64, u64)> {
        let mut asked: BTreeMap<usize, u64> = BTreeMap::new();
        for (location, quantity) in lines {
            *asked.entry(*location).or_default() += quantity;
        }
        let short =
            asked.into_iter().map(|(location, asked)| (location, asked, self.at(location).available()));
        short.filter(|(_, asked, available)| asked > available).collect()
    }

    fn transfer(&self, from: usize, to: usize, quantity: u64) -> Step {
        if from == to {
            return (Said::Refused("same_location"), None);
        }
        let short = self.short(&[(from, quantity)]);
        if !short.is_empty() {
            return (Said::Short(short), None);
        }
        let mut next = self.clone();
        next.at_mut(from).on_hand -= quantity;
        next.at_mut(to).on_hand += quantity;
        (Said::Done, Some(next))
    }

    fn place(&self, order: usize, body: &Body, reservation: Option<usize>) -> Step {
        if let Some(known) = self.orders.get(&order) {
            return (if known.body == body.number { known.said() } else { ID_TAKEN }, None);
        }
        let (mut next, lines) = match reservation {
            None => match self.takes(body, |units, q| units.allocated += q) {
                Ok(next) => (next, body.lines.clone()),
                Err(refused) => return (refused, None),
            },
            Some(hold) => match self.holds.get(&hold) {
                None => return (NO_HOLD, None),
                Some(known) if known.status != Status::Held => return (WRONG_STATE, None),
                Some(known) => {
                    let lines = known.lines();
                    let next = self.ended(hold, Status::Confirmed, |units, q| {
                        units.reserved -= q;
                        units.allocated += q;
                    });
                    (next, lines)
                }
            },
        };
        let placed = Order { cancelled: false, body: body.number, lines };
        let said = placed.said();
        next.orders.insert(order, placed);
        (said, Some(next))
    }

    /// What the lines of a body take, or why they do not.
    fn takes(&self, body: &Body, change: impl Fn(&mut Units, u64)) -> Result<State, Said> {
        if !self.item && !body.lines.is_empty() {
            return Err(UNKNOWN_SKU);
        }
        let short = self.short(&body.lines);
        if short.is_empty() { Ok(self.moved(&body.lines, change)) } else { Err(Said::Short(short)) }
    }

    fn cancel_order(&self, order: usize) -> Step {
        match self.orders.get(&order) {
            None => (NO_ORDER, None),
            Some(known) if known.cancelled => (WRONG_STATE, None),
            Some(known) => {
                let mut next = self.moved(&known.lines, |units, q| units.allocated -= q);
                let cancelled = Order { cancelled: true, ..known.clone() };
                let said = cancelled.said();
                next.orders.insert(order, cancelled);
                (said, Some(next))
            }
        }
    }

    fn reserve(&self, hold: usize, body: &Body) -> Step {
        match self.holds.get(&hold) {
            Some(known) if matches!(known.status, Status::Cancelled | Status::Expired) => (WRONG_STATE, None),
            Some(known) if known.body.as_ref().is_some_and(|b| b.number == body.number) => {
                (known.said(), None)
            }
            Some(_) => (ID_TAKEN, None),
            None => match self.takes(body, |units, q| units.reserved += q) {
                Err(refused) => (refused, None),
                Ok(mut next) => {
                    let held = Hold { status: Status::Held, body: Some(body.clone()) };
                    let said = held.said();
                    next.holds.insert(hold, held);
                    (said, Some(next))
                }
            },
        }
    }

    fn confirm(&self, hold: usize) -> Step {
        match self.holds.get(&hold) {
            None => (NO_HOLD, None),
            Some(known) => match known.status {
                Status::Held => {
                    let next = self.ended(hold, Status::Confirmed, |units, q| {
                        units.reserved -= q;
                        units.on_hand -= q;
                    });
                    (next.holds[&hold].said(), Some(next))
                }
                Status::Confirmed => (known.said(), None),
                Status::Cancelled | Status::Expired => (WRONG_STATE, None),
            },
        }
    }

    fn cancel_hold(&self, hold: usize) -> Step {
        match self.holds.get(&hold) {
            // Remembered: the try, when it comes at last, holds nothing.
            None => {
                let mut next = self.clone();
                let remembered = Hold { status: Status::Cancelled, body: None };
                let said = remembered.said();
                next.holds.insert(hold, remembered);
                (said, Some(next))
            }
            Some(known) => match known.status {
                Status::Held => {
                    let next = self.ended(hold, Status::Cancelled, |units, q| units.reserved -= q);
                    (next.holds[&hold].said(), Some(next))
                }
                Status::Cancelled | Status::Expired => (known.said(), None),
                Status::Confirmed => (WRONG_STATE, None),
            },
        }
    }

    /// Its time is none of this model's: it may be over at any moment.
    fn extend(&self, hold: usize) -> Said {
        match self.holds.get(&hold) {
            None => NO_HOLD,
            Some(known) if known.status == Status::Held => known.said(),
            Some(_) => WRONG_STATE,
        }
    }

    fn expire(&self, hold: usize) -> Option<State> {
        let held = self.holds.get(&hold).is_some_and(|known| known.status == Status::Held);
        held.then(|| self.ended(hold, Status::Expired, |units, q| units.reserved -= q))
    }

    /// A held reservation ends: its units move, and it stands otherwise.
    fn ended(&self, hold: usize, status: Status, change: impl Fn(&mut Units, u64)) -> State {
        let known = &self.holds[&hold];
        let mut next = self.moved(&known.lines(), change);
        next.holds.insert(hold, Hold { status, body: known.body.clone() });
        next
    }
}

impl Hold {
    fn lines(&self) -> Lines {
        self.body.as_ref().map_or_else(|| Arc::from([]), |body| body.lines.clone())
    }

    fn said(&self) -> Said {
        Said::Hold { status: self.status, lines: self.lines() }
    }
}

impl Order {
    fn said(&self) -> Said {
        Said::Order { cancelled: self.cancelled, lines: self.lines.clone() }
    }
}
