//! Action Message Format, version 0 (Adobe, AMF 0, 2007): the values in commands and metadata.
//!
//! Decoding is bounded in depth, in the number of values and by the bytes given: what a length or count claims is never
//! believed before the bytes are there.

use thiserror::Error;

/// Deepest nesting of objects and arrays. Commands have two levels, Enhanced RTMP three.
pub const DEPTH_MAX: usize = 8;
/// Most values of one message, nested ones counted. `onMetaData` of encoders has about thirty.
pub const VALUES_MAX: usize = 1024;

/// Markers (AMF 0 section 2.1).
mod marker {
    pub(super) const NUMBER: u8 = 0;
    pub(super) const BOOLEAN: u8 = 1;
    pub(super) const STRING: u8 = 2;
    pub(super) const OBJECT: u8 = 3;
    pub(super) const NULL: u8 = 5;
    pub(super) const UNDEFINED: u8 = 6;
    pub(super) const ECMA_ARRAY: u8 = 8;
    pub(super) const OBJECT_END: u8 = 9;
    pub(super) const STRICT_ARRAY: u8 = 10;
    pub(super) const DATE: u8 = 11;
    pub(super) const LONG_STRING: u8 = 12;
    pub(super) const UNSUPPORTED: u8 = 13;
    pub(super) const XML: u8 = 15;
    pub(super) const TYPED_OBJECT: u8 = 16;
}

/// Why bytes are not AMF 0, or more of it than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AmfError {
    /// The bytes end inside a value.
    #[error("value is cut short")]
    Truncated,
    /// A marker that is reserved, a reference, or the step to AMF 3.
    #[error("marker {0}")]
    Marker(u8),
    /// More than [`DEPTH_MAX`].
    #[error("values are nested too deep")]
    Depth,
    /// More than [`VALUES_MAX`].
    #[error("too many values")]
    TooMany,
}

/// A value. Text that is not UTF-8 has its wrong bytes replaced.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A truth value.
    Boolean(bool),
    /// Text, short or long, or an XML document.
    String(String),
    /// An object, typed or not, in the order of its properties.
    Object(Vec<(String, Value)>),
    /// Null.
    Null,
    /// Undefined, or of a type that its sender could not write.
    Undefined,
    /// An associative array.
    EcmaArray(Vec<(String, Value)>),
    /// An array.
    StrictArray(Vec<Value>),
    /// Milliseconds since 1970.
    Date(f64),
}

impl Value {
    /// Text as a value.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// An object of these properties.
    #[must_use]
    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        Self::Object(properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// The properties of an object or associative array; nothing of any other value.
    #[must_use]
    pub fn properties(&self) -> &[(String, Self)] {
        match self {
            Self::Object(properties) | Self::EcmaArray(properties) => properties,
            _ => &[],
        }
    }

    /// The elements of an array; nothing of any other value.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        if let Self::StrictArray(elements) = self { elements } else { &[] }
    }

    /// The property of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.properties().iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

/// All values of a message's payload.
///
/// # Errors
/// When any of them cannot be read.
pub fn decode(payload: &[u8]) -> Result<Vec<Value>, AmfError> {
    let mut reader = Reader { rest: payload, values: 0 };
    let mut values = Vec::new();
    while !reader.rest.is_empty() {
        values.push(reader.value(0)?);
    }
    Ok(values)
}

struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], AmfError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<f64, AmfError> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    fn short_text(&mut self) -> Result<String, AmfError> {
        let size = u16::from_be_bytes(self.array()?);
        Ok(String::from_utf8_lossy(self.take(size.into())?).into_owned())
    }

    fn long_text(&mut self) -> Result<String, AmfError> {
        let size = u32::from_be_bytes(self.array()?);
        let size = usize::try_from(size).map_err(|_| AmfError::Truncated)?;
        Ok(String::from_utf8_lossy(self.take(size)?).into_owned())
    }

    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        if depth > DEPTH_MAX {
            return Err(AmfError::Depth);
        }
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(AmfError::TooMany);
        }
        let [kind] = self.array()?;
        Ok(match kind {
            marker::NUMBER => Value::Number(self.number()?),
            marker::BOOLEAN => Value::Boolean(self.array::<1>()? != [0]),
            marker::STRING => Value::String(self.short_text()?),
            marker::LONG_STRING | marker::XML => Value::String(self.long_text()?),
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::TYPED_OBJECT => {
                self.short_text()?;
                Value::Object(self.properties(depth)?)
            }
            marker::ECMA_ARRAY => {
                // The count is a hint: some senders write 0.
                self.array::<4>()?;
                Value::EcmaArray(self.properties(depth)?)
            }
            marker::STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.array()?);
                let mut elements = Vec::new();
                for _ in 0..count {
                    elements.push(self.value(depth + 1)?);
                }
                Value::StrictArray(elements)
            }
            marker::DATE => {
                let date = self.number()?;
                // The time zone, which is reserved.
                self.array::<2>()?;
                Value::Date(date)
            }
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
            other => return Err(AmfError::Marker(other)),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, AmfError> {
        let mut properties = Vec::new();
        loop {
            let name = self.short_text()?;
            if name.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                self.take(1)?;
                return Ok(properties);
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }
}

/// Values as a message's payload.
#[must_use]
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| write(value, &mut out));
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(number) => {
            out.push(marker::NUMBER);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(truth) => out.extend_from_slice(&[marker::BOOLEAN, u8::from(*truth)]),
        Value::String(text) => write_text(text, out),
        Value::Object(properties) => {
            out.push(marker::OBJECT);
            write_properties(properties, out);
        }
        Value::Null => out.push(marker::NULL),
        Value::Undefined => out.push(marker::UNDEFINED),
        Value::EcmaArray(properties) => {
            out.push(marker::ECMA_ARRAY);
            write_count(properties.len(), out);
            write_properties(properties, out);
        }
        Value::StrictArray(elements) => {
            out.push(marker::STRICT_ARRAY);
            write_count(elements.len(), out);
            elements.iter().for_each(|element| write(element, out));
        }
        Value::Date(date) => {
            out.push(marker::DATE);
            out.extend_from_slice(&date.to_be_bytes());
            out.extend_from_slice(&[0; 2]);
        }
    }
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    if let Ok(size) = u16::try_from(text.len()) {
        out.push(marker::STRING);
        out.extend_from_slice(&size.to_be_bytes());
    } else {
        out.push(marker::LONG_STRING);
        write_count(text.len(), out);
    }
    out.extend_from_slice(text.as_bytes());
}

fn write_properties(properties: &[(String, Value)], out: &mut Vec<u8>) {
    for (name, value) in properties {
        // A name has two bytes for its length; a longer one is nothing that we ever make.
        let Ok(size) = u16::try_from(name.len()) else { continue };
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        write(value, out);
    }
    out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `connect` as ffmpeg 5.1 sends it, shortened.
    const CONNECT: &[u8] =
        b"\x02\x00\x07connect\x00\x3f\xf0\0\0\0\0\0\0\x03\x00\x03app\x02\x00\x04live\x00\x05tcUrl\
        \x02\x00\x11rtmp://h:1935/app\x00\x04fpad\x01\x00\x00\x00\x09";

    #[test]
    fn a_command_is_read_and_written_byte_for_byte() {
        let values = decode(CONNECT).unwrap();
        assert_eq!((values[0].as_str(), values[1].as_number()), (Some("connect"), Some(1.0)));
        assert_eq!(values[2].get("app").and_then(Value::as_str), Some("live"));
        assert_eq!(values[2].get("fpad"), Some(&Value::Boolean(false)));
        assert_eq!(encode(&values), CONNECT);
        for length in 1..CONNECT.len() {
            // A cut between two values leaves whole ones.
            let whole = [10, 19].contains(&length);
            assert_eq!(decode(&CONNECT[..length]).is_ok(), whole, "{length}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let deep = [marker::OBJECT, 0, 1, b'a'].repeat(100_000);
        assert_eq!(decode(&deep), Err(AmfError::Depth));
        let deep = [marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(100_000);
        assert_eq!(decode(&deep), Err(AmfError::Depth));
        assert_eq!(decode(&[marker::NULL; 100_000]), Err(AmfError::TooMany));
        assert_eq!(decode(&[marker::STRICT_ARRAY, 0xFF, 0xFF, 0xFF, 0xFF]), Err(AmfError::Truncated));
        assert_eq!(decode(&[marker::LONG_STRING, 0xFF, 0xFF, 0xFF, 0xFF]), Err(AmfError::Truncated));
        assert_eq!(decode(&[7, 0, 0]), Err(AmfError::Marker(7)));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u32>().prop_map(|n| Value::Number(n.into())),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,20}".prop_map(Value::String),
            Just(Value::Null),
            Just(Value::Undefined),
            any::<u32>().prop_map(|n| Value::Date(n.into())),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let named = prop::collection::vec(("[a-z]{1,9}", inner.clone()), 0..5);
            prop_oneof![
                named.clone().prop_map(Value::Object),
                named.prop_map(Value::EcmaArray),
                prop::collection::vec(inner, 0..5).prop_map(Value::StrictArray),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(values in prop::collection::vec(values(), 0..4)) {
            prop_assert_eq!(decode(&encode(&values)).unwrap(), values);
        }
    }
}
