//! Models against the cache, the budget and this build. Pure.

use std::collections::BTreeMap;

use super::{Finding, Setup, Severity};
use crate::config::Budget;
use crate::registry::why::explain;
use crate::registry::{Served, Snapshot};
use crate::units::ByteSize;
use crate::worker::EngineKind;

/// What is served, what should be and is not, and what never fits.
pub fn models(has_engine: bool, setup: &Setup) -> Vec<Finding> {
    let snapshot = &setup.snapshot;
    let mut found = Vec::new();
    found.extend(budget(setup));
    found.extend(kept(snapshot));
    found.extend(not_servable(snapshot));
    let plans = || {
        snapshot
            .served
            .values()
            .filter_map(|served| served.plan.as_ref().ok())
    };
    found.extend(
        snapshot
            .served
            .values()
            .filter_map(|served| never_fits(served, snapshot.budget)),
    );
    if plans().next().is_none() {
        let message =
            "no model is served: allow is empty, or matches nothing that is whole in the cache";
        let fault = Finding::fault("nothing-served", message);
        found.push(fault.mend("roundhouse models --why tells what is cached"));
    }
    if !has_engine && plans().any(|plan| plan.engine == EngineKind::Mlx.into()) {
        let message = "this build has no engine, and the models need the embedded one";
        found.push(Finding::fault("no-engine", message).mend("make build"));
    }
    found
}

/// A model that an entry names is missed; one that a pattern permits is only told.
fn severity(served: &Served) -> Severity {
    match served.entry {
        true => Severity::Fault,
        false => Severity::Note,
    }
}

fn not_servable(snapshot: &Snapshot) -> Vec<Finding> {
    let explained = explain(snapshot);
    let broken = snapshot.served.values().filter_map(|served| {
        let reason = served.plan.as_ref().err()?;
        let line = explained.iter().find(|line| line.id == served.name);
        let message = format!("{} is not served: {reason}", served.name);
        Some(Finding {
            severity: severity(served),
            mend: line.and_then(|line| line.mend.clone()),
            ..Finding::fault("model-not-servable", message)
        })
    });
    broken.collect()
}

fn never_fits(served: &Served, budget: ByteSize) -> Option<Finding> {
    let need = served.plan.as_ref().ok()?.memory;
    (need > budget).then(|| Finding {
        severity: severity(served),
        ..Finding::fault(
            "model-over-budget",
            format!("{} needs {need} and the budget is {budget}", served.name),
        )
    })
}

/// The budget against the machine.
fn budget(setup: &Setup) -> Option<Finding> {
    let (budget, machine) = (setup.snapshot.budget, setup.machine);
    if setup.snapshot.config.memory == Budget::Auto || budget <= machine.auto {
        return None;
    }
    let message = format!(
        "memory is {budget}, and this machine has {} of which {} can be spared for models",
        machine.total, machine.auto
    );
    Some(match budget > machine.total {
        true => Finding::fault("memory-over-machine", message).mend("memory: auto"),
        false => Finding::note("memory-over-machine", message),
    })
}

/// What is always kept, together.
fn kept(snapshot: &Snapshot) -> Option<Finding> {
    let kept: BTreeMap<&str, ByteSize> = snapshot
        .served
        .values()
        .filter(|served| served.keep)
        .filter_map(|served| served.plan.as_ref().ok())
        .map(|plan| (plan.model.as_str(), plan.memory))
        .collect();
    let sum = kept
        .values()
        .fold(ByteSize::ZERO, |sum, need| sum.saturating_add(*need));
    let budget = snapshot.budget;
    (kept.len() > 1 && sum > budget).then(|| {
        let message =
            format!("what is kept always needs {sum} together and the budget is {budget}");
        Finding::fault("kept-over-budget", message)
    })
}
