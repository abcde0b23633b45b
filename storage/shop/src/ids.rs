//! Names and numbers: each has a type, its unit and its limits.

use crate::text::Text;
use bincode::{Decode, Encode};
use std::fmt;

/// Longest id, SKU and idempotency key, in bytes. They are visible ASCII, so bytes are characters.
pub const MAX_ID_BYTES: usize = 128;
/// Longest location name, in bytes.
pub const MAX_LOCATION_BYTES: usize = 64;
/// Largest quantity of one line.
pub const MAX_QUANTITY: u32 = 1_000_000_000;
/// Largest count of units one stock may hold, and largest amount of money: what a JSON number
/// (an IEEE double) still carries exactly.
pub const MAX_UNITS: u64 = (1 << 53) - 1;

/// Why a name or number is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Empty, or longer than the limit.
    #[error("must have 1 to {max} characters, has {length}")]
    Length {
        /// Limit in bytes.
        max: usize,
        /// What was given, in bytes.
        length: usize,
    },
    /// Holds a character outside visible ASCII, or one the name may not have.
    #[error("may hold visible ASCII only{without}, has {found:?}")]
    Character {
        /// What else is not allowed, as it reads in the message.
        without: &'static str,
        /// The first offender.
        found: char,
    },
    /// Has the shape of an id that Stockroom makes itself.
    #[error("has the shape of an id that Stockroom makes itself; choose another")]
    Reserved,
    /// A quantity outside 1 to [`MAX_QUANTITY`].
    #[error("must be 1 to {MAX_QUANTITY}, is {0}")]
    Quantity(u64),
}

fn visible(text: &str, max: usize, slash: bool) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > max {
        return Err(Invalid::Length { max, length: text.len() });
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || (!slash && *c == '/')) {
        Some(found) => Err(Invalid::Character { without: if slash { "" } else { " without '/'" }, found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, slash: $slash:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(Text);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// [`Invalid`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                visible(text, $max, $slash)?;
                Ok($name(Text::new(text)))
            }

            /// The name as the caller wrote it.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The same, for whoever keeps it.
            pub fn text(&self) -> &Text {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

name!(
    /// Stock keeping unit: the caller's name of an item. 1-128 visible ASCII without `/`.
    Sku, MAX_ID_BYTES, slash: false
);
name!(
    /// A room that holds stock. 1-64 visible ASCII without `/`; receiving makes it.
    Location, MAX_LOCATION_BYTES, slash: false
);
name!(
    /// The caller's id of one write, cluster-wide. 1-128 visible ASCII.
    IdempotencyKey, MAX_ID_BYTES, slash: true
);
name!(
    /// A customer, named by the caller; Stockroom knows nothing else of them. 1-128 visible ASCII without `/`.
    CustomerId, MAX_ID_BYTES, slash: false
);
name!(
    /// An order as callers name it: an id they chose, or one that [`OrderId`] prints.
    OrderName, MAX_ID_BYTES, slash: false
);
name!(
    /// A reservation: an id the caller chose (or remembered as cancelled), or one Stockroom made
    /// ([`ReservationId::made`]).
    ReservationId, MAX_ID_BYTES, slash: false
);

impl Location {
    /// The location of whoever does not name one: `main`.
    pub fn main() -> Self {
        Location(Text::new("main"))
    }
}

/// Where something was written: the log entry (of which cluster epoch) and the position in that
/// entry's block. Ordered as history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Place {
    /// Counts restores of the cluster from a backup; log indexes go on, from that of the backup.
    pub epoch: u16,
    /// Raft log index. 48 bits are printed in ids: 280 trillion entries.
    pub index: u64,
    /// Position in the block of that entry. 16 bits are printed: an entry places at most 65,536 orders
    /// and reservations, but moves more stock than that.
    pub slot: u32,
}

/// Crockford's base 32: no i, l, o, u, so that an id survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PRINTED: usize = 16;

impl Place {
    /// 16 characters of Crockford's base 32 (16 + 48 + 16 bits), in the order of history.
    pub fn print(self) -> String {
        self.id('-').as_str()[1..].to_owned()
    }

    /// The same behind a letter: an id as callers see it.
    fn id(self, letter: char) -> Text {
        let bits = (u128::from(self.epoch) << 64)
            | (u128::from(self.index & ((1 << 48) - 1)) << 16)
            | u128::from(self.slot & 0xffff);
        let mut printed = [letter as u8; 1 + PRINTED];
        for (at, character) in printed[1..].iter_mut().enumerate() {
            *character = ALPHABET[(bits >> (5 * (PRINTED - 1 - at))) as usize & 31];
        }
        Text::new(std::str::from_utf8(&printed).expect("all ASCII"))
    }

    /// Reads what [`Place::print`] wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != PRINTED {
            return None;
        }
        let bits = text.bytes().try_fold(0u128, |bits, byte| {
            Some((bits << 5) | ALPHABET.iter().position(|a| *a == byte)? as u128)
        })?;
        Some(Place {
            epoch: (bits >> 64) as u16,
            index: (bits >> 16) as u64 & ((1 << 48) - 1),
            slot: bits as u32 & 0xffff,
        })
    }
}

/// An order's own identity: where it was placed. Printed as `o` and 16 characters, so that the id
/// itself says where to look and no index is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct OrderId(pub Place);

impl OrderId {
    /// The id as a name that callers use.
    pub fn name(self) -> OrderName {
        OrderName(self.0.id('o'))
    }

    /// Reads a printed id; `None` where the text is a chosen name.
    pub fn parse(text: &str) -> Option<Self> {
        Place::parse(text.strip_prefix('o')?).map(OrderId)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.id('o').as_str())
    }
}

impl IdempotencyKey {
    /// What stands for the key of a write that has none: only the leader's own.
    pub(crate) fn none() -> Self {
        IdempotencyKey(Text::new("-"))
    }
}

impl OrderName {
    /// A name for a new order. An id of Stockroom's own shape cannot be chosen.
    ///
    /// # Errors
    /// [`Invalid`], [`Invalid::Reserved`] among it.
    pub fn chosen(text: &str) -> Result<Self, Invalid> {
        if OrderId::parse(text).is_some() {
            return Err(Invalid::Reserved);
        }
        OrderName::new(text)
    }
}

impl ReservationId {
    /// Whether it has the shape of an id that Stockroom makes itself.
    pub fn is_made(&self) -> bool {
        self.as_str().strip_prefix('r').and_then(Place::parse).is_some()
    }

    /// Sorts before every id: the start of a range of keys.
    pub(crate) fn first() -> Self {
        ReservationId(Text::new(""))
    }

    /// An id for a new reservation. An id of Stockroom's own shape cannot be chosen.
    ///
    /// # Errors
    /// [`Invalid`], [`Invalid::Reserved`] among it.
    pub fn chosen(text: &str) -> Result<Self, Invalid> {
        let id = ReservationId::new(text)?;
        if id.is_made() { Err(Invalid::Reserved) } else { Ok(id) }
    }

    /// The id of a reservation whose caller chose none: `r` and where it was made.
    pub fn made(place: Place) -> Self {
        ReservationId(place.id('r'))
    }
}

/// Units of one line: 1 to 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Quantity(u32);

impl Quantity {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Invalid::Quantity`] outside of it.
    pub fn new(units: u64) -> Result<Self, Invalid> {
        match u32::try_from(units) {
            Ok(units @ 1..=MAX_QUANTITY) => Ok(Quantity(units)),
            _ => Err(Invalid::Quantity(units)),
        }
    }

    /// The count of units.
    pub fn units(self) -> u64 {
        u64::from(self.0)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z on the replicated clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct TimestampMs(pub u64);

impl TimestampMs {
    /// The end of time: later than anything due.
    pub const MAX: TimestampMs = TimestampMs(u64::MAX);

    /// This much later; stays at the end of time.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        TimestampMs(self.0.saturating_add(ms))
    }
}

/// ISO 4217 currency code. Amounts are integers in its minor unit (JPY has 0 digits, KWD 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Currency(pub [u8; 3]);

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{}", *b as char))
    }
}
