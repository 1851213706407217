//! A second, stupid model of the pool to compare the machine with: every question is
//! answered by walking over everything, with no index, no early end and nothing
//! remembered. It says what a request must be told, and whether the machine has left
//! something undone that it should have done. It changes nothing.

use std::time::Instant;

use super::Machine;
use super::slot::{Phase, Slot, most_leases};
use super::standby::Standby;
use super::world::World;
use crate::config::Contention;
use crate::pool::evict::{Room, victims};
use crate::pool::{Priority, Refused, Terms};

/// What a request must be told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Lease,
    Waits,
    Unlisted,
    ShuttingDown,
    LoadFailed,
    NeverFits,
    NotLoaded,
    Contended,
    QueueFull,
}

impl Verdict {
    /// What a refusal that was given says.
    pub fn of(refused: &Refused) -> Option<Self> {
        match refused {
            Refused::Unlisted { .. } => Some(Self::Unlisted),
            Refused::ShuttingDown => Some(Self::ShuttingDown),
            Refused::LoadFailed { .. } => Some(Self::LoadFailed),
            Refused::NeverFits { .. } | Refused::NeverBeside { .. } => Some(Self::NeverFits),
            Refused::NotLoaded { .. } => Some(Self::NotLoaded),
            Refused::Contended { .. } => Some(Self::Contended),
            Refused::QueueFull { .. } => Some(Self::QueueFull),
            _ => None,
        }
    }
}

/// What a request for `model` must be told now.
pub fn verdict(world: &World, model: &str, terms: Terms) -> Verdict {
    let (machine, now) = (&world.machine, world.now);
    if machine.shutdown.is_some() {
        return Verdict::ShuttingDown;
    }
    if machine.slots.get(model).is_none() && !machine.unlisted.contains(model) {
        // The reload that brings it is on its way.
        return Verdict::Waits;
    }
    let Some(slot) = machine.slots.get(model).filter(|slot| slot.listed) else {
        return Verdict::Unlisted;
    };
    let waiting = world.waiting_for(model);
    if let Some(generation) = world.up(model)
        && let Some(gate) = &world.workers[&generation].gate
    {
        let most = most_leases(&slot.running.as_ref().expect("it is up").plan);
        let held = world.held.values().filter(|held| **held == generation);
        if gate.is_open() && waiting.is_empty() && (held.count() as u64) < most {
            return Verdict::Lease;
        }
    }
    if !slot.is_served() {
        if slot.quarantine(now).is_some() {
            return Verdict::LoadFailed;
        }
        if !can_ever_fit(machine, model) {
            return Verdict::NeverFits;
        }
        let autoload = terms.autoload && machine.settings.autoload;
        if !autoload && waiting.is_empty() && slot.wanted.is_none() {
            return Verdict::NotLoaded;
        }
        if machine.settings.contention == Contention::Fail && !fits_beside_busy(machine, model) {
            return Verdict::Contended;
        }
    }
    let own = waiting.iter().filter(|caller| **caller == terms.caller);
    let is_full = waiting.len() >= machine.settings.queue;
    if is_full || own.count() >= machine.settings.queue_per_caller {
        return Verdict::QueueFull;
    }
    Verdict::Waits
}

/// Whether a load for which memory ran out waits until nobody frees memory any more.
fn waits_for_calm(machine: &Machine, model: &str) -> bool {
    let stops = |slot: &Slot| {
        let phase = slot.running.as_ref().map(|worker| &worker.phase);
        matches!(phase, Some(Phase::Stopping { .. }))
    };
    machine.slots[model].outlook.is_retried && running(machine).any(|(_, slot)| stops(slot))
}

/// Something that the machine should have done after the last event, as words.
pub fn left_undone(machine: &Machine, now: Instant) -> Option<String> {
    if machine.shutdown.is_some() {
        return None;
    }
    let mut promised = Room::default();
    let mut earmarked: Vec<String> = Vec::new();
    let mut barred: Vec<String> = Vec::new();
    let mut stages: Vec<(Room, Vec<String>)> = Vec::new();
    for (is_due, model) in line(machine, now) {
        if !can_ever_fit(machine, &model) {
            return Some(format!("{model} waits and can never fit"));
        }
        if machine.is_held_up(&model) {
            continue;
        }
        let need = machine.slots[&model].need();
        let rivals: Vec<_> = rivals(machine, &model).collect();
        let promised_before = promised;
        promised = promised.plus(need);
        let is_barred = barred.contains(&model) || rivals.iter().any(|(_, rival)| stays(rival));
        barred.extend(rivals.iter().map(|(name, _)| (*name).clone()));
        if is_barred {
            continue;
        }
        let staying = |earmarked: &Vec<String>| {
            running(machine)
                .filter(|(name, slot)| !is_leaving(slot) && !earmarked.contains(name))
                .fold(Room::default(), |sum, (_, slot)| sum.plus(room(slot)))
        };
        let may_go = candidates(machine, &earmarked, now);
        let of_rivals = may_go.iter().filter(|(name, ..)| is_among(name, &rivals));
        let freed = of_rivals
            .clone()
            .fold(Room::default(), |sum, (_, room, _)| sum.plus(*room));
        let there = staying(&earmarked).less(freed).plus(promised);
        let missing = there.less(machine.limit());
        let takes_from_nobody = stages.iter().all(|(promised, earmarked)| {
            let there = staying(earmarked).plus(*promised).plus(need);
            there.fits(machine.limit())
        });
        if missing == Room::default() && of_rivals.clone().next().is_none() {
            let is_gone = machine.slots[&model].running.is_none();
            if is_gone
                && loaded(machine).plus(need).fits(machine.limit())
                && takes_from_nobody
                && rivals.iter().all(|(_, rival)| rival.running.is_none())
                && !waits_for_calm(machine, &model)
            {
                match &machine.standby {
                    Some(standby) if is_in_the_way(machine, standby, &model) => {
                        if !standby.is_leaving {
                            return Some(format!("what stands by is in the way of {model}"));
                        }
                    }
                    _ => return Some(format!("{model} could be started")),
                }
            }
            continue;
        }
        let others = may_go.iter().filter(|(name, ..)| !is_among(name, &rivals));
        let others: Vec<_> = others.collect();
        let rooms: Vec<_> = others.iter().map(|(_, room, _)| *room).collect();
        let idle = others.iter().take_while(|(_, _, busy)| !busy).count();
        let busy_rival = of_rivals.clone().any(|(_, _, busy)| *busy);
        let among_idle = victims(missing, &rooms[..idle]);
        if among_idle.is_some() && !busy_rival {
            return Some(format!("idle models could go for {model}"));
        }
        match among_idle.or_else(|| victims(missing, &rooms)) {
            Some(_) if is_due => return Some(format!("busy models should drain for {model}")),
            Some(chosen) => {
                stages.push((promised_before, earmarked.clone()));
                earmarked.extend(of_rivals.map(|(name, ..)| name.clone()));
                earmarked.extend(chosen.iter().map(|&i| others[i].0.clone()));
            }
            None => {}
        }
    }
    None
}

/// Who waits for a load: whether he has waited too long, and for what.
fn line(machine: &Machine, now: Instant) -> Vec<(bool, String)> {
    let mut line: Vec<_> = machine
        .slots
        .iter()
        .filter(|(_, slot)| !slot.is_served() && slot.quarantine(now).is_none())
        .filter_map(|(model, slot)| {
            let turn = slot.claim()?;
            let is_due = turn.since + machine.settings.switch_after <= now;
            let class = if is_due {
                Priority::High
            } else {
                slot.priority()
            };
            Some(((!is_due, class, turn.number), model.clone()))
        })
        .collect();
    line.sort();
    line.into_iter()
        .map(|((young, ..), model)| (!young, model))
        .collect()
}

fn running(machine: &Machine) -> impl Iterator<Item = (&String, &Slot)> {
    let all = machine.slots.iter();
    all.filter(|(_, slot)| slot.running.is_some())
}

fn room(slot: &Slot) -> Room {
    slot.running
        .as_ref()
        .map_or(slot.need(), |worker| worker.room())
}

fn is_leaving(slot: &Slot) -> bool {
    slot.running
        .as_ref()
        .is_some_and(|worker| worker.is_leaving())
}

/// Bytes and places that workers take.
fn loaded(machine: &Machine) -> Room {
    running(machine).fold(Room::default(), |sum, (_, slot)| sum.plus(room(slot)))
}

/// Bytes and places that are taken, also by what stands by.
pub fn books(machine: &Machine) -> Room {
    let standby = machine.standby.as_ref().map(Standby::room);
    loaded(machine).plus(standby.unwrap_or_default())
}

/// Whether a model for which there is room otherwise cannot be started beside what stands
/// by.
fn is_in_the_way(machine: &Machine, standby: &Standby, model: &str) -> bool {
    let slot = &machine.slots[model];
    match standby.plan.model == model {
        true => standby.is_leaving || standby.plan != slot.plan,
        false => !books(machine).plus(slot.need()).fits(machine.limit()),
    }
}

/// What is wrong about what stands by, as words: it should not, or something should.
pub fn standby_left_undone(machine: &Machine, now: Instant) -> Option<String> {
    let (books, limit) = (books(machine).bytes, machine.limit().bytes);
    let next = comes_next(machine, now);
    match &machine.standby {
        Some(standby) if standby.is_leaving => None,
        Some(standby) => {
            let is_next = next.is_some_and(|slot| slot.plan == standby.plan);
            let may_stay = is_next && books <= limit;
            (!may_stay).then(|| format!("{} stands by", standby.plan.model))
        }
        None => {
            let slot = next?;
            let bytes = slot.plan.standby?.0.max(slot.standby_held.0);
            let fits = books + bytes.min(slot.need().bytes) <= limit;
            fits.then(|| format!("nothing stands by for {}", slot.plan.model))
        }
    }
}

/// The first in the line whom nobody holds up, if nobody has to be told to go any more for
/// it and somebody is going.
fn comes_next(machine: &Machine, now: Instant) -> Option<&Slot> {
    if machine.shutdown.is_some() || !running(machine).any(|(_, slot)| is_leaving(slot)) {
        return None;
    }
    let mut line = line(machine, now).into_iter();
    let (_, model) = line.find(|(_, model)| !machine.is_held_up(model))?;
    let slot = &machine.slots[&model];
    let mut rivals = rivals(machine, &model).filter(|(_, rival)| rival.running.is_some());
    let is_alone = rivals.all(|(_, rival)| is_leaving(rival));
    let stay = running(machine).filter(|(_, slot)| !is_leaving(slot));
    let there = stay.fold(slot.need(), |sum, (_, slot)| sum.plus(room(slot)));
    (slot.running.is_none() && is_alone && there.fits(machine.limit())).then_some(slot)
}

/// The models that are never beside one, as each of the two may say.
fn rivals<'m>(machine: &'m Machine, model: &str) -> impl Iterator<Item = (&'m String, &'m Slot)> {
    let model = model.to_owned();
    let all = machine.slots.iter();
    all.filter(move |(_, slot)| slot.rivals.contains(&model))
}

fn is_among(model: &str, rivals: &[(&String, &Slot)]) -> bool {
    rivals.iter().any(|(name, _)| *name == model)
}

/// Whether a model is there and does not go for others now.
fn stays(slot: &Slot) -> bool {
    let is_up = |slot: &Slot| slot.running.as_ref().is_some_and(|it| it.gate().is_some());
    let may_go = is_up(slot) && !slot.keep && slot.held_until.is_none();
    slot.running.is_some() && !is_leaving(slot) && !may_go
}

fn can_ever_fit(machine: &Machine, model: &str) -> bool {
    let slot = &machine.slots[model];
    let is_in_the_way = |rival: &Slot| rival.keep && (!slot.keep || rival.running.is_some());
    if rivals(machine, model).any(|(_, rival)| is_in_the_way(rival)) {
        return false;
    }
    let held = machine
        .slots
        .iter()
        .filter(|(name, other)| {
            *name != model && other.keep && (!slot.keep || other.running.is_some())
        })
        .fold(slot.need(), |sum, (_, other)| sum.plus(room(other)));
    held.fits(machine.limit())
}

fn fits_beside_busy(machine: &Machine, model: &str) -> bool {
    let others = machine
        .slots
        .iter()
        .filter(|(name, slot)| *name != model && !slot.is_served() && slot.claim().is_some());
    let wanted = others.fold(machine.slots[model].need(), |sum, (_, slot)| {
        sum.plus(slot.need())
    });
    let is_idle = |slot: &Slot| {
        let gate = slot.running.as_ref().and_then(|worker| worker.gate());
        let may_go = !slot.keep && slot.held_until.is_none();
        may_go && gate.is_some_and(|gate| gate.leases() == 0 && !gate.is_queued())
    };
    let busy = running(machine).filter(|(_, slot)| !is_leaving(slot) && !is_idle(slot));
    let rivals: Vec<_> = rivals(machine, model).collect();
    let awaited = |slot: &Slot| !slot.is_served() && slot.claim().is_some();
    if rivals.iter().any(|(_, rival)| awaited(rival))
        || running(machine)
            .any(|(name, it)| is_among(name, &rivals) && !is_leaving(it) && !is_idle(it))
    {
        return false;
    }
    busy.fold(wanted, |sum, (_, slot)| sum.plus(room(slot)))
        .fits(machine.limit())
}

/// The ready models that may go, in the order in which they should.
fn candidates(machine: &Machine, earmarked: &[String], now: Instant) -> Vec<(String, Room, bool)> {
    let mut found: Vec<_> = running(machine)
        .filter(|(_, slot)| !slot.keep && slot.held_until.is_none())
        .filter(|(name, slot)| !earmarked.contains(name) && !is_leaving(slot))
        .filter_map(|(name, slot)| {
            let worker = slot.running.as_ref()?;
            let gate = worker.gate()?;
            let is_spared = machine.spared_until(slot).is_some_and(|until| until > now);
            let busy = gate.leases() > 0 || gate.is_queued() || is_spared;
            let used = machine
                .idle
                .iter()
                .rev()
                .position(|(idle, ())| idle == name);
            let rank = used.filter(|_| !busy).unwrap_or(usize::MAX);
            let super::slot::Phase::Up { since, .. } = worker.phase else {
                return None;
            };
            Some(((busy, rank, since), (name.clone(), worker.room(), busy)))
        })
        .collect();
    found.sort_by_key(|(order, (name, ..))| (*order, name.clone()));
    found.into_iter().map(|(_, candidate)| candidate).collect()
}
