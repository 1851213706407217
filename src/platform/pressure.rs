//! How short memory is on this machine: the free memory of the machine or its
//! cgroup, and what the kernel tells of time lost to the lack of it.
//!
//! Sources: Linux's pressure stall information (`/proc/pressure/memory`,
//! Documentation/accounting/psi.rst: shares of the last ten seconds in which some
//! or all tasks waited for memory); macOS's `kern.memorystatus_vm_pressure_level`
//! (1 normal, 2 warning, 4 critical). The marks below are ours.

use super::{MachineFigures, machine_figures};
use crate::units::ByteSize;

/// Below this part of all memory free, it is short, and very short: percent.
const FREE: (u64, u64) = (10, 5);

/// Above this share of time lost by some tasks it is short, percent.
const SOME: f64 = 10.0;

/// Above this share of time lost by all tasks at once it is very short, percent.
const FULL: f64 = 10.0;

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is enough.
    Normal,
    /// It is short.
    Warn,
    /// It is so short that work stands still, or soon will.
    Critical,
}

/// Shares of the last ten seconds that were lost, percent.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Stalls {
    /// By at least one task.
    pub some: f64,
    /// By all tasks at once.
    pub full: f64,
}

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pressure {
    /// In a word.
    pub level: Level,
    /// What can be had without anybody giving up what it uses.
    pub free: Option<ByteSize>,
    /// All memory of the machine or cgroup.
    pub total: Option<ByteSize>,
    /// Time lost, where the kernel tells.
    pub stalls: Option<Stalls>,
}

/// How things stand now.
pub fn now() -> Pressure {
    let figures = machine_figures();
    let stalls = std::fs::read_to_string("/proc/pressure/memory");
    let stalls = stalls.ok().and_then(|text| parse_stalls(&text));
    Pressure {
        level: level(figures, stalls).max(system_level().unwrap_or(Level::Normal)),
        free: figures.map(|figures| figures.free),
        total: figures.map(|figures| figures.total),
        stalls,
    }
}

/// What the figures say together: the worse of the two.
fn level(figures: Option<MachineFigures>, stalls: Option<Stalls>) -> Level {
    let of_free = figures.map_or(Level::Normal, |figures| {
        let part = |percent: u64| figures.total.0 / 100 * percent;
        match figures.free.0 {
            free if free < part(FREE.1) => Level::Critical,
            free if free < part(FREE.0) => Level::Warn,
            _ => Level::Normal,
        }
    });
    let of_stalls = stalls.map_or(Level::Normal, |stalls| match stalls {
        Stalls { full, .. } if full >= FULL => Level::Critical,
        Stalls { some, .. } if some >= SOME => Level::Warn,
        _ => Level::Normal,
    });
    of_free.max(of_stalls)
}

/// `/proc/pressure/memory`.
fn parse_stalls(text: &str) -> Option<Stalls> {
    let share = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut fields = line.split_whitespace();
        let average = fields.find_map(|field| field.strip_prefix("avg10="))?;
        average
            .parse::<f64>()
            .ok()
            .filter(|share| share.is_finite())
    };
    Some(Stalls {
        some: share("some ")?,
        full: share("full ")?,
    })
}

/// What the system itself says.
#[cfg(target_os = "macos")]
fn system_level() -> Option<Level> {
    let output = std::process::Command::new("/usr/sbin/sysctl")
        .args(["-n", "kern.memorystatus_vm_pressure_level"])
        .output()
        .ok()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    parse_level(super::parse_sysctl_number(&printed)?)
}

/// See macOS's side.
#[cfg(not(target_os = "macos"))]
fn system_level() -> Option<Level> {
    None
}

/// macOS's number for its level.
#[cfg_attr(
    not(any(target_os = "macos", test)),
    expect(dead_code, reason = "compiled and tested everywhere")
)]
fn parse_level(number: u64) -> Option<Level> {
    match number {
        1 => Some(Level::Normal),
        2 => Some(Level::Warn),
        4 => Some(Level::Critical),
        _ => None,
    }
}

impl Level {
    /// The number in metrics: 0, 1, 2.
    pub fn number(self) -> u64 {
        match self {
            Self::Normal => 0,
            Self::Warn => 1,
            Self::Critical => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_free_memory_and_lost_time_counts() {
        let check = |free: u64, some: f64, full: f64, expected: Level| {
            let figures = MachineFigures {
                total: ByteSize(1000),
                free: ByteSize(free),
            };
            let stalls = Stalls { some, full };
            let got = level(Some(figures), Some(stalls));
            assert_eq!(got, expected, "{free} {some} {full}");
        };
        check(500, 0.0, 0.0, Level::Normal);
        check(100, 9.9, 0.0, Level::Normal);
        check(99, 0.0, 0.0, Level::Warn);
        check(49, 0.0, 0.0, Level::Critical);
        check(500, 10.0, 9.9, Level::Warn);
        check(500, 50.0, 10.0, Level::Critical);
        assert_eq!(level(None, None), Level::Normal, "nothing is known");
    }

    #[test]
    fn stalls_are_read_as_the_kernel_writes_them() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.10 total=32235466\n\
                    full avg10=3.00 avg60=0.00 avg300=0.00 total=23654401\n";
        let expected = Stalls {
            some: 12.34,
            full: 3.0,
        };
        assert_eq!(parse_stalls(text), Some(expected));
        assert_eq!(parse_stalls("some avg10=x\n"), None);
        assert_eq!(parse_stalls(""), None);
    }

    #[test]
    fn the_level_of_macos_is_one_of_three_numbers() {
        let levels = [1, 2, 4, 3].map(parse_level);
        let expected = [Level::Normal, Level::Warn, Level::Critical].map(Some);
        assert_eq!(levels[..3], expected);
        assert_eq!(levels[3], None);
    }

    #[test]
    fn this_machine_tells() {
        let pressure = now();
        assert!(pressure.free.is_some_and(|free| free.0 > 0));
        assert!(pressure.level.number() <= 2);
    }
}
