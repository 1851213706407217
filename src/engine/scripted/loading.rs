//! The time that a load of the scripted engine takes, and what it tells of itself
//! meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Script;
use crate::engine::progress::Progress;

/// Most steps of a load, as an engine that reads a hundred parts.
const STEPS: u64 = 100;

/// The shortest step, milliseconds.
const SHORTEST_MS: u64 = 10;

/// Weights of a script that takes no memory, bytes.
const NO_WEIGHTS: u64 = 1000;

/// Lets the script's time pass, in steps that are told.
pub fn take_time(script: &Script, loading: impl Fn(Progress)) {
    let steps = (script.load_ms / SHORTEST_MS).clamp(1, STEPS);
    let begun = Instant::now();
    for step in 1..=steps {
        let due = Duration::from_millis(script.load_ms * step / steps);
        sleep(due.saturating_sub(begun.elapsed()));
        if script.load_told > 0 {
            loading(after(script, step, steps));
        }
    }
}

/// What is told after a step.
fn after(script: &Script, step: u64, steps: u64) -> Progress {
    let all = script.memory_bytes.max(NO_WEIGHTS);
    let share = u128::from(step) * u128::from(script.load_told.min(1000));
    let done = u128::from(all) * share / (u128::from(steps) * 1000);
    Progress {
        // A share of a u64 is one.
        done: done as u64,
        all,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_load_is_told_as_far_as_the_script_says() {
        let check = |load_ms, load_told, expected: &[u16]| {
            let script = Script {
                load_ms,
                load_told,
                ..Script::default()
            };
            let told = RefCell::new(Vec::new());
            take_time(&script, |progress: Progress| {
                told.borrow_mut().push(progress.thousandths());
            });
            assert_eq!(told.into_inner(), expected, "{load_ms} {load_told}");
        };
        check(0, 1000, &[1000]);
        check(40, 1000, &[250, 500, 750, 1000]);
        check(20, 620, &[310, 620]);
        check(20, 0, &[]);
        let long = Script {
            load_ms: 60_000,
            ..Script::default()
        };
        assert_eq!(after(&long, 62, STEPS).percent(), 62);
    }
}
