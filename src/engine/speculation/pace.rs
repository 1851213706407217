//! How many tokens to guess before the next step, none of them included. Pure: what steps
//! took and how often guesses were right is told, numbers come out.
//!
//! If guesses are right with probability p and no guess counts after a wrong one, the
//! i-th adds pⁱ tokens to a step (Leviathan et al. 2023, equation 1). It adds to the time
//! what reading a row more takes, which is measured by the number of rows, and what
//! guessing takes. The guesses that are worth most are taken, as many as make the most
//! tokens in a second.

use std::time::Duration;

/// Most tokens that are guessed for a sequence at once.
pub const MOST_AHEAD: usize = 8;

/// Most sequences in a step for which anything is guessed: with more of them the step's
/// work is shared anyway.
const MOST_SEQUENCES: usize = 4;

/// Most rows of a step with guesses. One row more, and some products of the CPU would be
/// computed for all rows together, in another order than those of a row alone.
const MOST_ROWS: usize = 15;

/// How much of an earlier measurement is left beside a new one.
const KEPT: f64 = 0.75;

/// Steps after which a measurement says nothing any more: the machine's load, the
/// sequences and their lengths have changed.
const STALE: u64 = 512;

/// How often guesses have to have been right to be as sure of it as of the usual.
const SURE: f64 = 4.0;

/// How much of what was seen of a sequence's guesses is left with each further one.
const REMEMBERED: f64 = 0.95;

/// Steps after which a guess that costs something is tried again where it did not pay.
const AGAIN: u64 = 64;

/// How often guesses were right, the later the more it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Record {
    tried: f64,
    right: f64,
}

impl Record {
    /// Of `guessed` tokens in a row the first `right` were; those after the first wrong
    /// one say nothing.
    pub fn seen(&mut self, guessed: usize, right: usize) {
        for at in 0..guessed.min(right + 1) {
            self.tried = self.tried * REMEMBERED + 1.0;
            self.right *= REMEMBERED;
            if at < right {
                self.right += 1.0;
            }
        }
    }

    /// The probability that a guess is right, where it usually is with `usual`.
    fn chance(&self, usual: f64) -> f64 {
        (self.right + usual * SURE) / (self.tried + SURE)
    }
}

/// What may be guessed for a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// How its guesses went.
    pub record: Record,
    /// How many it can have.
    pub most: usize,
}

/// A time that is measured again and again.
#[derive(Clone, Copy, Debug)]
struct Measured {
    seconds: f64,
    at: u64,
}

/// What steps take, and what guesses are worth.
#[derive(Debug)]
pub struct Pace {
    /// Of a step by its rows, from one on.
    steps: [Option<Measured>; MOST_ROWS],
    /// Of a guess for all sequences; nothing where it takes none worth measuring.
    guess: Option<Measured>,
    /// Of all sequences.
    usual: Record,
    /// Steps so far.
    now: u64,
    /// The step in which something was guessed last.
    tried: u64,
    /// Whether guesses take time.
    costs: bool,
}

impl Pace {
    /// Nothing is known yet; `costs` says whether guesses take time.
    pub fn new(costs: bool) -> Self {
        Self {
            steps: [None; MOST_ROWS],
            guess: None,
            usual: Record::default(),
            now: 0,
            tried: 0,
            costs,
        }
    }

    /// How many tokens to guess for each of the sequences that make a step together. The
    /// step counts as made.
    pub fn depths(&mut self, chances: &[Chance]) -> Vec<usize> {
        self.now += 1;
        let none = vec![0; chances.len()];
        if chances.is_empty() || chances.len() > MOST_SEQUENCES {
            return none;
        }
        // What is gained is gained over this.
        let Some(plain) = self.fresh(chances.len()) else {
            return none;
        };
        let depths = self.best(chances, plain);
        let is_idle = depths.iter().all(|depth| *depth == 0);
        if is_idle && self.costs && self.now - self.tried >= AGAIN {
            self.tried = self.now;
            return chances.iter().map(|chance| chance.most.min(1)).collect();
        }
        if !is_idle {
            self.tried = self.now;
        }
        depths
    }

    /// The guesses that make the most tokens in a second.
    fn best(&self, chances: &[Chance], plain: f64) -> Vec<usize> {
        // Before anything is known guesses are as likely right as not.
        let usual = self.usual.chance(0.5);
        let worth = chances.iter().enumerate().flat_map(|(of, chance)| {
            let right = chance.record.chance(usual);
            let depths = 1..=chance.most.min(MOST_AHEAD);
            depths.map(move |depth| (right.powi(depth as i32), depth, of))
        });
        let mut worth: Vec<(f64, usize, usize)> = worth.collect();
        // Of one sequence the nearer ones come first: they are worth more, or the same.
        worth.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        let guess = match self.costs {
            true => self.guess.map_or(0.0, |guess| guess.seconds),
            false => 0.0,
        };
        let (mut depths, mut best) = (vec![0; chances.len()], vec![0; chances.len()]);
        let (mut tokens, mut rows) = (chances.len() as f64, chances.len());
        let mut rate = tokens / plain;
        for (gain, depth, of) in worth {
            rows += 1;
            if rows > MOST_ROWS {
                break;
            }
            tokens += gain;
            depths[of] = depth;
            let deepest = depths.iter().max().copied().unwrap_or(0);
            let seconds = self.estimated(rows, plain) + guess * deepest as f64;
            if tokens / seconds > rate {
                rate = tokens / seconds;
                best.clone_from(&depths);
            }
        }
        best
    }

    /// A step of so many rows took this.
    pub fn stepped(&mut self, rows: usize, took: Duration) {
        let now = self.now;
        if let Some(place) = rows.checked_sub(1).and_then(|at| self.steps.get_mut(at)) {
            measure(place, took.as_secs_f64(), now);
        }
    }

    /// Guesses took this, so many one after the other.
    pub fn guessed(&mut self, depth: usize, took: Duration) {
        if depth > 0 {
            let each = took.as_secs_f64() / depth as f64;
            measure(&mut self.guess, each, self.now);
        }
    }

    /// Guesses of any sequence went so.
    pub fn seen(&mut self, guessed: usize, right: usize) {
        self.usual.seen(guessed, right);
    }

    fn fresh(&self, rows: usize) -> Option<f64> {
        let measured = self.steps.get(rows.checked_sub(1)?).copied().flatten()?;
        (self.now - measured.at < STALE).then_some(measured.seconds)
    }

    /// What a step of so many rows takes: as measured, or in between what is measured
    /// around it, or as much as the next smaller one, so that it is tried and measured. It is
    /// never less than what a `plain` one takes.
    fn estimated(&self, rows: usize, plain: f64) -> f64 {
        let below = (1..=rows).rev();
        let below = below
            .filter_map(|rows| Some((rows, self.fresh(rows)?)))
            .next();
        let above = rows..=MOST_ROWS;
        let above = above
            .filter_map(|rows| Some((rows, self.fresh(rows)?)))
            .next();
        let found = match (below, above) {
            (Some((low, less)), Some((high, more))) if high > low => {
                less + (more - less) * (rows - low) as f64 / (high - low) as f64
            }
            (Some((_, seconds)), _) => seconds,
            (None, _) => plain,
        };
        found.max(plain)
    }
}

fn measure(place: &mut Option<Measured>, seconds: f64, now: u64) {
    let before = place.filter(|measured| now - measured.at < STALE);
    let seconds = before.map_or(seconds, |it| it.seconds * KEPT + seconds * (1.0 - KEPT));
    *place = Some(Measured { seconds, at: now });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace of which is known what a step takes, milliseconds by its rows, and how often
    /// of 100 guesses were right.
    fn pace(costs: bool, steps: impl Fn(usize) -> f64, right: usize) -> Pace {
        let mut pace = Pace::new(costs);
        for rows in 1..=MOST_ROWS {
            pace.stepped(rows, Duration::from_secs_f64(steps(rows) / 1e3));
        }
        for at in 0..100 {
            pace.seen(1, usize::from(at * right % 100 < right));
        }
        pace
    }

    const ANY: Chance = Chance {
        record: Record {
            tried: 0.0,
            right: 0.0,
        },
        most: 100,
    };

    #[test]
    fn guesses_are_taken_while_they_gain_more_than_they_cost() {
        let depth = |right: usize, step: fn(usize) -> f64| {
            pace(false, step, right).depths(&[ANY]).remove(0)
        };
        // A row more is nearly free, or costs as much as a step.
        assert_eq!(depth(99, |rows| 10.0 + 0.1 * rows as f64), MOST_AHEAD);
        assert_eq!(depth(99, |rows| 10.0 * rows as f64), 0);
        assert_eq!(depth(1, |rows| 10.0 + rows as f64), 0);
        let middling = depth(60, |rows| 10.0 + rows as f64);
        assert!((1..MOST_AHEAD).contains(&middling), "{middling}");
        // A step too dear at two rows may pay at eight.
        let steps = |rows: usize| if rows == 1 { 10.0 } else { 25.0 };
        assert_eq!(depth(95, steps), MOST_AHEAD);
    }

    #[test]
    fn what_guessing_takes_counts() {
        let mut cheap = pace(true, |rows| 10.0 + 0.1 * rows as f64, 90);
        let mut dear = pace(true, |rows| 10.0 + 0.1 * rows as f64, 90);
        cheap.guessed(4, Duration::from_millis(4));
        dear.guessed(4, Duration::from_millis(60));
        assert!(cheap.depths(&[ANY])[0] > 2);
        assert_eq!(dear.depths(&[ANY]), [0]);
        // Now and then it is tried all the same, since things change.
        let tried = (0..AGAIN * 3).filter(|_| {
            dear.stepped(1, Duration::from_millis(10));
            dear.depths(&[ANY]) == [1]
        });
        assert_eq!(tried.count(), 3);
    }

    #[test]
    fn the_sequence_whose_guesses_are_right_gets_them() {
        let mut pace = pace(false, |rows| 10.0 + 0.5 * rows as f64, 50);
        let mut record = Record::default();
        record.seen(40, 40);
        let sure = Chance { record, most: 6 };
        let mut record = Record::default();
        (0..40).for_each(|_| record.seen(3, 0));
        let unsure = Chance { record, most: 6 };
        let depths = pace.depths(&[unsure, sure]);
        assert_eq!(depths, [0, 6]);
    }

    #[test]
    fn there_are_bounds_to_what_is_guessed() {
        let mut pace = pace(false, |_| 10.0, 100);
        let rows = |depths: Vec<usize>| depths.len() + depths.iter().sum::<usize>();
        assert_eq!(rows(pace.depths(&[ANY; 3])), MOST_ROWS);
        assert_eq!(pace.depths(&[ANY; 5]), [0; 5]);
        assert_eq!(pace.depths(&[Chance { most: 2, ..ANY }]), [2]);
        assert_eq!(pace.depths(&[]), [0; 0]);
    }

    #[test]
    fn a_plain_step_is_measured_first_and_again_when_that_is_long_ago() {
        let mut pace = Pace::new(false);
        assert_eq!(pace.depths(&[ANY]), [0]);
        pace.stepped(1, Duration::from_millis(10));
        let mut plain = 0;
        for _ in 0..3 * STALE {
            let depth = pace.depths(&[ANY])[0];
            plain += u64::from(depth == 0);
            pace.stepped(1 + depth, Duration::from_millis(11));
            pace.seen(depth, depth);
        }
        assert!((2..=4).contains(&plain), "{plain}");
    }

    #[test]
    fn nothing_after_a_wrong_guess_counts() {
        let (mut one, mut other) = (Record::default(), Record::default());
        one.seen(8, 2);
        other.seen(3, 2);
        assert_eq!(one, other);
        assert!(one.chance(0.5) > 0.5);
        one.seen(5, 0);
        assert!(one.chance(0.5) < other.chance(0.5));
    }
}
