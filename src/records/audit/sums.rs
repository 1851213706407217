//! Refusals of which there are too many to write down each: the first of a kind
//! stands for itself, further ones become a count. It decides what is to be
//! written and writes nothing; the clock is passed in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use tokio::time::Instant;

/// How long refusals are counted before a line tells of them.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// Most kinds that are told apart at once. What is beyond counts as one more, so
/// that not even many addresses can fill the disk.
const MOST: usize = 16;

/// What stands for callers, addresses and actions beyond [`MOST`].
const OTHERS: &str = "others";

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// A key's id, or `unknown`.
    pub caller: String,
    /// Where it came from.
    pub peer: String,
    /// Method and route.
    pub action: String,
}

impl Kind {
    fn others() -> Self {
        Self {
            caller: OTHERS.to_owned(),
            peer: OTHERS.to_owned(),
            action: OTHERS.to_owned(),
        }
    }
}

/// What is counted now.
#[derive(Debug, Default)]
pub(super) struct Sums(HashMap<Kind, Count>);

#[derive(Debug)]
struct Count {
    since: Instant,
    further: u64,
}

impl Sums {
    /// Counts one more. The first of a kind is handed back, to be written at once.
    pub fn add(&mut self, kind: Kind, now: Instant) -> Option<Kind> {
        let is_known = self.0.len() < MOST || self.0.contains_key(&kind);
        let kind = if is_known { kind } else { Kind::others() };
        match self.0.entry(kind) {
            Entry::Occupied(mut known) => {
                known.get_mut().further += 1;
                None
            }
            Entry::Vacant(place) => {
                let kind = place.key().clone();
                place.insert(Count {
                    since: now,
                    further: 0,
                });
                Some(kind)
            }
        }
    }

    /// Takes the counts that are an [`INTERVAL`] old. A kind of which nothing more
    /// came in that time is forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<(Kind, u64)> {
        let mut due = Vec::new();
        self.0.retain(|kind, count| {
            if now.duration_since(count.since) < INTERVAL {
                return true;
            }
            let further = std::mem::take(&mut count.further);
            count.since = now;
            if further > 0 {
                due.push((kind.clone(), further));
            }
            further > 0
        });
        due
    }

    /// Takes all counts, whatever their age.
    pub fn rest(&mut self) -> Vec<(Kind, u64)> {
        let counts = self.0.drain().map(|(kind, count)| (kind, count.further));
        counts.filter(|(_, further)| *further > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str) -> Kind {
        Kind {
            caller: "unknown".to_owned(),
            peer: peer.to_owned(),
            action: "GET /admin/status".to_owned(),
        }
    }

    #[test]
    fn o01_the_first_of_a_kind_has_a_line_and_further_ones_share_one() {
        let (mut sums, start) = (Sums::default(), Instant::now());
        assert_eq!(sums.add(from("a"), start), Some(from("a")));
        for _ in 0..7 {
            assert_eq!(sums.add(from("a"), start), None);
        }
        assert_eq!(sums.add(from("b"), start), Some(from("b")));
        assert_eq!(sums.due(start + INTERVAL - Duration::from_millis(1)), []);
        assert_eq!(sums.due(start + INTERVAL), [(from("a"), 7)]);
        // One that goes on is not a first one again; one that fell silent is.
        let later = start + INTERVAL;
        assert_eq!(sums.add(from("a"), later), None);
        assert_eq!(sums.add(from("b"), later), Some(from("b")));
        assert_eq!(sums.due(later + INTERVAL), [(from("a"), 1)]);
        assert_eq!(sums.rest(), []);
    }

    #[test]
    fn o01_a_flood_has_few_lines_and_no_refusal_is_lost() {
        let (mut sums, mut now) = (Sums::default(), Instant::now());
        let (mut lines, mut counted) = (0u64, 0);
        const REFUSALS: u64 = 50_000;
        const INTERVALS: u64 = 5;
        for number in 0..REFUSALS {
            // Few that go on and on, and many that come once.
            let peer = match number % 3 {
                0 => format!("loud-{}", number % 7),
                _ => format!("once-{number}"),
            };
            if sums.add(from(&peer), now).is_some() {
                lines += 1;
                counted += 1;
            }
            if number % (REFUSALS / INTERVALS) == 0 {
                now += INTERVAL;
                for (_, further) in sums.due(now) {
                    lines += 1;
                    counted += further;
                }
            }
            assert!(sums.0.len() <= MOST + 1, "it grows");
        }
        for (_, further) in sums.rest() {
            lines += 1;
            counted += further;
        }
        assert_eq!(counted, REFUSALS);
        let most = 2 * (MOST as u64 + 1) * (INTERVALS + 1);
        assert!(lines <= most, "{lines} lines, at most {most}");
    }
}
