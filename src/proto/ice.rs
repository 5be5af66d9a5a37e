//! ICE-lite (RFC 8445 section 2.5): answering connectivity checks, and knowing from them who may send.
//!
//! The server has addresses of its own, so it never sends a check: whoever proves to know the password of the answer
//! is taken at the address it came from. The agent is always controlled; the other side nominates. Consent (RFC 7675)
//! is what the checks that keep coming prove.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::stun::{Binding, Class, Role, StunError};

/// Most addresses of one peer at a time: interfaces × address families × translations, with room.
pub const PATHS_MAX: usize = 16;
/// Error answers a second: enough for a mistaken peer, too few to be worth reflecting.
const ERROR_ANSWERS_PER_SECOND: u32 = 20;

/// User name fragment and password of one side (RFC 8445 section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `a=ice-ufrag`.
    pub ufrag: String,
    /// `a=ice-pwd`.
    pub pwd: String,
}

/// The password is left out.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

impl Credentials {
    /// New ones: 48 and 144 bits of randomness (RFC 8445 section 5.3 wants 24 and 128).
    #[must_use]
    pub fn generate(random: &mut dyn rand::RngCore) -> Self {
        let mut text = |length: usize| {
            let alphabet = rand::distr::slice::Choose::new(ALPHABET).ok();
            let characters = alphabet.map(|alphabet| random.sample_iter(alphabet).take(length).copied());
            characters.into_iter().flatten().map(char::from).collect::<String>()
        };
        Self { ufrag: text(8), pwd: text(24) }
    }
}

/// `ice-char` of RFC 8839 section 5.4.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Time limits of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IceSettings {
    /// How long the first good check may take.
    pub timeout: Duration,
    /// How long an address may send after its last good check (RFC 7675 section 5.1: 30 s).
    pub consent_timeout: Duration,
}

/// Why the agent gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceFailure {
    /// No good check came in time.
    Timeout,
    /// Good checks stopped coming.
    ConsentLost,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IceRefusal {
    /// Not a message that we read.
    #[error(transparent)]
    Message(#[from] StunError),
    /// Neither USERNAME nor MESSAGE-INTEGRITY, or only one of them.
    #[error("check without credentials")]
    NoCredentials,
    /// The user name is not for us, or the password is wrong.
    #[error("check with wrong credentials")]
    WrongCredentials,
    /// The other side claims to be controlled, which we are.
    #[error("role conflict")]
    RoleConflict,
    /// An attribute that must be understood and is not.
    #[error("unknown attribute")]
    UnknownAttribute,
    /// An answer or an indication: we send no requests.
    #[error("not a request")]
    NotRequest,
}

/// What came of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceOutcome {
    /// To be sent to where the datagram came from.
    pub answer: Option<Vec<u8>>,
    /// Why it was not taken.
    pub refusal: Option<IceRefusal>,
}

/// An address that proved to know our password.
#[derive(Clone, Copy, Debug)]
struct Path {
    remote: SocketAddr,
    checked: Instant,
}

/// The agent of one transport.
#[derive(Debug)]
pub struct IceLite {
    local: Credentials,
    settings: IceSettings,
    started: Instant,
    /// At most [`PATHS_MAX`], each with a good check not longer ago than the consent lasts.
    paths: Vec<Path>,
    nominated: Option<SocketAddr>,
    /// Whether any check was good so far.
    connected: bool,
    /// Beginning of the second in which error answers are counted, and how many there were.
    errors: (Instant, u32),
}

impl IceLite {
    /// An agent that waits for checks.
    #[must_use]
    pub fn new(local: Credentials, settings: IceSettings, now: Instant) -> Self {
        Self {
            local,
            settings,
            started: now,
            paths: Vec::new(),
            nominated: None,
            connected: false,
            errors: (now, 0),
        }
    }

    /// Our credentials.
    #[must_use]
    pub fn local(&self) -> &Credentials {
        &self.local
    }

    /// Takes a STUN datagram.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> IceOutcome {
        let mut binding = match Binding::parse(datagram) {
            Ok(binding) => binding,
            Err(error) => return IceOutcome { answer: None, refusal: Some(error.into()) },
        };
        match self.judge(&mut binding) {
            Ok(()) => {
                self.validated(now, from, binding.use_candidate);
                IceOutcome { answer: Some(binding.success(from, &self.local.pwd)), refusal: None }
            }
            Err((code, refusal)) => {
                // Signed once the sender has proved itself (RFC 8489 section 9.1.3 step by step).
                let signed = matches!(refusal, IceRefusal::RoleConflict | IceRefusal::UnknownAttribute);
                let code = code.filter(|_| self.may_answer_error(now));
                let password = signed.then_some(self.local.pwd.as_str());
                let answer = code.map(|code| binding.error(code, password));
                IceOutcome { answer, refusal: Some(refusal) }
            }
        }
    }

    /// RFC 8489 section 9.1.3, then 6.3.1, then RFC 8445 section 7.3.1.1. With an error comes the code to answer.
    fn judge(&self, binding: &mut Binding) -> Result<(), (Option<u16>, IceRefusal)> {
        if binding.class != Class::Request {
            return Err((None, IceRefusal::NotRequest));
        }
        let (Some(username), true) = (&binding.username, binding.has_integrity) else {
            return Err((Some(400), IceRefusal::NoCredentials));
        };
        // The second half is the other side's name and not checked (RFC 8445 section 7.3).
        let ours = username.split_once(':').is_some_and(|(first, _)| first == self.local.ufrag);
        if !ours || !binding.has_integrity_of(&self.local.pwd) {
            return Err((Some(401), IceRefusal::WrongCredentials));
        }
        if !binding.unknown.is_empty() {
            return Err((Some(420), IceRefusal::UnknownAttribute));
        }
        // A lite agent is always controlled (RFC 8445 section 6.1.1): the other side has to change its role.
        if binding.role == Some(Role::Controlled) {
            return Err((Some(487), IceRefusal::RoleConflict));
        }
        Ok(())
    }

    fn validated(&mut self, now: Instant, from: SocketAddr, nominates: bool) {
        self.connected = true;
        match self.paths.iter_mut().find(|path| path.remote == from) {
            Some(path) => path.checked = now,
            None => {
                if self.paths.len() >= PATHS_MAX {
                    let others = self.paths.iter().enumerate();
                    let others = others.filter(|(_, path)| Some(path.remote) != self.nominated);
                    if let Some((oldest, _)) = others.min_by_key(|(_, path)| path.checked) {
                        self.paths.swap_remove(oldest);
                    }
                }
                self.paths.push(Path { remote: from, checked: now });
            }
        }
        if nominates {
            // The newest nomination holds: that is how browsers move to another network.
            self.nominated = Some(from);
        }
    }

    fn may_answer_error(&mut self, now: Instant) -> bool {
        let (second, count) = &mut self.errors;
        if now.saturating_duration_since(*second) >= Duration::from_secs(1) {
            (*second, *count) = (now, 0);
        }
        *count += 1;
        *count <= ERROR_ANSWERS_PER_SECOND
    }

    /// Whether anything but checks is taken from this address.
    #[must_use]
    pub fn allows(&self, now: Instant, from: SocketAddr) -> bool {
        let fresh = |path: &Path| now.saturating_duration_since(path.checked) < self.settings.consent_timeout;
        self.paths.iter().any(|path| path.remote == from && fresh(path))
    }

    /// Where to send: the nominated address, before a nomination the one with the newest check.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        self.nominated.or_else(|| self.paths.iter().max_by_key(|path| path.checked).map(|path| path.remote))
    }

    /// Forgets addresses whose consent ended; says when nobody is left.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<IceFailure> {
        let consent = self.settings.consent_timeout;
        self.paths.retain(|path| now.saturating_duration_since(path.checked) < consent);
        if self.nominated.is_some_and(|nominated| !self.paths.iter().any(|path| path.remote == nominated)) {
            self.nominated = None;
        }
        match (self.connected, self.paths.is_empty()) {
            (true, true) => Some(IceFailure::ConsentLost),
            (false, _) if now >= self.started + self.settings.timeout => Some(IceFailure::Timeout),
            _ => None,
        }
    }

    /// When [`IceLite::handle_timeout`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let first = self.paths.iter().map(|path| path.checked).min();
        first.map_or(self.started + self.settings.timeout, |checked| checked + self.settings.consent_timeout)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::base::clock::Clock;
    use crate::proto::stun::Check;

    struct Setup {
        clock: Clock,
        ice: IceLite,
    }

    fn setup() -> Setup {
        let clock = Clock::manual();
        let local = Credentials::generate(&mut rand::rngs::StdRng::seed_from_u64(1));
        let settings =
            IceSettings { timeout: Duration::from_secs(15), consent_timeout: Duration::from_secs(30) };
        Setup { ice: IceLite::new(local, settings, clock.now()), clock }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    impl Setup {
        fn check(
            &mut self,
            from: &str,
            change: impl FnOnce(&mut Check<'_>),
        ) -> (Option<Binding>, Option<IceRefusal>) {
            let local = self.ice.local().clone();
            let username = format!("{}:them", local.ufrag);
            let mut check = Check {
                transaction_id: [7; 12],
                username: &username,
                password: &local.pwd,
                role: (Role::Controlling, 1),
                priority: 1,
                use_candidate: false,
            };
            change(&mut check);
            let outcome = self.ice.handle_datagram(self.clock.now(), address(from), &check.build());
            (outcome.answer.map(|bytes| Binding::parse(&bytes).unwrap()), outcome.refusal)
        }
    }

    #[test]
    fn who_knows_the_password_may_send_from_where_it_is() {
        let mut s = setup();
        assert!(!s.ice.allows(s.clock.now(), address("192.0.2.1:1")));
        let (answer, refusal) = s.check("192.0.2.1:1", |_| {});
        assert_eq!((refusal, answer.unwrap().mapped_address()), (None, Some(address("192.0.2.1:1"))));
        assert!(s.ice.allows(s.clock.now(), address("192.0.2.1:1")));
        assert!(!s.ice.allows(s.clock.now(), address("192.0.2.1:2")), "another port is a stranger");
        assert_eq!(s.ice.target(), Some(address("192.0.2.1:1")));
    }

    #[test]
    fn wrong_credentials_are_told_so_and_change_nothing() {
        let mut s = setup();
        let (answer, refusal) = s.check("192.0.2.1:1", |check| check.password = "not the password at all");
        assert_eq!(refusal, Some(IceRefusal::WrongCredentials));
        let answer = answer.unwrap();
        assert_eq!((answer.error_code(), answer.has_integrity), (Some(401), false));
        let (answer, refusal) = s.check("192.0.2.1:1", |check| check.username = "nobody:them");
        assert_eq!(refusal, Some(IceRefusal::WrongCredentials));
        assert_eq!(answer.unwrap().error_code(), Some(401));
        assert_eq!(s.ice.target(), None);
        assert!(!s.ice.allows(s.clock.now(), address("192.0.2.1:1")));
    }

    #[test]
    fn a_controlled_peer_is_told_to_change_its_role() {
        let mut s = setup();
        let password = s.ice.local().pwd.clone();
        let (answer, refusal) = s.check("192.0.2.1:1", |check| check.role = (Role::Controlled, u64::MAX));
        assert_eq!(refusal, Some(IceRefusal::RoleConflict));
        let mut answer = answer.unwrap();
        assert!(answer.error_code() == Some(487) && answer.has_integrity_of(&password));
        assert_eq!(s.ice.target(), None);
    }

    #[test]
    fn the_newest_nomination_holds() {
        let mut s = setup();
        s.check("192.0.2.1:1", |check| check.use_candidate = true);
        s.check("198.51.100.9:9", |_| {});
        assert_eq!(s.ice.target(), Some(address("192.0.2.1:1")), "a check alone moves nothing");
        s.check("198.51.100.9:9", |check| check.use_candidate = true);
        assert_eq!(s.ice.target(), Some(address("198.51.100.9:9")));
        assert!(s.ice.allows(s.clock.now(), address("192.0.2.1:1")), "packets still on the way are taken");
    }

    #[test]
    fn consent_ends_when_checks_stop() {
        let mut s = setup();
        s.check("192.0.2.1:1", |check| check.use_candidate = true);
        s.clock.advance(Duration::from_secs(20));
        s.check("198.51.100.9:9", |_| {});
        assert_eq!(s.ice.handle_timeout(s.clock.now()), None);
        s.clock.advance(Duration::from_secs(10));
        assert!(!s.ice.allows(s.clock.now(), address("192.0.2.1:1")));
        assert_eq!(s.ice.handle_timeout(s.clock.now()), None);
        assert_eq!(s.ice.target(), Some(address("198.51.100.9:9")), "what is left takes over");
        s.clock.advance(Duration::from_millis(19_999));
        assert_eq!(s.ice.handle_timeout(s.clock.now()), None);
        s.clock.advance(Duration::from_millis(1));
        assert_eq!(s.ice.deadline(), s.clock.now());
        assert_eq!(s.ice.handle_timeout(s.clock.now()), Some(IceFailure::ConsentLost));
    }

    #[test]
    fn without_any_good_check_the_agent_gives_up() {
        let mut s = setup();
        s.check("192.0.2.1:1", |check| check.password = "wrong");
        s.clock.advance(Duration::from_millis(14_999));
        assert_eq!(s.ice.handle_timeout(s.clock.now()), None);
        s.clock.advance(Duration::from_millis(1));
        assert_eq!(s.ice.handle_timeout(s.clock.now()), Some(IceFailure::Timeout));
    }

    #[test]
    fn a_flood_of_addresses_does_not_push_out_the_nominated_one() {
        let mut s = setup();
        s.check("192.0.2.1:1", |check| check.use_candidate = true);
        for port in 1..200 {
            s.clock.advance(Duration::from_millis(1));
            s.check(&format!("203.0.113.1:{port}"), |_| {});
        }
        assert_eq!(s.ice.paths.len(), PATHS_MAX);
        assert!(s.ice.allows(s.clock.now(), address("192.0.2.1:1")));
        assert!(s.ice.allows(s.clock.now(), address("203.0.113.1:199")));
    }

    #[test]
    fn bad_checks_get_few_answers() {
        let mut s = setup();
        let answered = (0..1000).filter(|_| s.check("192.0.2.1:1", |c| c.password = "wrong").0.is_some());
        assert_eq!(answered.count(), 20);
        s.clock.advance(Duration::from_secs(1));
        assert!(s.check("192.0.2.1:1", |check| check.password = "wrong").0.is_some());
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_not_answered() {
        let mut s = setup();
        let request = Binding::parse(
            &Check {
                transaction_id: [1; 12],
                username: "a:b",
                password: "c",
                role: (Role::Controlling, 1),
                priority: 1,
                use_candidate: false,
            }
            .build(),
        );
        let answer = request.unwrap().success(address("192.0.2.1:1"), &s.ice.local().pwd);
        let outcome = s.ice.handle_datagram(s.clock.now(), address("192.0.2.1:1"), &answer);
        assert_eq!(outcome, IceOutcome { answer: None, refusal: Some(IceRefusal::NotRequest) });
    }
}
