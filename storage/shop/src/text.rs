//! The text of a name. Its bytes are those of any string; only how it lies in memory is its own: an order's
//! way through the shop copies each of its names about ten times.

use crate::ids::MAX_ID_BYTES;
use bincode::de::read::Reader;
use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use smol_str::SmolStr;
use std::fmt;

/// At most [`MAX_ID_BYTES`] long. Up to 23 bytes lie in place, more are shared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(SmolStr);

impl Text {
    pub(crate) fn new(text: &str) -> Self {
        Text(SmolStr::new(text))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Encode for Text {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<Context> Decode<Context> for Text {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let length = usize::decode(decoder)?;
        decoder.claim_bytes_read(length)?;
        let mut bytes = [0; MAX_ID_BYTES];
        let bytes = bytes.get_mut(..length).ok_or(DecodeError::Other("a name is too long"))?;
        decoder.reader().read(bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|inner| DecodeError::Utf8 { inner })?;
        Ok(Text::new(text))
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for Text {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Text::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_encoded_as_any_string() {
        let config = bincode::config::standard();
        for text in ["", "mug", &"x".repeat(23), &"x".repeat(24), &"x".repeat(MAX_ID_BYTES)] {
            let bytes = bincode::encode_to_vec(Text::new(text), config).expect("plain data");
            assert_eq!(bytes, bincode::encode_to_vec(text, config).expect("plain data"));
            let (decoded, used): (Text, usize) =
                bincode::decode_from_slice(&bytes, config).expect("its own bytes");
            assert_eq!((decoded.as_str(), used), (text, bytes.len()));
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_not_decoded() {
        let config = bincode::config::standard();
        let too_long = bincode::encode_to_vec("x".repeat(MAX_ID_BYTES + 1), config).expect("plain data");
        for bytes in
            [&too_long[..], &[2, 0xff, 0xff], &[3, b'a'], &[253, 255, 255, 255, 255, 255, 255, 255, 255]]
        {
            assert!(bincode::decode_from_slice::<Text, _>(bytes, config).is_err(), "{bytes:?}");
        }
    }
}
