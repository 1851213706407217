use std::net::Ipv4Addr;

use governor::clock::FakeRelativeClock;

use super::super::keys::{KeyClass, Keys, Scope};
use super::*;

const NOON: u64 = 20_000 * DAY + DAY / 2;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn limiter() -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
    let clock = FakeRelativeClock::default();
    (Limiter::with_clock(clock.clone()), clock)
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("more than nothing")
}

/// A key with a scope.
fn key(scope: Scope) -> Key {
    let mut keys = Keys::default();
    keys.make(KeyClass::Inference, None, scope)
        .expect("a key")
        .0
}

fn rated(rate: u32) -> Key {
    key(Scope {
        rate: Some(number(rate)),
        ..Scope::default()
    })
}

#[test]
fn l10_a_rate_lets_exactly_its_number_through_and_touches_no_other_key() {
    let (limiter, clock) = limiter();
    let (slow, other) = (rated(60), rated(60));
    let passed = |key: &Key, tries: u32| {
        let admitted = |_: &u32| limiter.admit(key, at(NOON)).is_ok();
        (0..tries).filter(admitted).count()
    };
    assert_eq!(passed(&slow, 600), 60, "a minute's worth at once");
    let refused = limiter.admit(&slow, at(NOON)).map(drop);
    let wait = Duration::from_secs(1);
    assert_eq!(
        refused,
        Err(Exceeded::Rate {
            limit: number(60),
            wait
        })
    );
    assert_eq!(passed(&other, 60), 60, "the other key");
    // A minute in which it asks ten times as often as it may.
    let mut count = 0;
    for _ in 0..600 {
        clock.advance(Duration::from_millis(100));
        count += passed(&slow, 1);
    }
    assert_eq!(count, 60);
    clock.advance(Duration::from_secs(3600));
    assert_eq!(passed(&slow, 600), 60, "an idle hour is not saved up");
}

#[test]
fn a_changed_rate_holds_from_the_next_request() {
    let (limiter, _) = limiter();
    let mut key = rated(1);
    assert!(limiter.admit(&key, at(NOON)).is_ok());
    assert!(limiter.admit(&key, at(NOON)).is_err());
    Arc::make_mut(&mut key.scope).rate = None;
    assert!(limiter.admit(&key, at(NOON)).is_ok());
    Arc::make_mut(&mut key.scope).rate = Some(number(2));
    assert!(limiter.admit(&key, at(NOON)).is_ok());
}

#[test]
fn seats_are_counted_and_come_back() {
    let (limiter, _) = limiter();
    let key = key(Scope {
        concurrency: Some(number(2)),
        ..Scope::default()
    });
    let one = limiter.admit(&key, at(NOON)).expect("a seat");
    let two = limiter.admit(&key, at(NOON)).expect("a seat");
    let copy = two.clone();
    let refused = || limiter.admit(&key, at(NOON)).map(drop);
    assert_eq!(refused(), Err(Exceeded::Concurrency(number(2))));
    drop(two);
    assert_eq!(
        refused(),
        Err(Exceeded::Concurrency(number(2))),
        "a copy is left"
    );
    drop(copy);
    let three = limiter.admit(&key, at(NOON)).expect("a seat");
    drop((one, three));
    assert!(limiter.admit(&key, at(NOON)).is_ok());
}

#[test]
fn what_is_refused_for_another_reason_costs_no_rate() {
    let (limiter, _) = limiter();
    let key = key(Scope {
        concurrency: Some(number(1)),
        rate: Some(number(2)),
        ..Scope::default()
    });
    let seat = limiter.admit(&key, at(NOON)).expect("a seat");
    for _ in 0..10 {
        let refused = limiter.admit(&key, at(NOON)).map(drop);
        assert_eq!(refused, Err(Exceeded::Concurrency(number(1))));
    }
    drop(seat);
    assert!(limiter.admit(&key, at(NOON)).is_ok());
    assert!(matches!(
        limiter.admit(&key, at(NOON)),
        Err(Exceeded::Rate { .. })
    ));
}

#[test]
fn tokens_are_counted_for_one_day_of_utc() {
    let (limiter, _) = limiter();
    let key = key(Scope {
        tokens_per_day: Some(100),
        ..Scope::default()
    });
    let spend = |tokens, now| {
        let seat = limiter.admit(&key, at(now)).map_err(|_| ())?;
        seat.spend(tokens, at(now));
        Ok::<_, ()>(())
    };
    assert_eq!(spend(99, NOON), Ok(()));
    assert_eq!(
        spend(500, NOON),
        Ok(()),
        "one is left, and the answer is not cut"
    );
    let refused = limiter.admit(&key, at(NOON)).map(drop);
    let wait = Duration::from_secs(DAY / 2);
    assert_eq!(refused, Err(Exceeded::Tokens { limit: 100, wait }));
    assert_eq!(spend(100, NOON + DAY / 2), Ok(()), "the next day");
    assert_eq!(spend(1, NOON + DAY / 2), Err(()));
}

#[test]
fn l11_l12_addresses_are_counted_apart_and_forgotten() {
    let (limiter, clock) = limiter();
    let peer = |text: &str| Peer::of(Some(text.parse().expect("an address")));
    let limit = number(10);
    let passed = |from: Peer| {
        let wrong = (0..100).filter(|_| limiter.wrong_key(from, limit).is_ok());
        let keyless = (0..100).filter(|_| limiter.admit_keyless(from, Some(limit)).is_ok());
        (wrong.count(), keyless.count())
    };
    assert_eq!(passed(peer("10.0.0.1")), (10, 10));
    assert_eq!(passed(peer("::ffff:10.0.0.1")), (0, 0), "the same address");
    assert_eq!(passed(peer("10.0.0.2")), (10, 10));
    assert_eq!(passed(peer("2001:db8::1")), (10, 10));
    assert_eq!(passed(peer("2001:db8::ffff:2")), (0, 0), "the same network");
    assert_eq!(passed(peer("2001:db8:0:1::1")), (10, 10));
    assert_eq!(passed(Peer::of(None)), (10, 10));
    let wait = limiter.wrong_key(peer("10.0.0.1"), limit);
    assert_eq!(
        wait,
        Err(Exceeded::WrongKeys {
            wait: Duration::from_secs(6)
        })
    );
    assert_eq!(
        limiter.admit_keyless(peer("10.0.0.1"), None),
        Ok(()),
        "no limit"
    );

    clock.advance(Duration::from_secs(120));
    for number in 0..=SWEEP {
        let address = Ipv4Addr::from(0x0a01_0000 + u32::try_from(number % 8).expect("small"));
        let _ = limiter.wrong_key(Peer::of(Some(address.into())), limit);
    }
    let kept = lock(&limiter.wrong_keys.limiter);
    let kept = kept.as_ref().map(|(_, limiter)| limiter.len());
    assert_eq!(kept, Some(8), "those of two minutes ago are gone");
}
