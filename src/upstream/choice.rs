//! Which of several upstreams with a name is asked: the owner's order first, then where
//! the model is up already, then who is least busy for its share. Pure.

/// What is known of a model at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is up, or nothing has to come up there.
    Ready,
    /// It is on its way.
    Coming,
    /// It would have to be loaded first, or nobody knows.
    Unloaded,
    /// That server does not have it.
    Absent,
}

/// One that could be asked.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// `priority`: the least goes first.
    pub priority: u32,
    /// `weight`: its share, one at least.
    pub weight: u32,
    /// Requests that it is working on for us.
    pub busy: usize,
    /// Requests that it has got from us.
    pub taken: u64,
    /// How the model stands there.
    pub standing: Standing,
    /// Whether it can be asked now: it does not rest, and was not tried for this request.
    pub is_free: bool,
}

/// The one to ask, by its place in the list; nothing if none is free. Among equals
/// requests take turns by weight.
pub fn best(candidates: &[Candidate]) -> Option<usize> {
    let free = candidates.iter().enumerate().filter(|(_, it)| it.is_free);
    let best = free.min_by(|(_, one), (_, other)| {
        let order = (one.priority, one.standing).cmp(&(other.priority, other.standing));
        order
            .then_with(|| by_share(one.busy as u64, one, other.busy as u64, other))
            .then_with(|| by_share(one.taken, one, other.taken, other))
    });
    best.map(|(index, _)| index)
}

/// Compares two counts, each divided by its weight.
fn by_share(one: u64, of_one: &Candidate, other: u64, of_other: &Candidate) -> std::cmp::Ordering {
    let one = u128::from(one) * u128::from(of_other.weight);
    one.cmp(&(u128::from(other) * u128::from(of_one.weight)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Candidate = Candidate {
        priority: 0,
        weight: 1,
        busy: 0,
        taken: 0,
        standing: Standing::Ready,
        is_free: true,
    };

    #[test]
    fn the_owners_order_then_where_it_stands_then_who_is_least_busy() {
        let check = |candidates: &[Candidate], expected: Option<usize>| {
            assert_eq!(best(candidates), expected, "{candidates:?}");
        };
        let second = Candidate {
            priority: 1,
            ..PLAIN
        };
        let busy = Candidate { busy: 1, ..PLAIN };
        let rests = Candidate {
            is_free: false,
            ..PLAIN
        };
        let unloaded = Candidate {
            standing: Standing::Unloaded,
            ..PLAIN
        };
        let coming = Candidate {
            standing: Standing::Coming,
            ..PLAIN
        };
        let absent = Candidate {
            standing: Standing::Absent,
            ..PLAIN
        };
        check(&[], None);
        check(&[rests], None);
        check(&[second, PLAIN], Some(1));
        check(&[second, rests], Some(0));
        check(&[busy, PLAIN], Some(1));
        check(&[PLAIN, PLAIN], Some(0));
        check(&[absent, unloaded, coming, busy], Some(3));
        check(&[absent, unloaded, coming], Some(2));
        check(&[second, unloaded], Some(1));
        // Two of a weight of three are as busy as one of a weight of one is.
        let heavy = Candidate {
            weight: 3,
            busy: 2,
            ..PLAIN
        };
        check(&[busy, heavy], Some(1));
        check(&[Candidate { busy: 2, ..heavy }, PLAIN], Some(1));
    }

    #[test]
    fn among_the_idle_requests_take_turns_by_weight() {
        let mut candidates = [PLAIN, Candidate { weight: 3, ..PLAIN }];
        for _ in 0..400 {
            let chosen = best(&candidates).expect("one");
            candidates[chosen].taken += 1;
        }
        assert_eq!(candidates.map(|it| it.taken), [100, 300]);
        let mut candidates = [PLAIN, Candidate { weight: 3, ..PLAIN }];
        for _ in 0..400 {
            let chosen = best(&candidates).expect("one");
            candidates[chosen].busy += 1;
        }
        assert_eq!(candidates.map(|it| it.busy), [100, 300]);
    }
}
