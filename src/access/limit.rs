//! How much one key and one address may do: requests in a minute, requests at
//! once, tokens in a day. The clock is passed in. It counts and refuses; what a
//! refusal looks like to a client is told by `access`.
//!
//! The rates are the generic cell rate algorithm (ITU-T I.371), as `governor`
//! has it: a minute's allowance may be used at once and comes back evenly.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::keys::{Key, seconds};

/// A day, seconds.
const DAY: u64 = 86_400;

/// After so many questions the addresses that have their whole allowance again
/// are forgotten.
const SWEEP: u64 = 4096;

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// Too many requests in a minute with this key.
    #[error("this key may make {limit} requests in a minute")]
    Rate {
        /// Requests in a minute.
        limit: NonZeroU32,
        /// When one more fits.
        wait: Duration,
    },
    /// Too many requests at once with this key.
    #[error("this key may make {0} requests at once")]
    Concurrency(NonZeroU32),
    /// The key has used its tokens.
    #[error(
        "this key may use {limit} tokens a day and has used them; the day ends at midnight UTC"
    )]
    Tokens {
        /// Tokens in a day.
        limit: u64,
        /// Until the next day.
        wait: Duration,
    },
    /// Too many requests without a key from one address.
    #[error("too many requests without a key from this address")]
    Address {
        /// When one more fits.
        wait: Duration,
    },
    /// Too many missing or wrong keys from one address.
    #[error("too many requests with a missing or wrong key from this address")]
    WrongKeys {
        /// When one more is answered as such.
        wait: Duration,
    },
}

/// Whoever can be told apart without a key: an address, of IPv6 the network of
/// 64 bits that one subscriber has; nothing for Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(Option<IpAddr>);

impl Peer {
    /// Who dials from an address.
    pub fn of(address: Option<IpAddr>) -> Self {
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address => address,
        }))
    }
}

/// Counts for all keys and addresses.
pub struct Limiter<C: Clock = MonotonicClock> {
    clock: C,
    addresses: Peers<C>,
    wrong_keys: Peers<C>,
    meters: Mutex<HashMap<String, Meter<C>>>,
}

/// What is counted for one key.
struct Meter<C: Clock> {
    rate: Option<(NonZeroU32, Direct<C>)>,
    account: Arc<Account>,
}

type Quiet<C> = NoOpMiddleware<<C as Clock>::Instant>;
type Direct<C> = RateLimiter<NotKeyed, InMemoryState, C, Quiet<C>>;
type Keyed<C> = RateLimiter<Peer, HashMapStateStore<Peer>, C, Quiet<C>>;

/// What outlives the admission of a request.
#[derive(Debug, Default)]
struct Account {
    running: AtomicU32,
    tokens: Mutex<Tokens>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tokens {
    /// Days since 1970.
    day: u64,
    used: u64,
}

/// The permission of one request, given back with the last clone.
#[derive(Debug)]
pub struct Seat(Arc<Account>);

impl Seat {
    /// Counts tokens against the key's day.
    pub fn spend(&self, tokens: u64, now: SystemTime) {
        let mut spent = lock(&self.0.tokens);
        let used = spent.used_on(day(now));
        *spent = Tokens {
            day: day(now),
            used: used.saturating_add(tokens),
        };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Tokens {
    fn used_on(self, day: u64) -> u64 {
        if self.day == day { self.used } else { 0 }
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::with_clock(MonotonicClock)
    }
}

impl<C: Clock + Clone> Limiter<C> {
    /// Nothing counted yet.
    pub fn with_clock(clock: C) -> Self {
        Self {
            clock,
            addresses: Peers::default(),
            wrong_keys: Peers::default(),
            meters: Mutex::default(),
        }
    }

    /// Lets a request with this key in, or says which of its limits is reached.
    pub fn admit(&self, key: &Key, now: SystemTime) -> Result<Arc<Seat>, Exceeded> {
        let mut meters = lock(&self.meters);
        let meter = match meters.get_mut(&key.sha256) {
            Some(meter) => meter,
            None => meters.entry(key.sha256.clone()).or_insert_with(|| Meter {
                rate: None,
                account: Arc::default(),
            }),
        };
        if meter.rate.as_ref().map(|(limit, _)| *limit) != key.scope.rate {
            let rate = |limit| {
                RateLimiter::direct_with_clock(Quota::per_minute(limit), self.clock.clone())
            };
            meter.rate = key.scope.rate.map(|limit| (limit, rate(limit)));
        }
        if let Some(limit) = key.scope.tokens_per_day
            && lock(&meter.account.tokens).used_on(day(now)) >= limit
        {
            let wait = Duration::from_secs(DAY - seconds(now) % DAY);
            return Err(Exceeded::Tokens { limit, wait });
        }
        // Two requests cannot both take the last seat: the meters are locked.
        let running = meter.account.running.load(Ordering::Acquire);
        if let Some(most) = key.scope.concurrency.filter(|most| running >= most.get()) {
            return Err(Exceeded::Concurrency(most));
        }
        if let Some((limit, rate)) = &meter.rate {
            rate.check().map_err(|until| Exceeded::Rate {
                limit: *limit,
                wait: until.wait_time_from(self.clock.now()),
            })?;
        }
        meter.account.running.fetch_add(1, Ordering::AcqRel);
        Ok(Arc::new(Seat(meter.account.clone())))
    }

    /// Counts a request without a key; `limit` is for a minute, nothing means none.
    pub fn admit_keyless(&self, from: Peer, limit: Option<NonZeroU32>) -> Result<(), Exceeded> {
        let Some(limit) = limit else { return Ok(()) };
        self.addresses
            .check(from, limit, &self.clock)
            .map_err(|wait| Exceeded::Address { wait })
    }

    /// Counts a missing or wrong key; `limit` is for a minute.
    pub fn wrong_key(&self, from: Peer, limit: NonZeroU32) -> Result<(), Exceeded> {
        self.wrong_keys
            .check(from, limit, &self.clock)
            .map_err(|wait| Exceeded::WrongKeys { wait })
    }
}

/// One rate for each peer. The rate may be another one at any time; then the
/// counting begins anew.
struct Peers<C: Clock> {
    limiter: Mutex<Option<(NonZeroU32, Arc<Keyed<C>>)>>,
    questions: AtomicU64,
}

impl<C: Clock> Default for Peers<C> {
    fn default() -> Self {
        Self {
            limiter: Mutex::default(),
            questions: AtomicU64::default(),
        }
    }
}

impl<C: Clock + Clone> Peers<C> {
    /// Whether one more fits; else how long until one does.
    fn check(&self, from: Peer, limit: NonZeroU32, clock: &C) -> Result<(), Duration> {
        let limiter = self.limiter(limit, clock);
        if self.questions.fetch_add(1, Ordering::Relaxed) % SWEEP == SWEEP - 1 {
            limiter.retain_recent();
        }
        limiter
            .check_key(&from)
            .map_err(|until| until.wait_time_from(clock.now()))
    }

    fn limiter(&self, limit: NonZeroU32, clock: &C) -> Arc<Keyed<C>> {
        let mut kept = lock(&self.limiter);
        match kept.as_ref() {
            Some((same, limiter)) if *same == limit => limiter.clone(),
            _ => {
                let store = HashMapStateStore::default();
                let made = Arc::new(RateLimiter::new(
                    Quota::per_minute(limit),
                    store,
                    clock.clone(),
                ));
                *kept = Some((limit, made.clone()));
                made
            }
        }
    }
}

fn day(now: SystemTime) -> u64 {
    seconds(now) / DAY
}

/// A poisoned lock only means that another request was broken off in between.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
