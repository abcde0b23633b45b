//! The second step of reading a request: texts and numbers become the shop's types, or 422.

use crate::codes::Code;
use crate::json::{Number, Object, Text};
use crate::limits::Limits;
use crate::problem::{Extra, Problem};
use serde::Deserialize;
use std::sync::Arc;
use stockroom_storage::shop::ids::{
    Currency, Invalid, Location, MAX_QUANTITY, MAX_UNITS, Quantity, Sku, TimestampMs,
};
use stockroom_storage::shop::reservation::StockLine;

const MOST_UNITS: i64 = MAX_UNITS as i64;
/// Shortest and longest hold.
const TTL_MS: (i64, i64) = (100, 30 * 24 * 60 * 60 * 1000);

/// One line of anything that moves stock.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineBody<'a> {
    #[serde(borrow)]
    sku: Text<'a>,
    #[serde(borrow)]
    location: Option<Text<'a>>,
    quantity: Number,
}

pub(crate) type Lines<'a> = Vec<Object<LineBody<'a>>>;

/// An id of any kind: `make` knows its characters.
pub(crate) fn name<T>(
    limits: &Limits,
    text: &str,
    make: fn(&str) -> Result<T, Invalid>,
    param: impl FnOnce() -> String,
) -> Result<T, Problem> {
    if text.len() > limits.id_bytes {
        let detail = format!("may have {} characters, has {}", limits.id_bytes, text.len());
        return Err(Problem::new(Code::IdTooLong, detail)
            .at(param())
            .with("most", Extra::Count(limits.id_bytes as u64)));
    }
    make(text).map_err(|invalid| {
        let code = match invalid {
            Invalid::Length { length, .. } if length > 0 => Code::IdTooLong,
            _ => Code::InvalidValue,
        };
        Problem::new(code, invalid.to_string()).at(param())
    })
}

pub(crate) fn location(
    limits: &Limits,
    text: Option<&Text<'_>>,
    param: impl FnOnce() -> String,
) -> Result<Location, Problem> {
    match text {
        None => Ok(Location::main()),
        Some(text) => name(limits, &text.0, Location::new, param),
    }
}

pub(crate) fn quantity(number: Number, param: impl FnOnce() -> String) -> Result<Quantity, Problem> {
    let units = number.within(1, i64::from(MAX_QUANTITY), param)?;
    Ok(Quantity::new(units.unsigned_abs()).expect("its range was checked a line above"))
}

/// Units or money of 0 or more.
pub(crate) fn amount(number: Number, least: i64, param: impl FnOnce() -> String) -> Result<u64, Problem> {
    Ok(number.within(least, MOST_UNITS, param)?.unsigned_abs())
}

/// A change of units: anything but 0.
pub(crate) fn delta(number: Number) -> Result<i64, Problem> {
    match number.within(-MOST_UNITS, MOST_UNITS, || "delta".into())? {
        0 => Err(Problem::new(Code::InvalidValue, "must not be 0: nothing would change").at("delta")),
        delta => Ok(delta),
    }
}

pub(crate) fn ttl_ms(number: Number) -> Result<u64, Problem> {
    Ok(number.within(TTL_MS.0, TTL_MS.1, || "ttl_ms".into())?.unsigned_abs())
}

/// 1 to `limits.lines` lines.
pub(crate) fn count_lines(limits: &Limits, lines: usize) -> Result<(), Problem> {
    if lines == 0 {
        return Err(Problem::new(Code::InvalidValue, "must have at least one line").at("lines"));
    }
    if lines > limits.lines {
        let detail = format!("may have {} lines, has {lines}", limits.lines);
        return Err(Problem::new(Code::TooManyLines, detail)
            .at("lines")
            .with("most", Extra::Count(limits.lines as u64)));
    }
    Ok(())
}

pub(crate) fn lines(limits: &Limits, lines: &Lines<'_>) -> Result<Vec<StockLine>, Problem> {
    count_lines(limits, lines.len())?;
    let line = |(i, Object(line)): (usize, &Object<LineBody<'_>>)| {
        Ok(StockLine {
            sku: name(limits, &line.sku.0, Sku::new, || format!("lines[{i}].sku"))?,
            location: location(limits, line.location.as_ref(), || format!("lines[{i}].location"))?,
            quantity: quantity(line.quantity, || format!("lines[{i}].quantity"))?,
        })
    };
    lines.iter().enumerate().map(line).collect()
}

/// A text for people or for other systems: not empty, and not too long.
pub(crate) fn text(limits: &Limits, text: &Text<'_>, param: &str) -> Result<Arc<str>, Problem> {
    if text.0.is_empty() {
        return Err(Problem::new(Code::InvalidValue, "must not be empty").at(param));
    }
    if text.0.len() > limits.text_bytes {
        let detail = format!("may have {} bytes, has {}", limits.text_bytes, text.0.len());
        return Err(Problem::new(Code::TextTooLong, detail)
            .at(param)
            .with("most", Extra::Count(limits.text_bytes as u64)));
    }
    Ok(Arc::from(&*text.0))
}

/// A metadata key or value, which may be empty where it is a value.
pub(crate) fn metadata(
    limits: &Limits,
    text: &str,
    param: impl FnOnce() -> String,
) -> Result<Arc<str>, Problem> {
    if text.len() > limits.metadata_bytes {
        let detail = format!("may have {} bytes, has {}", limits.metadata_bytes, text.len());
        return Err(Problem::new(Code::MetadataTooLong, detail)
            .at(param())
            .with("most", Extra::Count(limits.metadata_bytes as u64)));
    }
    Ok(Arc::from(text))
}

pub(crate) fn metadata_key(limits: &Limits, key: &str) -> Result<Arc<str>, Problem> {
    if key.is_empty() {
        return Err(Problem::new(Code::InvalidValue, "a key must not be empty").at("metadata"));
    }
    metadata(limits, key, || "metadata".into())
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(text: &Text<'_>, param: &str) -> Result<TimestampMs, Problem> {
    parse_time(&text.0).ok_or_else(|| {
        let detail = "must be a time in UTC to the millisecond, such as 2026-01-31T09:00:00.000Z";
        Problem::new(Code::InvalidValue, detail).at(param)
    })
}

fn parse_time(text: &str) -> Option<TimestampMs> {
    // jiff reads more than RFC 3339 (other calendars' notations, time zone names), so the shape
    // is checked first: yyyy-mm-ddThh:mm:ss[.fraction]Z.
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let (head, tail) = bytes.split_at_checked(shape.len())?;
    let fits = |(byte, form): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form };
    if !head.iter().zip(shape).all(fits) {
        return None;
    }
    match tail {
        [b'Z'] => {}
        [b'.', digits @ .., b'Z']
            if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    if time.subsec_nanosecond() % 1_000_000 != 0 {
        return None;
    }
    u64::try_from(time.as_millisecond()).ok().map(TimestampMs)
}

pub(crate) fn currency(text: &Text<'_>, param: &str) -> Result<Currency, Problem> {
    let known = text.0.len() == 3 && CURRENCIES.split_ascii_whitespace().any(|code| code == text.0);
    match text.0.as_bytes() {
        [a, b, c] if known => Ok(Currency([*a, *b, *c])),
        _ => {
            let detail = format!("{:?} is not a currency of ISO 4217", text.0);
            Err(Problem::new(Code::UnknownCurrency, detail).at(param))
        }
    }
}

/// ISO 4217, active codes as of 2025, with the funds and metals codes that amounts can be in.
pub(crate) const CURRENCIES: &str = "\
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD \
CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL \
GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD \
KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO \
NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD \
SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV \
WST XAD XAF XAG XAU XBA XBB XBC XBD XCD XCG XDR XOF XPD XPF XPT XSU XTS XUA YER ZAR ZMW ZWG";
