//! Stored records: deterministic CBOR through `minicbor`, with numbered fields.
//!
//! A record is a map from field numbers to values, written in ascending order, so that the same record is
//! always the same bytes. Fields that a release does not know are skipped; a field whose meaning changes
//! gets a new number.

use crate::object::BadObject;
use hikae_model::{Bytes, FileTime};

/// The bytes of a record.
pub(crate) fn to_bytes<T: minicbor::Encode<()>>(record: &T) -> Vec<u8> {
    minicbor::to_vec(record).expect("writing to memory does not fail")
}

/// The record that these bytes are, all of them.
pub(crate) fn from_bytes<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, BadObject> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let record = decoder.decode().map_err(|error| BadObject::BadBody(error.to_string()))?;
    match decoder.position() == bytes.len() {
        true => Ok(record),
        false => {
            let rest = Bytes((bytes.len() - decoder.position()) as u64);
            Err(BadObject::BadBody(format!("{rest} follow the record")))
        }
    }
}

/// A time as microseconds since 1970, UTC.
pub(crate) mod time {
    use jiff::Timestamp;
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn encode<C, W: Write>(
        time: &Timestamp,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.i64(time.as_microsecond())?.ok()
    }

    pub(crate) fn decode<'b, C>(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Timestamp, Error> {
        Timestamp::from_microsecond(decoder.i64()?).map_err(Error::message)
    }
}

/// A file's time as the pair of seconds and nanoseconds.
pub(crate) fn file_time(pair: (i64, u32)) -> FileTime {
    FileTime { seconds: pair.0, nanoseconds: pair.1 }
}
