//! Bodies as they come in: what serde cannot know by itself, and where a mistake lies.
//!
//! A body is parsed once, into structs that borrow from it, and then turned into the shop's types.
//! Errors of shape (400) come from serde, errors of value (422) from the second step.

use crate::codes::Code;
use crate::limits::Limits;
use crate::problem::{Extra, Problem};
use serde::de::{
    self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Parses a whole body into `T`. `depth` is how deep it may nest.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], depth: usize) -> Result<T, Problem> {
    if nesting(body) > depth {
        return Err(Problem::new(Code::TooDeep, format!("the JSON nests deeper than {depth} levels"))
            .with("most", Extra::Count(depth as u64)));
    }
    parse_envelope(body)
}

/// The same for a `T` that keeps what may nest as it is, to be parsed later.
pub(crate) fn parse_envelope<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::new(Code::EmptyBody, "the body is empty"));
    }
    match serde_json::from_slice::<Object<T>>(body) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(explain::<T>(body, &error)),
    }
}

/// How deep arrays and objects nest. Counts brackets outside strings, so it is right for JSON and
/// harmless for anything else.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in body {
        if in_string {
            in_string = *byte != b'"' || escaped;
            escaped = *byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Parses a body that is known to be wrong once more, now keeping track of where it is.
fn explain<'a, T: Deserialize<'a>>(body: &'a [u8], plain: &serde_json::Error) -> Problem {
    if !plain.is_data() {
        return Problem::new(Code::InvalidJson, plain.to_string());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let path = match serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer) {
        Ok(_) => String::new(),
        Err(error) => error.path().to_string(),
    };
    let path = if path == "." { String::new() } else { path };
    let message = plain.to_string();
    let field = message.split('`').nth(1).unwrap_or_default();
    let (code, param) = if message.starts_with("unknown field") {
        (Code::UnknownField, named(&path, field))
    } else if message.starts_with("duplicate field") {
        (Code::DuplicateField, named(&path, field))
    } else if message.starts_with("missing field") {
        (Code::MissingField, named(&path, field))
    } else {
        (Code::InvalidType, path)
    };
    let problem = Problem::new(code, message);
    if param.is_empty() { problem } else { problem.at(param) }
}

/// The path of a field, whether or not `path` already ends in it.
fn named(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        _ if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        _ => format!("{path}.{field}"),
    }
}

/// A struct that comes as a JSON object. serde's own structs would take an array of the fields too.
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A string, borrowed from the body where it has no escapes.
#[derive(Debug)]
pub(crate) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A JSON number. Which integers may stand in a place is for the second step to say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Integer(i128),
    /// Has a fraction, an exponent, or more digits than any of our numbers.
    Other(f64),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number::Integer(number.into()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number::Integer(number.into()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number::Other(number))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

impl Number {
    /// An integer within `least..=most`, else 422 at `param`.
    pub fn within(self, least: i64, most: i64, param: impl FnOnce() -> String) -> Result<i64, Problem> {
        let found = match self {
            Number::Integer(number) => match i64::try_from(number) {
                Ok(number) if (least..=most).contains(&number) => return Ok(number),
                _ => number.to_string(),
            },
            Number::Other(number) => format!("{number:?}"),
        };
        let detail = format!("must be an integer from {least} to {most}, is {found}");
        Err(Problem::new(Code::InvalidValue, detail).at(param()))
    }
}

/// An object of strings in which no key stands twice.
pub(crate) struct Texts<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Texts<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for TextsVisitor<V> {
            type Value = Texts<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts<V>, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    insert_once(&mut texts, key, value)?;
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(TextsVisitor(PhantomData))
    }
}

fn insert_once<V, E: de::Error>(map: &mut BTreeMap<String, V>, key: String, value: V) -> Result<(), E> {
    if map.contains_key(&key) {
        return Err(E::custom(format_args!("duplicate field `{key}`")));
    }
    map.insert(key, value);
    Ok(())
}

/// Any JSON, written back in one canonical form: keys sorted, no white space. Two bodies that say
/// the same become the same command.
#[derive(Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Canonical {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Canonical>),
    Object(BTreeMap<String, Canonical>),
}

/// Beyond this a double does not tell neighbours apart.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl<'de> Deserialize<'de> for Canonical {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CanonicalVisitor)
    }
}

struct CanonicalVisitor;

impl<'de> Visitor<'de> for CanonicalVisitor {
    type Value = Canonical;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Canonical, E> {
        Ok(Canonical::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Canonical, E> {
        Ok(Canonical::Bool(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Canonical, E> {
        Ok(Canonical::Number(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Canonical, E> {
        Ok(Canonical::Number(value.into()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Canonical, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) if value.abs() < EXACT => Ok(Canonical::Number(number)),
            _ => Err(E::custom("a number too large to be kept exactly; send it as a string")),
        }
    }
    fn visit_str<E>(self, value: &str) -> Result<Canonical, E> {
        Ok(Canonical::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Canonical, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            list.push(element);
        }
        Ok(Canonical::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Canonical, A::Error> {
        object(map).map(Canonical::Object)
    }
}

fn object<'de, A: MapAccess<'de>>(mut map: A) -> Result<BTreeMap<String, Canonical>, A::Error> {
    let mut fields = BTreeMap::new();
    while let Some(key) = map.next_key::<String>()? {
        let value = map.next_value()?;
        insert_once(&mut fields, key, value)?;
    }
    Ok(fields)
}

/// The attributes of an item: a JSON object of any contents.
pub(crate) struct Attributes(BTreeMap<String, Canonical>);

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AttributesVisitor;
        impl<'de> Visitor<'de> for AttributesVisitor {
            type Value = Attributes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Attributes, A::Error> {
                object(map).map(Attributes)
            }
        }
        deserializer.deserialize_map(AttributesVisitor)
    }
}

impl Attributes {
    /// The canonical text; `None` for no attributes at all.
    pub fn canonical(&self, limits: &Limits) -> Result<Option<String>, Problem> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let text = serde_json::to_string(&self.0).expect("keys are strings and numbers are finite");
        if text.len() > limits.attributes_bytes {
            let detail =
                format!("attributes may have {} bytes, have {}", limits.attributes_bytes, text.len());
            return Err(Problem::new(Code::AttributesTooLarge, detail)
                .at("attributes")
                .with("most", Extra::Count(limits.attributes_bytes as u64)));
        }
        Ok(Some(text))
    }
}
