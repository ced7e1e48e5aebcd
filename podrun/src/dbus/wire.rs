//! D-Bus messages as bytes (D-Bus Specification, "Message Protocol" and "Marshaling"). Ours are little-endian; what comes is
//! read in either order, and nothing in it is believed beyond its own length.

#![forbid(unsafe_code)]

use super::Call;
use std::io;

/// The part of a header that tells how long the rest is.
pub const HEAD: usize = 16;

/// Far above what systemd's manager answers; the specification's own limit is 128 MiB.
const LARGEST: usize = 1 << 20;

/// How deep containers may lie in each other.
const DEEPEST: usize = 16;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    U32(u32),
    U64(u64),
    Text(String),
    /// An object's path.
    Path(String),
    Signature(String),
    /// Its elements' signature, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Path(text) | Self::Signature(text) => Some(text),
            Self::Variant(inner) => inner.text(),
            _ => None,
        }
    }

    pub fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::U32(_) => "u".into(),
            Self::U64(_) => "t".into(),
            Self::Text(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(of, _) => format!("a{of}"),
            Self::Struct(fields) => format!("({})", signature_of(fields)),
            Self::Variant(_) => "v".into(),
        }
    }
}

fn signature_of(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Call,
    Return,
    Error,
    Signal,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub kind: Type,
    pub serial: u32,
    pub member: Option<String>,
    pub error: Option<String>,
    pub reply_to: Option<u32>,
    pub body: Vec<Value>,
}

/// Bytes on their way out.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    fn u32(&mut self, number: u32) {
        self.pad(4);
        self.0.extend(number.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(byte) => self.0.push(*byte),
            Value::Bool(it) => self.u32(u32::from(*it)),
            Value::U32(number) => self.u32(*number),
            Value::U64(number) => {
                self.pad(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Text(text) | Value::Path(text) => {
                self.length(text.len());
                self.0.extend(text.bytes());
                self.0.push(0);
            }
            Value::Signature(text) => self.signature(text),
            Value::Array(of, elements) => self.array(of, elements),
            Value::Struct(fields) => {
                self.pad(8);
                fields.iter().for_each(|field| self.value(field));
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    /// Its length does not count the padding before the first element.
    fn array(&mut self, of: &str, elements: &[Value]) {
        self.u32(0);
        let at = self.0.len();
        self.pad(alignment(of.as_bytes()[0]));
        let start = self.0.len();
        elements.iter().for_each(|element| self.value(element));
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[at - 4..at].copy_from_slice(&length.to_le_bytes());
    }
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// A method call.
pub fn call(serial: u32, call: &Call<'_>, body: &[Value]) -> Vec<u8> {
    let fields = vec![
        field(1, Value::Path(call.path.to_owned())),
        field(2, Value::Text(call.interface.to_owned())),
        field(3, Value::Text(call.member.to_owned())),
    ];
    message(1, serial, fields, body)
}

/// What a peer says back, for whoever stands in for one.
pub fn answer(kind: Type, serial: u32, reply_to: u32, member: Option<&str>, body: &[Value]) -> Vec<u8> {
    let mut fields = Vec::new();
    let number = match kind {
        Type::Call => 1,
        Type::Return => 2,
        Type::Error => 3,
        Type::Signal => 4,
    };
    match (kind, member) {
        (Type::Error, Some(name)) => fields.push(field(4, Value::Text(name.to_owned()))),
        (_, Some(name)) => fields.push(field(3, Value::Text(name.to_owned()))),
        _ => {}
    }
    if kind != Type::Signal {
        fields.push(field(5, Value::U32(reply_to)));
    }
    message(number, serial, fields, body)
}

/// Of a header.
fn field(code: u8, value: Value) -> Value {
    Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
}

fn message(kind: u8, serial: u32, mut fields: Vec<Value>, body: &[Value]) -> Vec<u8> {
    if !body.is_empty() {
        fields.push(field(8, Value::Signature(signature_of(body))));
    }
    let mut inner = Writer::default();
    body.iter().for_each(|value| inner.value(value));
    let mut all = Writer(vec![b'l', kind, 0, 1]);
    all.length(inner.0.len());
    all.u32(serial);
    all.value(&Value::Array("(yv)".into(), fields));
    all.pad(8);
    all.0.extend(inner.0);
    all.0
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message with {what}"))
}

/// How many bytes follow the first [`HEAD`].
pub fn rest_of(head: &[u8; HEAD]) -> io::Result<usize> {
    let mut reader = Reader { bytes: head, at: 4, big: head[0] == b'B' };
    if !matches!(head[0], b'l' | b'B') || head[3] != 1 {
        return Err(bad("another protocol's head"));
    }
    let (body, _serial, fields) = (reader.length()?, reader.u32()?, reader.length()?);
    let rest = fields.next_multiple_of(8).checked_add(body).filter(|rest| *rest <= LARGEST);
    rest.ok_or_else(|| bad("more than 1 MiB in it"))
}

pub fn read(head: &[u8; HEAD], rest: &[u8]) -> io::Result<Message> {
    let bytes = [head.as_slice(), rest].concat();
    let mut reader = Reader { bytes: &bytes, at: 8, big: head[0] == b'B' };
    let kind = match head[1] {
        1 => Type::Call,
        2 => Type::Return,
        3 => Type::Error,
        4 => Type::Signal,
        _ => return Err(bad("an unknown type")),
    };
    let mut message =
        Message { kind, serial: reader.u32()?, member: None, error: None, reply_to: None, body: Vec::new() };
    let Value::Array(_, fields) = reader.one("a(yv)", 0)?.0 else { return Err(bad("no fields")) };
    let mut signature = String::new();
    for field in fields {
        let Value::Struct(pair) = field else { continue };
        match pair.as_slice() {
            [Value::Byte(3), value] => message.member = value.text().map(str::to_owned),
            [Value::Byte(4), value] => message.error = value.text().map(str::to_owned),
            [Value::Byte(5), Value::Variant(value)] => {
                if let Value::U32(number) = **value {
                    message.reply_to = Some(number);
                }
            }
            [Value::Byte(8), value] => signature = value.text().unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    reader.pad(8)?;
    let mut left = signature.as_str();
    while !left.is_empty() {
        let (value, taken) = reader.one(left, 0)?;
        message.body.push(value);
        left = left.get(taken..).unwrap_or_default();
    }
    Ok(message)
}

/// Bytes on their way in.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| bad("less in it than it says"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn pad(&mut self, to: usize) -> io::Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.pad(N)?;
        let mut bytes: [u8; N] = self.take(N)?.try_into().map_err(|_| bad("half a number"))?;
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn length(&mut self) -> io::Result<usize> {
        usize::try_from(self.u32()?).map_err(|_| bad("a length beyond all memory"))
    }

    fn text(&mut self, length: usize) -> io::Result<String> {
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| bad("text that is not UTF-8"))?;
        self.take(1)?;
        Ok(text)
    }

    /// One value of the first complete type of a signature, and how much of the signature that is.
    fn one(&mut self, signature: &str, depth: usize) -> io::Result<(Value, usize)> {
        if depth > DEEPEST {
            return Err(bad("values too deep in each other"));
        }
        let kind = signature.as_bytes().first().copied().ok_or_else(|| bad("a type missing"))?;
        let value = match kind {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            b'u' | b'i' | b'h' => Value::U32(self.u32()?),
            b't' | b'x' | b'd' => Value::U64(self.number().map(u64::from_le_bytes)?),
            b'n' | b'q' => Value::U32(u32::from(self.number().map(u16::from_le_bytes)?)),
            b's' | b'o' => {
                let length = self.length()?;
                let text = self.text(length)?;
                if kind == b's' { Value::Text(text) } else { Value::Path(text) }
            }
            b'g' => {
                let length = usize::from(self.take(1)?[0]);
                Value::Signature(self.text(length)?)
            }
            b'v' => {
                let length = usize::from(self.take(1)?[0]);
                let inner = self.text(length)?;
                Value::Variant(Box::new(self.one(&inner, depth + 1)?.0))
            }
            b'a' => return self.array(signature, depth),
            b'(' | b'{' => return self.fields(signature, depth),
            _ => return Err(bad("a type that is none")),
        };
        Ok((value, 1))
    }

    fn array(&mut self, signature: &str, depth: usize) -> io::Result<(Value, usize)> {
        let of = signature.get(1..).unwrap_or_default();
        let taken = complete(of).ok_or_else(|| bad("an array of nothing"))?;
        let length = self.length()?;
        self.pad(alignment(of.as_bytes()[0]))?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| bad("less in it than it says"))?;
        let mut elements = Vec::new();
        while self.at < end {
            elements.push(self.one(&of[..taken], depth + 1)?.0);
        }
        Ok((Value::Array(of[..taken].to_owned(), elements), 1 + taken))
    }

    fn fields(&mut self, signature: &str, depth: usize) -> io::Result<(Value, usize)> {
        self.pad(8)?;
        let mut at = 1;
        let mut fields = Vec::new();
        loop {
            match signature.as_bytes().get(at) {
                Some(b')' | b'}') => return Ok((Value::Struct(fields), at + 1)),
                Some(_) => {
                    let (value, taken) = self.one(signature.get(at..).unwrap_or_default(), depth + 1)?;
                    fields.push(value);
                    at += taken;
                }
                None => return Err(bad("a structure without an end")),
            }
        }
    }
}

/// The length of the first complete type.
fn complete(signature: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, byte) in signature.bytes().enumerate() {
        match byte {
            b'(' | b'{' => open += 1,
            b')' | b'}' => open = open.checked_sub(1)?,
            b'a' => continue,
            _ => {}
        }
        if open == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(bytes: &[u8]) -> io::Result<Message> {
        let head: [u8; HEAD] = bytes.get(..HEAD).ok_or_else(|| bad("no head"))?.try_into().unwrap();
        let rest = rest_of(&head)?;
        let rest = bytes.get(HEAD..HEAD + rest).ok_or_else(|| bad("no rest"))?;
        read(&head, rest)
    }

    fn properties() -> Vec<Value> {
        let property =
            |name: &str, value: Value| Value::Struct(vec![Value::Text(name.into()), Value::Variant(Box::new(value))]);
        vec![
            Value::Text("x.scope".into()),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("PIDs", Value::Array("u".into(), vec![Value::U32(7), Value::U32(8)])),
                    property("Delegate", Value::Bool(true)),
                    property("MemoryMax", Value::U64(1 << 40)),
                ],
            ),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ]
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let target = Call { path: "/org", interface: "org.i", member: "Do" };
        let message = through(&call(3, &target, &properties())).unwrap();
        assert_eq!((message.kind, message.serial, message.member.as_deref()), (Type::Call, 3, Some("Do")));
        assert_eq!(message.body, properties());
        let reply = through(&answer(Type::Return, 9, 3, None, &[Value::Path("/job/1".into())])).unwrap();
        assert_eq!((reply.reply_to, reply.body[0].text()), (Some(3), Some("/job/1")));
        let error = through(&answer(Type::Error, 9, 3, Some("org.Bad"), &[Value::Text("no".into())])).unwrap();
        assert_eq!((error.error.as_deref(), error.body[0].text()), (Some("org.Bad"), Some("no")));
    }

    /// The example of a method call's first bytes, by hand.
    #[test]
    fn a_head_is_as_the_specification_draws_it() {
        let bytes = call(1, &Call { path: "/a", interface: "b.c", member: "D" }, &[Value::U32(5)]);
        assert_eq!(&bytes[..12], &[b'l', 1, 0, 1, 4, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&bytes[bytes.len() - 4..], &[5, 0, 0, 0]);
        assert_eq!(bytes.len() % 8, 4);
    }

    #[test]
    fn a_message_in_the_other_order_is_read_as_well() {
        // error REPLY_SERIAL 1, no body, big-endian.
        let bytes = [b'B', 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 8, 5, 1, b'u', 0, 0, 0, 0, 1];
        let message = through(&bytes).unwrap();
        assert_eq!((message.kind, message.serial, message.reply_to), (Type::Error, 9, Some(1)));
    }

    #[test]
    fn whatever_comes_is_a_message_or_an_error() {
        let good = call(3, &Call { path: "/org", interface: "org.i", member: "Do" }, &properties());
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff, b'a', b'(', b'v'] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = through(&bytes);
                let _ = through(&bytes[..at]);
            }
        }
        let deep = Value::Signature("a".repeat(200));
        assert!(through(&answer(Type::Signal, 1, 0, Some("x"), &[Value::Variant(Box::new(deep))])).is_ok());
    }
}
