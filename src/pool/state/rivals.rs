//! Models that are never in memory at the same time, as the configuration says
//! (`never_with`): whoever comes up, the other has to be gone. It is no question of room,
//! so each is asked beside it: `room` makes them go, this tells who they are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::slot::{Phase, Slot};
use super::{Effect, Machine};
use crate::pool::{Refused, Resident, UnloadReason};

/// Who is never beside whom, both ways, whoever of the two said it. Only those count that
/// are there, and nobody is a rival of itself.
pub(super) fn pairs(residents: &[Resident]) -> BTreeMap<String, BTreeSet<String>> {
    let names = residents.iter().map(|it| it.plan.model.as_str());
    let names: BTreeSet<_> = names.collect();
    let mut pairs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for resident in residents {
        let own = &resident.plan.model;
        for other in &resident.never_with {
            if other != own && names.contains(other.as_str()) {
                for (one, other) in [(own, other), (other, own)] {
                    pairs.entry(one.clone()).or_default().insert(other.clone());
                }
            }
        }
    }
    pairs
}

impl Machine {
    /// The rivals of a model that are known.
    fn rivals<'m>(&'m self, slot: &'m Slot) -> impl Iterator<Item = (&'m String, &'m Slot)> {
        let rivals = slot.rivals.iter();
        rivals.filter_map(|name| Some((name, self.slots.get(name)?)))
    }

    /// Whether a rival has a worker, and be it one that is about to end.
    pub(super) fn is_a_rival_there(&self, slot: &Slot) -> bool {
        let mut rivals = self.rivals(slot);
        rivals.any(|(_, rival)| rival.running.is_some())
    }

    /// Whether somebody waits for a rival to be loaded.
    pub(super) fn is_a_rival_awaited(&self, slot: &Slot) -> bool {
        let mut rivals = self.rivals(slot);
        rivals.any(|(_, rival)| !rival.is_served() && rival.claim().is_some())
    }

    /// Whether a rival stays in any case for now: it loads, is kept, or somebody holds it.
    pub(super) fn does_a_rival_stay(&self, slot: &Slot) -> bool {
        let mut rivals = self.rivals(slot);
        rivals.any(|(_, rival)| {
            let phase = rival.running.as_ref().map(|worker| &worker.phase);
            match phase {
                Some(phase) if phase.is_leaving() => false,
                Some(Phase::Loading { .. }) => true,
                Some(_) => rival.keep || rival.held_until.is_some(),
                None => false,
            }
        })
    }

    /// Whether no rival is kept for good. Among kept models it is first come, first
    /// served.
    pub(super) fn can_ever_be_without_rivals(
        &self,
        model: &str,
        slot: &Slot,
    ) -> Result<(), Refused> {
        let mut rivals = self.rivals(slot);
        let kept = rivals.find(|(_, rival)| rival.keep && (!slot.keep || rival.running.is_some()));
        match kept {
            None => Ok(()),
            Some((kept, _)) => Err(Refused::NeverBeside {
                model: model.to_owned(),
                kept: kept.clone(),
            }),
        }
    }

    /// Takes over who is never beside whom. Of rivals that are there already one goes, as
    /// what is no longer listed does: what is kept stays first, then what is in use, then
    /// what came up last.
    pub(super) fn tell_rivals_apart(
        &mut self,
        mut pairs: BTreeMap<String, BTreeSet<String>>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        for model in self.slots.names() {
            let rivals = pairs.remove(&model).unwrap_or_default();
            if self.slots[&model].rivals != rivals
                && let Some(slot) = self.slots.get_mut(&model)
            {
                slot.rivals = rivals;
                // Whoever waits for what can never be beside what is kept hears so.
                self.ground = Default::default();
            }
        }
        self.slots.settle(now);
        let there = self.slots.running().filter_map(|(model, slot)| {
            let worker = slot.running.as_ref()?;
            let is_meant = !slot.rivals.is_empty() && !worker.is_leaving();
            let in_use = worker.gate().is_some_and(|gate| gate.leases() > 0);
            let order = (!slot.keep, !in_use, std::cmp::Reverse(worker.started));
            is_meant.then(|| (order, model.clone()))
        });
        let mut there: Vec<_> = there.collect();
        there.sort();
        let mut staying: Vec<String> = Vec::new();
        for (_, model) in there {
            let rivals = &self.slots[&model].rivals;
            match staying.iter().any(|other| rivals.contains(other)) {
                true => self.send_off(&model, UnloadReason::Config, out),
                false => staying.push(model),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::state::resident;

    #[test]
    fn rivals_are_rivals_both_ways_and_only_of_what_is_there() {
        let rivals = |model: &str, of: &[&str]| Resident {
            never_with: of.iter().map(|name| (*name).to_owned()).collect(),
            ..resident(model, 1)
        };
        let told = pairs(&[
            rivals("a", &["b", "a", "gone"]),
            rivals("b", &["c"]),
            rivals("c", &[]),
            rivals("d", &[]),
        ]);
        let told = told.iter().map(|(model, of)| {
            let of: Vec<_> = of.iter().map(String::as_str).collect();
            format!("{model}: {}", of.join(" "))
        });
        assert_eq!(told.collect::<Vec<_>>(), ["a: b", "b: a c", "c: b"]);
    }
}
