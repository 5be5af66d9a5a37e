use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::base::clock::Clock;
use crate::proto::tests::link::Link;

fn session(side: Side, certificate: &Arc<Certificate>, expected: &Certificate) -> Dtls {
    Dtls::new(DtlsSettings {
        side,
        certificate: Arc::clone(certificate),
        fingerprints: vec![expected.fingerprint_sha256().clone()],
        handshake_timeout: Duration::from_secs(10),
    })
}

/// Two ends with a seeded link between them, in real time: the crate's timer runs on the machine's clock.
struct Pair {
    clock: Clock,
    started: Instant,
    /// Client, server.
    ends: [Dtls; 2],
    /// Receiver and datagram.
    link: Link<(usize, Vec<u8>)>,
    /// Keys, or why there are none.
    results: [Option<Result<Keys, DtlsFailure>>; 2],
    closed: [bool; 2],
}

impl Pair {
    fn new(seed: u64, loss: f64, delay_ms: (u64, u64)) -> Self {
        let certificates = [(); 2].map(|()| Arc::new(Certificate::generate().unwrap()));
        let ends = [
            session(Side::Client, &certificates[0], &certificates[1]),
            session(Side::Server, &certificates[1], &certificates[0]),
        ];
        Self::of(ends, seed, loss, delay_ms)
    }

    fn of(ends: [Dtls; 2], seed: u64, loss: f64, delay_ms: (u64, u64)) -> Self {
        let clock = Clock::real();
        let now = clock.now();
        let mut pair = Self {
            clock,
            started: now,
            ends,
            link: Link::new(seed, loss, delay_ms),
            results: [None, None],
            closed: [false; 2],
        };
        pair.ends[1].start(now);
        pair.ends[0].start(now);
        pair.drain(0);
        pair.drain(1);
        pair
    }

    fn drain(&mut self, end: usize) -> Option<Instant> {
        loop {
            match self.ends[end].poll_output() {
                SessionOutput::Transmit(datagram) => self.link.send(self.clock.now(), (1 - end, datagram)),
                SessionOutput::Connected(keys) => self.results[end] = Some(Ok(keys)),
                SessionOutput::Failed(failure) => self.results[end] = Some(Err(failure)),
                SessionOutput::Closed => self.closed[end] = true,
                SessionOutput::Timeout(at) => return at,
            }
        }
    }

    /// One datagram or one deadline.
    fn step(&mut self) {
        let deadlines = [self.drain(0), self.drain(1)];
        let arrival = self.link.next_at();
        let next = deadlines.into_iter().flatten().chain(arrival).min();
        let now = self.clock.now();
        if let Some(next) = next.filter(|next| *next > now) {
            std::thread::park_timeout(next - now);
        }
        let now = self.clock.now();
        if let Some((end, datagram)) = self.link.receive(now) {
            self.ends[end].handle_datagram(now, &datagram);
            self.drain(end);
        }
        for (end, deadline) in deadlines.into_iter().enumerate() {
            if deadline.is_some_and(|at| at <= now) {
                self.ends[end].handle_timeout(now);
                self.drain(end);
            }
        }
    }

    /// Time until both ends were through, successful or not.
    fn run(&mut self) -> Duration {
        while self.results.iter().any(Option::is_none) {
            self.step();
        }
        self.clock.now() - self.started
    }

    fn keys(&self) -> [Keys; 2] {
        [0, 1].map(|end| self.results[end].clone().unwrap().unwrap())
    }
}

#[test]
fn both_ends_agree_on_keys() {
    let mut pair = Pair::new(1, 0.0, (0, 0));
    pair.run();
    let [client, server] = pair.keys();
    assert_eq!((&client.local, &client.remote), (&server.remote, &server.local));
    assert_ne!(client.local, client.remote);
    assert_eq!(client.profile, crate::proto::srtp::Profile::AeadAes128Gcm);
    assert_eq!((client.local.key.len(), client.local.salt.len()), (16, 12));
}

#[test]
fn a_certificate_that_was_not_announced_is_refused_by_either_end() {
    let certificates = [(); 3].map(|()| Arc::new(Certificate::generate().unwrap()));
    let right = |side, own: usize, other: usize| session(side, &certificates[own], &certificates[other]);
    let mut pair = Pair::of([right(Side::Client, 0, 1), right(Side::Server, 1, 2)], 1, 0.0, (0, 0));
    pair.run();
    assert_eq!(pair.results[1], Some(Err(DtlsFailure::Fingerprint)));
    let mut pair = Pair::of([right(Side::Client, 0, 2), right(Side::Server, 1, 0)], 1, 0.0, (0, 0));
    pair.run();
    assert_eq!(pair.results[0], Some(Err(DtlsFailure::Fingerprint)));
}

#[test]
fn the_last_flight_is_repeated_when_it_was_lost() {
    let mut pair = Pair::new(1, 0.0, (0, 0));
    // Everything goes through but the server's last flight, once.
    while pair.results[1].is_none() {
        pair.step();
    }
    pair.link.cut();
    assert!(pair.results[0].is_none());
    let took = pair.run();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let [client, server] = pair.keys();
    assert_eq!(client.local, server.remote);
}

#[test]
fn repetitions_of_the_last_flight_are_rationed() {
    let mut pair = Pair::new(1, 0.0, (0, 0));
    pair.run();
    let now = pair.clock.now();
    let handshake =
        [22, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 9, 0, 20].into_iter().chain([7; 20]).collect::<Vec<u8>>();
    let mut sent = |at| {
        pair.ends[1].handle_datagram(at, &handshake);
        std::iter::from_fn(|| match pair.ends[1].poll_output() {
            SessionOutput::Transmit(datagram) => Some(datagram),
            _ => None,
        })
        .count()
    };
    assert_eq!([sent(now), sent(now), sent(now + Duration::from_millis(49))], [1, 0, 0]);
    assert_eq!(sent(now + Duration::from_millis(50)), 1);
}

#[test]
fn a_goodbye_is_heard_and_a_forged_one_is_not() {
    let mut pair = Pair::new(1, 0.0, (0, 0));
    pair.run();
    let now = pair.clock.now();
    let clear = [21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0];
    assert_eq!(pair.ends[1].handle_datagram(now, &clear), 1);
    let forged =
        [21, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 9, 0, 26].into_iter().chain([7; 26]).collect::<Vec<u8>>();
    pair.ends[1].handle_datagram(now, &forged);
    pair.drain(1);
    assert!(!pair.closed[1]);
    pair.ends[0].close();
    pair.drain(0);
    assert!(pair.link.next_at().is_some());
    pair.step();
    assert!(pair.closed[1]);
}

#[test]
fn garbage_does_not_end_a_handshake() {
    let mut pair = Pair::new(1, 0.0, (0, 0));
    let mut random = StdRng::seed_from_u64(7);
    while pair.results.iter().any(Option::is_none) {
        let now = pair.clock.now();
        for end in 0..2 {
            for _ in 0..20 {
                let mut garbage = vec![0; random.random_range(1..200)];
                random.fill(&mut garbage[..]);
                garbage[0] = random.random_range(20..=63);
                if random.random_bool(0.5) {
                    // A record by its looks.
                    let size = u8::try_from(garbage.len()).unwrap();
                    let kind = random.random_range(20..=23);
                    let epoch = random.random_range(0..3);
                    garbage.splice(0..0, [kind, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 0, 0, size]);
                }
                pair.ends[end].handle_datagram(now, &garbage);
            }
            pair.ends[end].handle_datagram(now, &[22; 3000]);
        }
        pair.step();
    }
    pair.keys();
}

#[test]
fn a_handshake_that_nobody_answers_ends_in_time() {
    let clock = Clock::manual();
    let certificate = Arc::new(Certificate::generate().unwrap());
    for side in [Side::Client, Side::Server] {
        let mut end = session(side, &certificate, &certificate);
        end.start(clock.now());
        clock.advance(Duration::from_millis(9_999));
        end.handle_timeout(clock.now());
        let mut outputs = || {
            std::iter::from_fn(|| match end.poll_output() {
                SessionOutput::Timeout(_) => None,
                output => Some(output),
            })
            .collect::<Vec<_>>()
        };
        assert!(outputs().iter().all(|output| matches!(output, SessionOutput::Transmit(_))));
        clock.advance(Duration::from_millis(1));
        end.handle_timeout(clock.now());
        let last = std::iter::from_fn(|| match end.poll_output() {
            SessionOutput::Timeout(_) => None,
            output => Some(output),
        })
        .last();
        assert!(matches!(last, Some(SessionOutput::Failed(DtlsFailure::Timeout))), "{last:?}");
    }
}

/// 100 handshakes at once over a link that loses 5 % and one that loses 20 % of the datagrams, each delayed by
/// 10–50 ms, so that they overtake each other. The seed of a failure is told; `SEED=` runs it alone.
#[test]
fn handshakes_end_in_time_over_lossy_links() {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    for (loss, runs, least) in [(0.05, 100, 99), (0.20, 40, 39)] {
        let seeds: Vec<u64> = seed.map_or_else(|| (0..runs).collect(), |seed| vec![seed]);
        let mut pairs: Vec<_> = seeds.iter().map(|seed| Pair::new(*seed, loss, (10, 50))).collect();
        let mut took = vec![None; pairs.len()];
        while took.iter().any(Option::is_none) {
            for (pair, took) in pairs.iter_mut().zip(&mut took).filter(|(_, took)| took.is_none()) {
                pair.step();
                if pair.results.iter().all(Option::is_some) {
                    *took = Some(pair.clock.now() - pair.started);
                }
            }
        }
        let mut good = 0;
        let mut longest = Duration::ZERO;
        for ((pair, seed), took) in pairs.iter().zip(&seeds).zip(took) {
            let took = took.unwrap();
            if pair.results.iter().all(|result| matches!(result, Some(Ok(_))))
                && took < Duration::from_secs(10)
            {
                good += 1;
                longest = longest.max(took);
            } else {
                eprintln!("loss {loss}: SEED={seed} failed after {took:?}: {:?}", pair.results);
            }
        }
        eprintln!("loss {loss}: {good} of {} handshakes, the longest took {longest:?}", seeds.len());
        assert!(good >= least.min(seeds.len()), "{good} of {}", seeds.len());
    }
}
