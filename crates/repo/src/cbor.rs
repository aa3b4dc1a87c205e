//! Stored records: deterministic CBOR through `minicbor`, with numbered fields.
//!
//! A record is a map from field numbers to values, written in ascending order, so that the same record is
//! always the same bytes, and only those bytes are the record: other ways to write it are refused. Fields that
//! a release does not know are skipped; a field whose meaning changes gets a new number.

use crate::object::BadObject;
use hikae_model::{Bytes, FileTime};

/// No record is nested deeper: a checkpoint comes to six.
const MAX_DEPTH: u32 = 16;

/// The bytes of a record.
pub(crate) fn to_bytes<T: minicbor::Encode<()>>(record: &T) -> Vec<u8> {
    minicbor::to_vec(record).expect("writing to memory does not fail")
}

/// The record that these bytes are, all of them.
pub(crate) fn from_bytes<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, BadObject> {
    let mut rest = bytes;
    let record = take(&mut rest)?;
    match rest.is_empty() {
        true => Ok(record),
        false => Err(BadObject::BadBody(format!("{} follow the record", Bytes(rest.len() as u64)))),
    }
}

/// Takes a record off the front of `bytes`.
pub(crate) fn take<'b, T: minicbor::Decode<'b, ()>>(bytes: &mut &'b [u8]) -> Result<T, BadObject> {
    let mut rest = *bytes;
    let bad = |what: &str| BadObject::BadBody(what.to_owned());
    skip(&mut rest, MAX_DEPTH).ok_or_else(|| bad("it is not deterministic CBOR"))?;
    let (record, rest) = bytes.split_at(bytes.len() - rest.len());
    *bytes = rest;
    minicbor::decode(record).map_err(|error| bad(&error.to_string()))
}

/// Walks over one value, in fields that nobody knows too. `None` if there is another way to write it (RFC 8949,
/// section 4.2.1), or if it is of a type that the format does not use: floats, tags, null.
fn skip(bytes: &mut &[u8], depth: u32) -> Option<()> {
    let (major, number) = take_head(bytes)?;
    match major {
        0 | 1 => Some(()),
        2 => take_bytes(bytes, number).map(drop),
        3 => take_bytes(bytes, number).filter(|text| std::str::from_utf8(text).is_ok()).map(drop),
        4 => (0..number).try_for_each(|_| skip(bytes, depth.checked_sub(1)?)),
        5 => {
            let mut last: &[u8] = &[];
            (0..number).try_for_each(|_| {
                let before = *bytes;
                skip(bytes, depth.checked_sub(1)?)?;
                let key = &before[..before.len() - bytes.len()];
                if key <= std::mem::replace(&mut last, key) {
                    return None;
                }
                skip(bytes, depth - 1)
            })
        }
        7 => matches!(number, 20 | 21).then_some(()),
        _ => None,
    }
}

/// The type of a value, and its number or length in its shortest form.
fn take_head(bytes: &mut &[u8]) -> Option<(u8, u64)> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    let (major, low) = (first >> 5, first & 31);
    if !(24..=27).contains(&low) {
        return (low < 24).then_some((major, u64::from(low)));
    }
    let length = 1_usize << (low - 24);
    let big_endian = take_bytes(bytes, length as u64)?;
    let number = big_endian.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let least = if length == 1 { 24 } else { 1 << (4 * length) };
    // A simple value of two bytes is none that we know.
    (number >= least && major != 7).then_some((major, number))
}

fn take_bytes<'b>(bytes: &mut &'b [u8], length: u64) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
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

#[cfg(test)]
mod tests {
    use super::*;
    use minicbor::{Decode, Encode};

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Record {
        #[n(0)]
        number: u64,
        #[n(2)]
        texts: Vec<String>,
    }

    #[test]
    fn a_record_has_one_form_and_unknown_fields_in_theirs_are_skipped() {
        let known = Record { number: 23, texts: vec!["a".to_owned()] };
        assert_eq!(to_bytes(&known), b"\xa2\x00\x17\x02\x81\x61a");
        let with_unknown = b"\xa4\x00\x17\x01\xa1\x41z\xf5\x02\x81\x61a\x03\x39\x01\x00";
        assert_eq!(from_bytes::<Record>(with_unknown).unwrap(), known);
        for (what, bytes) in [
            ("a longer number", b"\xa2\x00\x18\x17\x02\x81\x61a".as_slice()),
            ("a number of eight bytes", b"\xa2\x00\x1b\0\0\0\0\x01\0\0\0\x02\x80".split_at(10).0),
            ("a longer length", b"\xa2\x00\x17\x02\x98\x01\x61a"),
            ("a length of two bytes", b"\xa2\x00\x17\x02\x81\x79\x00\x01a"),
            ("an array without a length", b"\xa2\x00\x17\x02\x9f\x61a\xff"),
            ("a map without a length", b"\xbf\x00\x17\x02\x81\x61a\xff"),
            ("a text in pieces", b"\xa2\x00\x17\x02\x81\x7f\x61a\xff"),
            ("fields out of order", b"\xa2\x02\x81\x61a\x00\x17"),
            ("a field twice", b"\xa3\x00\x17\x00\x17\x02\x81\x61a"),
            ("an unknown field that is not shortest", b"\xa3\x00\x17\x01\x18\x01\x02\x81\x61a"),
            ("an unknown float", b"\xa3\x00\x17\x01\xf9\x00\x00\x02\x81\x61a"),
            ("an unknown tag", b"\xa3\x00\x17\x01\xc0\x01\x02\x81\x61a"),
            ("an unknown null", b"\xa3\x00\x17\x01\xf6\x02\x81\x61a"),
            ("a truth in two bytes", b"\xa3\x00\x17\x01\xf8\x15\x02\x81\x61a"),
            ("a text that is none", b"\xa3\x00\x17\x01\x61\xff\x02\x81\x61a"),
            ("a byte more", b"\xa2\x00\x17\x02\x81\x61a\x00"),
            ("a byte less", b"\xa2\x00\x17\x02\x81\x61"),
            ("more than memory", b"\xa2\x00\x17\x02\x9b\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            assert!(from_bytes::<Record>(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn a_value_nested_without_end_is_refused_before_the_stack_is() {
        let mut bytes = b"\xa3\x00\x17\x01".to_vec();
        bytes.resize(1 << 20, 0x81);
        assert!(from_bytes::<Record>(&bytes).is_err());
    }

    /// Each length changes its form where the next one begins.
    #[test]
    fn numbers_at_every_edge_are_read_as_they_are_written() {
        for power in 0..64 {
            for number in [1 << power, (1_u64 << power) - 1, u64::MAX] {
                assert_eq!(from_bytes::<u64>(&to_bytes(&number)).unwrap(), number);
                let negative = -1 - i64::try_from(number >> 1).unwrap();
                assert_eq!(from_bytes::<i64>(&to_bytes(&negative)).unwrap(), negative);
            }
        }
    }
}
