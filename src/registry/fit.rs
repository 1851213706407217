//! Which models can be in memory together and which take turns, from what each needs
//! and what there is. Pure: what a load reserves is told by the caller, and what is in
//! use at a moment is the pool's to know.

use std::collections::HashSet;
use std::fmt::{self, Write};

use crate::units::ByteSize;

/// Up to so many models every choice of them is looked at; of more only counts are told.
const CHOICES: usize = 10;

/// Most choices that are told one by one.
const TOLD: usize = 6;

/// Most names of one line.
const NAMES: usize = 5;

/// A load and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is called.
    pub name: String,
    /// What it reserves.
    pub memory: ByteSize,
    /// Whether it stays in any case: `keep: always`.
    pub keep: bool,
    /// Names of others that are never in memory beside it: `never_with`.
    pub never_with: Vec<String>,
}

impl Need {
    /// Whether one of the two is never beside the other.
    fn is_apart_from(&self, other: &Self) -> bool {
        self.never_with.contains(&other.name) || other.never_with.contains(&self.name)
    }
}

/// What there is for all loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// `memory`
    pub budget: ByteSize,
    /// `pool.max_models`; nothing means any number.
    pub places: Option<usize>,
}

/// What can be in memory together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    room: Room,
    /// What is always kept, and what that needs.
    always: Vec<Need>,
    kept: ByteSize,
    /// What is kept and fits only if others that are do not: there is too much of it.
    is_overbooked: bool,
    /// What cannot be loaded beside what is kept.
    never: Vec<Need>,
    /// What fits with no other but the kept ones.
    alone: Vec<Need>,
    /// The others.
    together: Vec<Need>,
    choice: Choice,
}

/// Which of several models fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// Every one.
    All,
    /// Those of each list, by their positions, to which no other can be added.
    Groups(Vec<Vec<usize>>),
    /// Whichever `any` they are, and never more than `most`.
    Counts { any: usize, most: usize },
}

/// What can be in memory together.
pub fn fit(needs: Vec<Need>, room: Room) -> Fit {
    let (always, others): (Vec<_>, Vec<_>) = needs.into_iter().partition(|need| need.keep);
    let (always, mut never): (Vec<_>, Vec<_>) = always
        .into_iter()
        .partition(|need| need.memory <= room.budget);
    let kept = sum(&always);
    let left = Room {
        budget: room.budget.saturating_sub(kept),
        places: room
            .places
            .map(|places| places.saturating_sub(always.len())),
    };
    let too_many = room.places.is_some_and(|places| always.len() > places);
    let (others, too_large): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|need| holds(left, 1, need.memory));
    never.extend(too_large);
    let (alone, together) = match all_fit(left, &others) {
        true => (Vec::new(), others),
        false => apart(left, others),
    };
    Fit {
        is_overbooked: kept > room.budget || too_many,
        choice: choice(left, &together),
        room,
        always,
        kept,
        never,
        alone,
        together,
    }
}

/// Whether so many that need so much together have room.
fn holds(room: Room, count: usize, memory: ByteSize) -> bool {
    memory <= room.budget && room.places.is_none_or(|places| count <= places)
}

fn all_fit(room: Room, needs: &[Need]) -> bool {
    holds(room, needs.len(), sum(needs)) && !have_rivals(needs)
}

/// Whether there are two of which one is never beside the other.
fn have_rivals(needs: &[Need]) -> bool {
    let rivals: HashSet<_> = needs.iter().flat_map(|need| &need.never_with).collect();
    needs.iter().any(|need| rivals.contains(&need.name))
}

/// What they need together.
pub fn sum<'n>(needs: impl IntoIterator<Item = &'n Need>) -> ByteSize {
    needs
        .into_iter()
        .fold(ByteSize::ZERO, |sum, need| sum.saturating_add(need.memory))
}

/// Those that fit with no other, and the rest.
fn apart(room: Room, needs: Vec<Need>) -> (Vec<Need>, Vec<Need>) {
    let mut sizes: Vec<_> = needs.iter().map(|need| need.memory).collect();
    sizes.sort_unstable();
    let smallest = |need: &Need| {
        let of_others = usize::from(sizes.first() == Some(&need.memory));
        sizes.get(of_others).copied()
    };
    let rivals = have_rivals(&needs);
    let fits_beside =
        |need: &Need, other: ByteSize| holds(room, 2, need.memory.saturating_add(other));
    let is_alone = |need: &Need| match rivals {
        false => smallest(need).is_none_or(|other| !fits_beside(need, other)),
        true => !needs.iter().any(|other| {
            need.name != other.name && !need.is_apart_from(other) && fits_beside(need, other.memory)
        }),
    };
    let alone: HashSet<_> = needs
        .iter()
        .filter(|need| is_alone(need))
        .map(|need| need.name.clone())
        .collect();
    needs
        .into_iter()
        .partition(|need| alone.contains(&need.name))
}

/// Which of them fit together.
fn choice(room: Room, needs: &[Need]) -> Choice {
    if all_fit(room, needs) {
        return Choice::All;
    }
    let counts = |largest_first: bool| {
        let mut sizes: Vec<_> = needs.iter().map(|need| need.memory).collect();
        sizes.sort_unstable();
        if largest_first {
            sizes.reverse();
        }
        let mut sum = ByteSize::ZERO;
        let fitting = sizes
            .into_iter()
            .enumerate()
            .take_while(|(before, memory)| {
                sum = sum.saturating_add(*memory);
                holds(room, before + 1, sum)
            });
        fitting.count()
    };
    let (any, most) = (counts(true), counts(false));
    if any == most && !have_rivals(needs) || needs.len() > CHOICES {
        return Choice::Counts { any, most };
    }
    match groups(room, needs) {
        groups if groups.len() <= TOLD => Choice::Groups(groups),
        _ => Choice::Counts { any, most },
    }
}

/// Every set of them that fits and to which no other can be added.
fn groups(room: Room, needs: &[Need]) -> Vec<Vec<usize>> {
    let members = |set: u32| (0..needs.len()).filter(move |index| set & (1 << index) != 0);
    let fits = |set: u32| {
        let memory = sum(members(set).map(|index| &needs[index]));
        let are_apart =
            |one: usize| members(set).any(|other| needs[one].is_apart_from(&needs[other]));
        holds(room, set.count_ones() as usize, memory) && !members(set).any(are_apart)
    };
    let is_whole =
        |set: u32| (0..needs.len()).all(|more| set & (1 << more) != 0 || !fits(set | 1 << more));
    let sets = (1..1_u32 << needs.len()).filter(|set| fits(*set) && is_whole(*set));
    let mut groups: Vec<Vec<usize>> = sets.map(|set| members(set).collect()).collect();
    groups.sort();
    groups
}

impl Fit {
    /// Whether everything can be loaded at once.
    pub fn is_all(&self) -> bool {
        !self.is_overbooked
            && self.never.is_empty()
            && self.alone.is_empty()
            && self.choice == Choice::All
    }

    /// What there is for those that are not always kept.
    fn left(&self) -> ByteSize {
        self.room.budget.saturating_sub(self.kept)
    }

    /// Who of those that would fit is never beside whom.
    fn rivals(&self) -> Vec<(&str, &str)> {
        let all = self.together.iter().enumerate();
        let pairs = all.flat_map(|(index, one)| {
            let others = self.together[index + 1..].iter();
            let rivals = others.filter(|other| one.is_apart_from(other));
            rivals.map(|other| (one.name.as_str(), other.name.as_str()))
        });
        pairs.collect()
    }

    fn group(&self, group: &[usize]) -> Vec<&str> {
        group
            .iter()
            .map(|index| self.together[*index].name.as_str())
            .collect()
    }

    /// The same for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let names = |needs: &[Need]| -> Vec<String> {
            needs.iter().map(|need| need.name.clone()).collect()
        };
        let (groups, any, most) = match &self.choice {
            Choice::All => (vec![(0..self.together.len()).collect()], None, None),
            Choice::Groups(groups) => (groups.clone(), None, None),
            Choice::Counts { any, most } => (Vec::new(), Some(any), Some(most)),
        };
        let groups: Vec<_> = groups
            .iter()
            .filter(|group| !group.is_empty())
            .map(|group| self.group(group))
            .collect();
        serde_json::json!({
            "all": self.is_all(),
            "always": names(&self.always),
            "together": groups,
            "any_of": names(match self.choice {
                Choice::Counts { .. } => &self.together,
                _ => &[],
            }),
            "any": any,
            "most": most,
            "alone": names(&self.alone),
            "never": names(&self.never),
        })
    }

    fn always_line(&self) -> Option<String> {
        if self.always.is_empty() {
            return None;
        }
        let names = some(&self.always);
        Some(match self.is_overbooked {
            true => format!(
                "always kept: {names}, which need {} together: not all of them can be loaded",
                self.kept
            ),
            false => format!(
                "always kept: {names}; {} are left for the others",
                self.left()
            ),
        })
    }

    fn together_lines(&self) -> Vec<String> {
        let beside = match self.always.is_empty() {
            true => "",
            false => " beside them",
        };
        match &self.choice {
            Choice::All if self.together.len() < 2 => {
                let one = self.together.iter();
                one.map(|need| format!("{} fits{beside}", need.name))
                    .collect()
            }
            Choice::All => vec![format!("{} fit together{beside}", some(&self.together))],
            Choice::Groups(groups) => groups
                .iter()
                .map(|group| format!("{} fit together{beside}", listed(&self.group(group))))
                .collect(),
            // Numbers say nothing of rivals.
            Choice::Counts { most, .. } if have_rivals(&self.together) => {
                let (of, names) = (self.together.len(), some(&self.together));
                let pairs = self.rivals();
                let mut lines = vec![format!(
                    "at most {most} of these {of} fit together{beside}: {names}"
                )];
                lines.extend(
                    pairs
                        .iter()
                        .take(NAMES)
                        .map(|(one, other)| format!("never together: {one} and {other}")),
                );
                if pairs.len() > NAMES {
                    lines.push(format!("{} more pairs never together", pairs.len() - NAMES));
                }
                lines
            }
            Choice::Counts { any, most } => {
                let (of, names) = (self.together.len(), some(&self.together));
                vec![match any == most {
                    true => format!("any {any} of these {of} fit together{beside}: {names}"),
                    false => format!(
                        "any {any} of these {of} fit together{beside}, and at most {most}: {names}"
                    ),
                }]
            }
        }
    }

    fn alone_lines(&self) -> Vec<String> {
        let others: Vec<_> = self
            .together
            .iter()
            .map(|need| need.name.as_str())
            .collect();
        let unloads = match (others.as_slice(), self.alone.len()) {
            ([], _) => "the one before it".to_owned(),
            (few, 1) if few.len() <= NAMES => listed(few),
            _ if self.always.is_empty() => "whatever else is loaded".to_owned(),
            _ => "whatever else is loaded and not always kept".to_owned(),
        };
        match self.alone.as_slice() {
            [] => Vec::new(),
            [one] => vec![format!(
                "{} ({}) only alone: a request for it unloads {unloads}",
                one.name, one.memory
            )],
            many => vec![format!(
                "{} only one at a time: a request for one of them unloads {unloads}",
                some(many)
            )],
        }
    }

    fn never_lines(&self) -> Vec<String> {
        let why = match self.always.is_empty() {
            true => format!("the budget is {}", self.room.budget),
            false => format!(
                "the budget is {}, of which {} is always kept",
                self.room.budget, self.kept
            ),
        };
        let first = self.never.iter().take(NAMES);
        let mut lines: Vec<_> = first
            .map(|need| {
                format!(
                    "{} never fits: it needs {} and {why}",
                    need.name, need.memory
                )
            })
            .collect();
        match self.never.len().saturating_sub(NAMES) {
            0 => {}
            more => lines.push(format!("{more} more never fit")),
        }
        lines
    }
}

impl fmt::Display for Fit {
    /// A few lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = match self.room.places {
            Some(1) => " and one place (pool.max_models)".to_owned(),
            Some(places) => format!(" and {places} places (pool.max_models)"),
            None => String::new(),
        };
        let budget = format!("budget {}{places}", self.room.budget);
        let count = self.always.len() + self.together.len();
        if self.is_all() {
            return match count {
                0 => f.write_str(&budget),
                1 => write!(f, "{budget}: the one model fits"),
                2 => write!(f, "{budget}: both models fit together"),
                _ => write!(f, "{budget}: all {count} models fit together"),
            };
        }
        f.write_str(&budget)?;
        let mut lines: Vec<_> = self.always_line().into_iter().collect();
        lines.extend(self.together_lines());
        lines.extend(self.alone_lines());
        lines.extend(self.never_lines());
        for line in lines {
            write!(f, "\n  {line}")?;
        }
        let swaps = !self.alone.is_empty() || self.choice != Choice::All;
        match swaps {
            true => f.write_str(
                "\n  what has no room takes the place of idle models, the least recently used first",
            ),
            false => Ok(()),
        }
    }
}

/// The names of a few, and how many more there are.
fn some(needs: &[Need]) -> String {
    let mut names: Vec<_> = needs.iter().map(|need| need.name.as_str()).collect();
    let more = match names.len() {
        count if count > NAMES + 1 => {
            names.truncate(NAMES);
            format!("{} more", count - NAMES)
        }
        _ => String::new(),
    };
    if !more.is_empty() {
        names.push(&more);
    }
    listed(&names)
}

/// `a, b and c`.
pub fn listed(names: &[&str]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == names.len() => " and ",
            _ => ", ",
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{before}{name}");
    }
    text
}

#[cfg(test)]
mod tests;
