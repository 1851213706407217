//! What is said where memory lacks: what the model needs or held, the budget, and
//! who holds it. Pure. Whoever may not know a model is not told its name.

use crate::api::error::{ApiError, Code};
use crate::pool::{Ending, ModelView, Refused, View};
use crate::units::ByteSize;

/// How many holders are named.
const NAMED: usize = 4;

/// What the holder of a lease hears of a worker that ended for lack of memory;
/// nothing if it ended for another reason.
pub fn ended(model: &str, ending: &Ending) -> Option<ApiError> {
    let (code, message) = match ending {
        Ending::OutOfMemory => (
            Code::WorkerCrashed,
            format!("the system ended the worker of {model} for lack of memory (oom)"),
        ),
        Ending::Outgrew {
            held,
            promised,
            budget,
        } => (
            Code::InsufficientMemory,
            format!(
                "{model} was ended while it answered: it held {held}, {promised} were reserved \
                 for it, and the budget is {budget}"
            ),
        ),
        Ending::Crashed(_) | Ending::Revoked(_) | Ending::Lost => return None,
    };
    Some(ApiError::new(code, message))
}

/// The words for a refusal of which memory may be the cause; nothing for others.
pub fn words(refused: &Refused, view: &View, permits: &dyn Fn(&str) -> bool) -> Option<String> {
    let told = |model: &str, need: ByteSize, holders: Vec<&ModelView>| {
        let figures = format!("{model} needs {need} and the budget is {}", view.budget);
        figures + &held_by(holders, permits)
    };
    match refused {
        Refused::NeverFits { model, need, .. } => {
            let kept = others(view, model).filter(|other| other.keep);
            Some(told(model, *need, kept.collect()))
        }
        Refused::QueueTimeout { model, .. } | Refused::Contended { model, .. } => {
            let known = view.model(model)?;
            // One that loads or answers has its memory and lacks something else.
            if known.reserved > ByteSize::ZERO {
                return None;
            }
            let shortage = told(model, known.need, others(view, model).collect());
            Some(format!("{refused}: {shortage}"))
        }
        _ => None,
    }
}

/// The other models that hold memory, or are to hold it for good.
fn others<'v>(view: &'v View, model: &'v str) -> impl Iterator<Item = &'v ModelView> {
    let others = view.models.iter().filter(move |other| other.model != model);
    others.filter(|other| other.reserved > ByteSize::ZERO || other.keep)
}

/// The holders, the largest first.
fn held_by(mut holders: Vec<&ModelView>, permits: &dyn Fn(&str) -> bool) -> String {
    let holds = |model: &ModelView| match model.reserved {
        ByteSize::ZERO => model.need,
        reserved => reserved,
    };
    holders.sort_by_key(|holder| std::cmp::Reverse(holds(holder)));
    let all = holders.iter().map(|holder| holds(holder));
    let all = all.fold(ByteSize::ZERO, ByteSize::saturating_add);
    let named = holders.iter().take(NAMED).map(|holder| {
        let name = match permits(&holder.model) {
            true => holder.model.as_str(),
            false => "another model",
        };
        let how = match (holder.keep, holder.leases()) {
            (true, _) => ", kept".to_owned(),
            (false, 0) => String::new(),
            (false, 1) => ", 1 request".to_owned(),
            (false, leases) => format!(", {leases} requests"),
        };
        format!("{name} ({}{how})", holds(holder))
    });
    let mut named: Vec<_> = named.collect();
    if holders.len() > NAMED {
        named.push(format!("{} more", holders.len() - NAMED));
    }
    match named.is_empty() {
        true => String::new(),
        false => format!(", of which {all} is held by {}", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::pool::Resident;
    use crate::pool::state::{Machine, resident, settings};

    /// A view of models that are kept, so that they load at once.
    fn view(models: &[(&str, u64, bool)]) -> View {
        let residents = models.iter().map(|(name, size, keep)| Resident {
            keep: *keep,
            ..resident(name, *size)
        });
        let now = Instant::now();
        let mut machine = Machine::new(settings(100), residents.collect(), now);
        machine.on(crate::pool::state::Event::Tick, now);
        machine.view(now)
    }

    #[test]
    fn need_budget_and_holders_are_told_to_whom_they_may_be() {
        let view = view(&[("a", 60, true), ("b", 30, true), ("c", 50, false)]);
        let check = |refused: Refused, permits: &dyn Fn(&str) -> bool, expected: Option<&str>| {
            let got = words(&refused, &view, permits);
            assert_eq!(got.as_deref(), expected, "{refused:?}");
        };
        let waited = |model: &str| Refused::QueueTimeout {
            model: model.to_owned(),
            waited: Duration::from_secs(2),
        };
        check(
            waited("c"),
            &|_| true,
            Some(
                "c was not available within 2s: c needs 50 B and the budget is 100 B, \
                 of which 90 B is held by a (60 B, kept), b (30 B, kept)",
            ),
        );
        check(waited("a"), &|_| true, None);
        check(waited("unknown"), &|_| true, None);
        let never = Refused::NeverFits {
            model: "c".to_owned(),
            need: ByteSize(50),
            budget: ByteSize(100),
            held: ", of which 90 B is kept for a, b".to_owned(),
        };
        check(
            never,
            &|name| name != "a",
            Some(
                "c needs 50 B and the budget is 100 B, of which 90 B is held by \
                 another model (60 B, kept), b (30 B, kept)",
            ),
        );
        check(Refused::ShuttingDown, &|_| true, None);
    }

    #[test]
    fn not_everybody_is_named() {
        let names = ["a", "b", "d", "e", "f", "g"];
        let mut models: Vec<_> = names.iter().map(|name| (*name, 10, true)).collect();
        models.push(("c", 50, false));
        let refused = Refused::Contended {
            model: "c".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        let said = words(&refused, &view(&models), &|_| true).expect("words");
        assert!(said.ends_with(", e (10 B, kept), 2 more"), "{said}");
    }
}
