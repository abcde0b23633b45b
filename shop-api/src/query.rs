//! Query parameters, and the cursors of lists.

use crate::codes::Code;
use crate::limits::Limits;
use crate::problem::{Extra, Problem};
use crate::values;
use base64::engine::{Engine, general_purpose::URL_SAFE_NO_PAD};
use std::borrow::Cow;
use stockroom_storage::shop::ids::{Invalid, Place, Sku};

/// The parameters of one request, each checked to be known.
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parses `query`; a parameter that is not in `known` is refused, and one that is not `sku`
    /// may stand once.
    pub fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
        for (i, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&&**name) {
                let detail = format!("the parameter {name:?} is not known here");
                return Err(Problem::new(Code::UnknownParameter, detail).at(&**name));
            }
            if &**name != "sku" && pairs[..i].iter().any(|(other, _)| other == name) {
                let detail = format!("the parameter {name:?} stands twice");
                return Err(Problem::new(Code::InvalidParameter, detail).at(&**name));
            }
        }
        Ok(Query(pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// The value of a filter that is an id.
    pub fn name<T>(
        &self,
        limits: &Limits,
        name: &str,
        make: fn(&str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Problem> {
        self.get(name).map(|text| values::name(limits, text, make, || name.into())).transpose()
    }

    /// The value of a filter that is one of a few words.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let detail = format!("must be one of {}, is {text:?}", words.join(", "));
                Err(Problem::new(Code::InvalidParameter, detail).at(name))
            }
        }
    }

    /// All `sku` parameters, in order: at least one, and no more than the limit.
    pub fn skus(&self, limits: &Limits) -> Result<Vec<Sku>, Problem> {
        let skus: Vec<&str> =
            self.0.iter().filter(|(name, _)| name == "sku").map(|(_, sku)| &**sku).collect();
        if skus.is_empty() {
            return Err(Problem::new(Code::MissingParameter, "at least one `sku` is needed").at("sku"));
        }
        if skus.len() > limits.skus_per_read {
            let detail = format!("may name {} SKUs, names {}", limits.skus_per_read, skus.len());
            return Err(Problem::new(Code::TooManySkus, detail)
                .at("sku")
                .with("most", Extra::Count(limits.skus_per_read as u64)));
        }
        skus.into_iter().map(|sku| values::name(limits, sku, Sku::new, || "sku".into())).collect()
    }

    /// Which page of `list` is asked for.
    pub fn paging(&self, limits: &Limits, list: List) -> Result<Paging, Problem> {
        self.paging_in(limits, list, "")
    }

    /// The same of a list that is one of many, by what its path names.
    pub fn paging_in(&self, limits: &Limits, list: List, path: &str) -> Result<Paging, Problem> {
        let filters = self.filters(path);
        Ok(Paging { list, filters, limit: self.limit(limits)?, from: self.cursor(list, filters)? })
    }

    /// Rows of a page.
    pub fn limit(&self, limits: &Limits) -> Result<usize, Problem> {
        let Some(text) = self.get("limit") else { return Ok(limits.default_page_rows.min(limits.page_rows)) };
        match text.parse() {
            Ok(rows) if (1..=limits.page_rows).contains(&rows) && !text.starts_with('+') => Ok(rows),
            _ => {
                let detail = format!("must be an integer from 1 to {}, is {text:?}", limits.page_rows);
                Err(Problem::new(Code::InvalidParameter, detail).at("limit"))
            }
        }
    }

    fn cursor(&self, list: List, filters: u32) -> Result<Option<Place>, Problem> {
        let Some(text) = self.get("cursor") else { return Ok(None) };
        match parse_cursor(text, list, filters) {
            Some(place) => Ok(Some(place)),
            None => {
                let detail = "it is malformed, or of another list or of other filters";
                Err(Problem::new(Code::InvalidCursor, detail).at("cursor"))
            }
        }
    }

    /// A hash (FNV-1a) of everything that decides what is in the list, so that a cursor is not
    /// taken for one of another list. Written out rather than std's, which differs by Rust version.
    fn filters(&self, path: &str) -> u32 {
        let filters = self.0.iter().filter(|(name, _)| name != "limit" && name != "cursor");
        let bytes = filters.flat_map(|(name, value)| name.bytes().chain([0]).chain(value.bytes()).chain([0]));
        bytes
            .chain(path.bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

/// One page of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paging {
    list: List,
    filters: u32,
    /// Most rows of the page.
    pub limit: usize,
    /// Where the page before ended.
    pub from: Option<Place>,
}

impl Paging {
    /// The cursor that goes on at `place`.
    pub fn next(self, place: Option<Place>) -> Option<String> {
        place.map(|place| print_cursor(self.list, self.filters, place))
    }
}

/// The lists there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Items = 1,
    Orders = 2,
    Reservations = 3,
    Movements = 4,
    StockMovements = 5,
}

const CURSOR_VERSION: u8 = 1;
const CURSOR_BYTES: usize = 2 + 4 + 2 + 8 + 4;

fn print_cursor(list: List, filters: u32, place: Place) -> String {
    let mut bytes = Vec::with_capacity(CURSOR_BYTES);
    bytes.extend([CURSOR_VERSION, list as u8]);
    bytes.extend(filters.to_be_bytes());
    bytes.extend(place.epoch.to_be_bytes());
    bytes.extend(place.index.to_be_bytes());
    bytes.extend(place.slot.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parse_cursor(text: &str, list: List, filters: u32) -> Option<Place> {
    let bytes: [u8; CURSOR_BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let [version, kind, f0, f1, f2, f3, e0, e1, i0, i1, i2, i3, i4, i5, i6, i7, s0, s1, s2, s3] = bytes;
    let fits =
        version == CURSOR_VERSION && kind == list as u8 && u32::from_be_bytes([f0, f1, f2, f3]) == filters;
    fits.then(|| Place {
        epoch: u16::from_be_bytes([e0, e1]),
        index: u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]),
        slot: u32::from_be_bytes([s0, s1, s2, s3]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { epoch: 3, index: 1 << 40, slot: 70_000 };

    #[test]
    fn a_cursor_goes_on_in_its_own_list_with_its_own_filters() {
        let query = Query::parse(Some("status=paid&limit=2"), &["status", "limit", "cursor"]).unwrap();
        let paging = query.paging(&Limits::default(), List::Orders).unwrap();
        let cursor = paging.next(Some(PLACE)).unwrap();
        let again = |filters: &str, list| {
            let query = format!("{filters}&cursor={cursor}");
            let query = Query::parse(Some(&query), &["status", "limit", "cursor"]).unwrap();
            query.paging(&Limits::default(), list).map(|paging| paging.from).map_err(|problem| problem.code())
        };
        assert_eq!(again("status=paid&limit=500", List::Orders), Ok(Some(PLACE)));
        assert_eq!(again("status=placed", List::Orders), Err(Code::InvalidCursor));
        assert_eq!(again("status=paid", List::Items), Err(Code::InvalidCursor));
        assert_eq!(again("status=paid&limit=2", List::Orders), Ok(Some(PLACE)));
    }

    #[test]
    fn parameters_that_are_unknown_or_stand_twice_are_refused() {
        let code = |text| Query::parse(Some(text), &["limit", "sku"]).map(|_| ()).map_err(|p| p.code());
        assert_eq!(code("limit=1&sku=a&sku=b"), Ok(()));
        assert_eq!(code("limit=1&limit=2"), Err(Code::InvalidParameter));
        assert_eq!(code("page=1"), Err(Code::UnknownParameter));
    }

    #[test]
    fn a_page_has_1_to_the_most_rows() {
        let limits = Limits::default();
        let limit = |text: &str| {
            let query = Query::parse(Some(text), &["limit"]).unwrap();
            query.paging(&limits, List::Items).map(|paging| paging.limit).map_err(|p| p.code())
        };
        assert_eq!(limit(""), Ok(50));
        assert_eq!(limit("limit=1000"), Ok(1000));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=1.5", "limit=", "limit=%2B5"] {
            assert_eq!(limit(bad), Err(Code::InvalidParameter), "{bad}");
        }
    }
}
