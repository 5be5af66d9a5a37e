//! STUN messages (RFC 8489) as ICE uses them (RFC 8445 section 7): binding requests and their answers.
//!
//! What belongs here: reading, checking and writing messages. What an answer means for a connection is `ice`'s.
//! Lengths are checked before the `stun` crate sees a byte, because it trusts them.

use std::net::SocketAddr;

use stun::agent::TransactionId;
use stun::attributes::{
    ATTR_ERROR_CODE, ATTR_FINGERPRINT, ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_MESSAGE_INTEGRITY,
    ATTR_MESSAGE_INTEGRITY_SHA256, ATTR_NONCE, ATTR_PRIORITY, ATTR_REALM, ATTR_UNKNOWN_ATTRIBUTES,
    ATTR_USE_CANDIDATE, ATTR_USERNAME, ATTR_XORMAPPED_ADDRESS,
};
use stun::error_code::{ErrorCode, ErrorCodeAttribute};
use stun::fingerprint::FINGERPRINT;
use stun::integrity::MessageIntegrity;
use stun::message::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST,
    CLASS_SUCCESS_RESPONSE, Getter as _, METHOD_BINDING, Message, MessageType, Setter,
};
use stun::xoraddr::XorMappedAddress;

/// Bytes of the header (RFC 8489 section 5).
const HEADER_BYTES: usize = 20;
/// Largest message that is read. Browsers' checks have some 110 bytes; the longest user name allows 600 more.
pub const MESSAGE_MAX_BYTES: usize = 1280;
/// Most attributes of a message. Browsers send seven or eight.
pub const ATTRIBUTES_MAX: usize = 32;
/// Longest user name (RFC 8489 section 14.3).
const USERNAME_MAX_BYTES: usize = 513;

/// Why bytes are not a message that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// Shorter than its header says, or with something behind its end.
    #[error("stun message of {0} bytes has another length in its header")]
    Length(usize),
    /// More bytes than [`MESSAGE_MAX_BYTES`].
    #[error("stun message of {0} bytes is too long")]
    TooLong(usize),
    /// The magic cookie is wrong (RFC 8489 section 5).
    #[error("not a stun message")]
    Cookie,
    /// An attribute leads out of the message, or has another size than its type allows.
    #[error("stun attribute {0:#06x} has a wrong size")]
    Attribute(u16),
    /// More than [`ATTRIBUTES_MAX`].
    #[error("more than {ATTRIBUTES_MAX} stun attributes")]
    TooManyAttributes,
    /// FINGERPRINT is there and wrong, or is not last (RFC 8489 section 14.7).
    #[error("stun fingerprint is wrong")]
    Fingerprint,
    /// Not a message of the binding method.
    #[error("stun method is not binding")]
    Method,
}

/// What a binding message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// A good answer.
    Success,
    /// A bad one.
    Error,
}

/// The role that the sender of a check claims (RFC 8445 section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It nominates.
    Controlling,
    /// It leaves that to the other side.
    Controlled,
}

/// A binding message whose lengths and FINGERPRINT are right; its integrity is still to be checked.
#[derive(Clone, Debug)]
pub struct Binding {
    /// What it is.
    pub class: Class,
    /// USERNAME, when it is UTF-8.
    pub username: Option<String>,
    /// The role it claims.
    pub role: Option<Role>,
    /// USE-CANDIDATE is there (RFC 8445 section 7.1.2).
    pub use_candidate: bool,
    /// MESSAGE-INTEGRITY is there.
    pub has_integrity: bool,
    /// Attributes that must be understood and are not (RFC 8489 section 6.3.1).
    pub unknown: Vec<u16>,
    message: Message,
}

impl Binding {
    /// Reads a message. Attributes behind MESSAGE-INTEGRITY are not covered by it and therefore ignored, as RFC 8489
    /// section 14.5 wants.
    ///
    /// # Errors
    /// When it is not a well-formed message of the binding method.
    pub fn parse(datagram: &[u8]) -> Result<Self, StunError> {
        if datagram.len() > MESSAGE_MAX_BYTES {
            return Err(StunError::TooLong(datagram.len()));
        }
        let short = StunError::Length(datagram.len());
        let (header, body) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        let [t0, t1, l0, l1, c0, c1, c2, c3, ..] = *header;
        if [c0, c1, c2, c3] != stun::message::MAGIC_COOKIE.to_be_bytes() {
            return Err(StunError::Cookie);
        }
        if usize::from(u16::from_be_bytes([l0, l1])) != body.len() || body.len() % 4 != 0 {
            return Err(short);
        }
        let mut kind = MessageType::default();
        kind.read_value(u16::from_be_bytes([t0, t1]));
        if kind.method != METHOD_BINDING {
            return Err(StunError::Method);
        }
        let class = match kind.class {
            CLASS_REQUEST => Class::Request,
            CLASS_INDICATION => Class::Indication,
            CLASS_SUCCESS_RESPONSE => Class::Success,
            CLASS_ERROR_RESPONSE => Class::Error,
            _ => return Err(StunError::Method),
        };
        let mut binding = Self {
            class,
            username: None,
            role: None,
            use_candidate: false,
            has_integrity: false,
            unknown: Vec::new(),
            message: Message::new(),
        };
        let has_fingerprint = binding.read_attributes(body)?;
        binding.message.unmarshal_binary(datagram).map_err(|_| short)?;
        if has_fingerprint {
            FINGERPRINT.check(&binding.message).map_err(|_| StunError::Fingerprint)?;
        }
        Ok(binding)
    }

    /// Walks the attributes; says whether the last is FINGERPRINT.
    fn read_attributes(&mut self, mut rest: &[u8]) -> Result<bool, StunError> {
        let mut count = 0;
        while let Some((&[t0, t1, l0, l1], after)) = rest.split_first_chunk::<4>() {
            count += 1;
            if count > ATTRIBUTES_MAX {
                return Err(StunError::TooManyAttributes);
            }
            let kind = u16::from_be_bytes([t0, t1]);
            let wrong = StunError::Attribute(kind);
            let size = usize::from(u16::from_be_bytes([l0, l1]));
            let value = after.get(..size).ok_or(wrong)?;
            rest = after.get(size.next_multiple_of(4)..).ok_or(wrong)?;
            if kind == ATTR_FINGERPRINT.value() {
                if size != 4 || !rest.is_empty() {
                    return Err(StunError::Fingerprint);
                }
                return Ok(true);
            }
            if !self.has_integrity {
                self.read_attribute(kind, value)?;
            }
        }
        Ok(false)
    }

    fn read_attribute(&mut self, kind: u16, value: &[u8]) -> Result<(), StunError> {
        let size_is = |expected: bool| if expected { Ok(()) } else { Err(StunError::Attribute(kind)) };
        let is = |attribute: stun::attributes::AttrType| attribute.value() == kind;
        if is(ATTR_USERNAME) {
            size_is(value.len() <= USERNAME_MAX_BYTES)?;
            if self.username.is_none() {
                self.username = std::str::from_utf8(value).ok().map(str::to_owned);
            }
        } else if is(ATTR_MESSAGE_INTEGRITY) {
            size_is(value.len() == 20)?;
            self.has_integrity = true;
        } else if is(ATTR_USE_CANDIDATE) {
            size_is(value.is_empty())?;
            self.use_candidate = true;
        } else if is(ATTR_ICE_CONTROLLED) || is(ATTR_ICE_CONTROLLING) {
            size_is(value.len() == 8)?;
            let role = if is(ATTR_ICE_CONTROLLED) { Role::Controlled } else { Role::Controlling };
            self.role.get_or_insert(role);
        } else if is(ATTR_PRIORITY) {
            size_is(value.len() == 4)?;
        } else if kind < 0x8000 && !KNOWN.iter().any(|known| is(*known)) {
            self.unknown.push(kind);
        }
        Ok(())
    }

    /// Whether MESSAGE-INTEGRITY is there and was made with this password (short-term credentials, RFC 8489 section
    /// 9.1). The comparison takes the same time whatever differs.
    #[must_use]
    pub fn has_integrity_of(&mut self, password: &str) -> bool {
        let integrity = MessageIntegrity::new_short_term_integrity(password.to_owned());
        self.has_integrity && integrity.check(&mut self.message).is_ok()
    }

    /// Tells apart transactions.
    #[must_use]
    pub fn transaction_id(&self) -> [u8; 12] {
        self.message.transaction_id.0
    }

    /// XOR-MAPPED-ADDRESS of a good answer.
    #[must_use]
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        let mut address = XorMappedAddress::default();
        address.get_from(&self.message).ok().map(|()| SocketAddr::new(address.ip, address.port))
    }

    /// ERROR-CODE of a bad answer.
    #[must_use]
    pub fn error_code(&self) -> Option<u16> {
        let mut code = ErrorCodeAttribute::default();
        code.get_from(&self.message).ok().map(|()| code.code.0)
    }

    /// The answer to a good request: where it came from, signed.
    #[must_use]
    pub fn success(&self, from: SocketAddr, password: &str) -> Vec<u8> {
        let address = XorMappedAddress { ip: from.ip(), port: from.port() };
        build(self.message.transaction_id, BINDING_SUCCESS, &[&address], Some(password))
    }

    /// The answer to a bad request. With a password it is signed, which only an authenticated sender gets (RFC 8489
    /// section 9.1.3).
    #[must_use]
    pub fn error(&self, code: u16, password: Option<&str>) -> Vec<u8> {
        let reason: &[u8] = match code {
            401 => b"Unauthenticated",
            420 => b"Unknown Attribute",
            487 => b"Role Conflict",
            _ => b"Bad Request",
        };
        let error = ErrorCodeAttribute { code: ErrorCode(code), reason: reason.to_vec() };
        let unknown =
            stun::uattrs::UnknownAttributes(self.unknown.iter().map(|kind| attribute(*kind)).collect());
        let with_unknown: [&dyn Setter; 2] = [&error, &unknown];
        let attributes: &[&dyn Setter] = if code == 420 { &with_unknown } else { &with_unknown[..1] };
        build(self.message.transaction_id, BINDING_ERROR, attributes, password)
    }
}

/// Comprehension-required attributes that may stand in what we read, beside those with a branch of their own.
const KNOWN: [stun::attributes::AttrType; 6] = [
    ATTR_XORMAPPED_ADDRESS,
    ATTR_ERROR_CODE,
    ATTR_UNKNOWN_ATTRIBUTES,
    ATTR_REALM,
    ATTR_NONCE,
    ATTR_MESSAGE_INTEGRITY_SHA256,
];

/// What a client puts into a connectivity check (RFC 8445 section 7.2.2).
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// Tells apart transactions.
    pub transaction_id: [u8; 12],
    /// `<ufrag of the receiver>:<ufrag of the sender>`.
    pub username: &'a str,
    /// Password of the receiver.
    pub password: &'a str,
    /// The role claimed, with its tie-breaker.
    pub role: (Role, u64),
    /// Priority of a candidate learnt by this check.
    pub priority: u32,
    /// Nominates this pair.
    pub use_candidate: bool,
}

impl Check<'_> {
    /// The request as bytes, signed and with FINGERPRINT.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let raw = |kind: stun::attributes::AttrType, value: &[u8]| stun::attributes::RawAttribute {
            typ: kind,
            length: u16::try_from(value.len()).unwrap_or(u16::MAX),
            value: value.to_vec(),
        };
        let (role, tie_breaker) = self.role;
        let role = match role {
            Role::Controlling => ATTR_ICE_CONTROLLING,
            Role::Controlled => ATTR_ICE_CONTROLLED,
        };
        let mut attributes = vec![
            raw(ATTR_USERNAME, self.username.as_bytes()),
            raw(ATTR_PRIORITY, &self.priority.to_be_bytes()),
            raw(role, &tie_breaker.to_be_bytes()),
        ];
        if self.use_candidate {
            attributes.push(raw(ATTR_USE_CANDIDATE, &[]));
        }
        let setters: Vec<&dyn Setter> = attributes.iter().map(|attribute| attribute as &dyn Setter).collect();
        build(TransactionId(self.transaction_id), BINDING_REQUEST, &setters, Some(self.password))
    }
}

fn attribute(kind: u16) -> stun::attributes::AttrType {
    stun::attributes::AttrType(kind)
}

fn build(
    transaction_id: TransactionId,
    kind: MessageType,
    attributes: &[&dyn Setter],
    password: Option<&str>,
) -> Vec<u8> {
    let mut message = Message::new();
    message.transaction_id = transaction_id;
    message.typ = kind;
    message.write_header();
    let integrity = password.map(|text| MessageIntegrity::new_short_term_integrity(text.to_owned()));
    let integrity = integrity.as_ref().map(|integrity| integrity as &dyn Setter);
    for setter in attributes.iter().copied().chain(integrity).chain([&FINGERPRINT as &dyn Setter]) {
        // Fails only for values that are too long; ours are checked or constant.
        let _ = setter.add_to(&mut message);
    }
    message.raw
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> Check<'static> {
        Check {
            transaction_id: *b"0123456789ab",
            username: "server:browser",
            password: "the password of the server",
            role: (Role::Controlling, 42),
            priority: 1_853_824_767,
            use_candidate: true,
        }
    }

    #[test]
    fn a_check_is_read_back_and_its_answer_names_the_sender() {
        let mut request = Binding::parse(&check().build()).unwrap();
        assert_eq!((request.class, request.username.as_deref()), (Class::Request, Some("server:browser")));
        assert_eq!((request.role, request.use_candidate), (Some(Role::Controlling), true));
        assert!(request.unknown.is_empty());
        assert!(request.has_integrity_of(check().password));
        assert!(!request.has_integrity_of("another password of the server"));
        for from in ["192.0.2.7:40000", "[2001:db8::7]:9"] {
            let from: SocketAddr = from.parse().unwrap();
            let mut answer = Binding::parse(&request.success(from, "pw")).unwrap();
            assert_eq!((answer.class, answer.mapped_address()), (Class::Success, Some(from)));
            assert_eq!(answer.transaction_id(), check().transaction_id);
            assert!(answer.has_integrity_of("pw"));
        }
        let mut refused = Binding::parse(&request.error(487, Some("pw"))).unwrap();
        assert_eq!((refused.class, refused.error_code()), (Class::Error, Some(487)));
        assert!(refused.has_integrity_of("pw"));
        assert!(!Binding::parse(&request.error(401, None)).unwrap().has_integrity);
    }

    #[test]
    fn what_stands_behind_the_integrity_is_not_believed() {
        let plain = Check { use_candidate: false, ..check() }.build();
        // FINGERPRINT (8 bytes) is cut off, a forged USE-CANDIDATE appended.
        let mut forged = plain[..plain.len() - 8].to_vec();
        forged.extend_from_slice(&[0x00, 0x25, 0, 0]);
        let length = u16::try_from(forged.len() - HEADER_BYTES).unwrap();
        forged[2..4].copy_from_slice(&length.to_be_bytes());
        let mut read = Binding::parse(&forged).unwrap();
        assert!(read.has_integrity_of(check().password), "the signed part is untouched");
        assert!(!read.use_candidate);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = check().build();
        // Another type in place of FINGERPRINT, which is optional and behind the signed part, is no forgery.
        let fingerprint_type = (good.len() - 8) * 8..(good.len() - 6) * 8;
        for bit in (0..good.len() * 8).filter(|bit| !fingerprint_type.contains(bit)) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let accepted = Binding::parse(&bad).is_ok_and(|mut read| read.has_integrity_of(check().password));
            assert!(!accepted, "bit {bit}");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_allocated() {
        let good = check().build();
        assert_eq!(Binding::parse(&good[..19]).unwrap_err(), StunError::Length(19));
        assert!(matches!(Binding::parse(&good[..good.len() - 4]), Err(StunError::Length(_))));
        let mut longer = good.clone();
        longer.extend_from_slice(&[0; 4]);
        assert!(matches!(Binding::parse(&longer), Err(StunError::Length(_))), "something behind the end");
        assert_eq!(Binding::parse(&[0; 4000]).unwrap_err(), StunError::TooLong(4000));
        let message = |attributes: &[u8]| {
            let mut bytes = good[..HEADER_BYTES].to_vec();
            bytes.extend_from_slice(attributes);
            bytes[2..4].copy_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
            Binding::parse(&bytes).map(|_| ())
        };
        assert_eq!(message(&[0, 6, 0xFF, 0xFF]), Err(StunError::Attribute(6)));
        assert_eq!(message(&[0, 8, 0, 4, 1, 2, 3, 4]), Err(StunError::Attribute(8)), "short integrity");
        assert_eq!(message(&[0x80, 0x28, 0, 0]), Err(StunError::Fingerprint), "short fingerprint");
        assert_eq!(message(&[0x80, 0x22, 0, 0].repeat(33)), Err(StunError::TooManyAttributes));
        assert_eq!(message(&[0x80, 0x22, 0, 0].repeat(32)), Ok(()));
    }

    #[test]
    fn attributes_that_must_be_known_are_listed_in_the_answer() {
        let mut bytes = check().build()[..HEADER_BYTES].to_vec();
        bytes.extend_from_slice(&[0x7F, 0x01, 0, 0, 0xC0, 0x57, 0, 4, 1, 2, 3, 4]);
        bytes[3] = 12;
        let request = Binding::parse(&bytes).unwrap();
        assert_eq!(request.unknown, [0x7F01], "optional ones do not count");
        let answer = Binding::parse(&request.error(420, None)).unwrap();
        assert_eq!(answer.message.get(ATTR_UNKNOWN_ATTRIBUTES).unwrap(), [0x7F, 0x01]);
    }
}
