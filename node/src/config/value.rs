//! The types of settings, and their reading from text.

use serde::Serialize;
use std::fmt::{self, Display};
use std::path::PathBuf;

/// What a value looks like in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Integer,
    /// A string.
    Text,
    /// A list of strings; separated by commas in flags and variables.
    List,
}

/// A type that a setting can have.
pub trait Value: Sized {
    /// How it is written.
    const KIND: Kind;
    /// Reads it; the error says what is allowed.
    fn parse(text: &str) -> Result<Self, String>;
}

impl Value for u64 {
    const KIND: Kind = Kind::Integer;
    fn parse(text: &str) -> Result<Self, String> {
        // TOML's separator, so that 1_000 means the same everywhere.
        text.replace('_', "").parse().map_err(|_| "must be a whole number, 0 or more".to_owned())
    }
}

impl Value for String {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must name a directory".into()) } else { Ok(text.into()) }
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: Kind = T::KIND;
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}

impl<T: Value> Value for Vec<T> {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::parse).collect()
    }
}

/// `host:port`, where host is a name or an IP address (IPv6 in brackets).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Address(String);

impl Address {
    /// The text, as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether others could connect to it: not all addresses of a machine, nor whatever port is free.
    pub fn names_a_place(&self) -> bool {
        let anywhere = ["0.0.0.0", "[::]", "[::0]", "[0:0:0:0:0:0:0:0]"];
        self.0.rsplit_once(':').is_some_and(|(host, port)| {
            !anywhere.contains(&host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for Address {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        let why = || format!("must be host:port such as 127.0.0.1:8081, not {text:?}");
        let (host, port) = text.rsplit_once(':').ok_or_else(why)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if host.is_empty() || port.parse::<u16>().is_err() || !(bracketed || plain) {
            return Err(why());
        }
        Ok(Address(text.to_owned()))
    }
}

/// A first voter: its id and its peer address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Where its peers reach it.
    pub address: Address,
}

impl Value for Member {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        let why = || format!("must be id=host:port such as 1=127.0.0.1:9081, not {text:?}");
        let (id, address) = text.split_once('=').ok_or_else(why)?;
        match id.parse() {
            Ok(id) if id > 0 => Ok(Member { id, address: Address::parse(address)? }),
            _ => Err(why()),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Value for LogFormat {
    const KIND: Kind = Kind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("must be auto, text or json, not {text:?}")),
        }
    }
}
