//! Quantities: sizes, durations and numbers, each with what would fit where one does not.

use std::time::Duration;

use super::{Wrong, quoted};
use crate::config::file::Value;
use crate::config::walk::{At, Walker, advice};
use crate::config::{Amount, Budget, MinResidency};
use crate::units::{ByteSize, UnitError, parse_duration};

/// Longest duration: ten years. Above it a clock's arithmetic could overflow,
/// and `never` is meant.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Whether zero makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// It does.
    Fits,
    /// It does not.
    Refused,
}

/// The numbers that fit, both ends included.
#[derive(Clone, Copy)]
pub struct Span(pub u64, pub u64);

impl Span {
    /// A count of things that are there.
    pub const COUNT: Self = Self(1, 1_000_000);
    /// JSON values in a body.
    pub const VALUES: Self = Self(1, 100_000_000);
    /// A number of tokens.
    pub const TOKENS: Self = Self(1, 100_000_000);
    /// Sequences at once.
    pub const PARALLEL: Self = Self(1, 4096);
    /// Where an upstream stands among those with the same name.
    pub const PRIORITY: Self = Self(0, 100);
    /// The share of an upstream.
    pub const WEIGHT: Self = Self(1, 1000);
}

impl Walker<'_> {
    /// `memory` at the top.
    pub fn budget(&mut self, at: At) -> Option<Budget> {
        let expected = "a size such as 48GB, a percentage or auto";
        self.read(at, expected, |text| -> Result<Budget, Wrong> {
            if text == "auto" {
                return Ok(Budget::Auto);
            }
            match amount(text, expected)? {
                Amount::Size(size) => Ok(Budget::Size(size)),
                amount @ Amount::Share(_) => Ok(Budget::Share(amount.share())),
            }
        })
    }

    /// A size, or a share of the budget.
    pub fn amount(&mut self, at: At) -> Option<Amount> {
        let expected = "a size such as 512MB or a percentage";
        self.read(at, expected, |text| amount(text, expected))
    }

    /// A size that is more than nothing.
    pub fn size(&mut self, at: At) -> Option<ByteSize> {
        let expected = "a size such as 32MB";
        self.read(at, expected, |text| size(text, expected))
    }

    /// A size or `off`.
    pub fn size_or_off(&mut self, at: At) -> Option<Option<ByteSize>> {
        let expected = "a size such as 8GB, or off";
        self.read(at, expected, |text| match text {
            "off" => Ok(None),
            "none" | "no" | "never" | "false" | "0" => {
                let help = Some("write off".to_owned());
                Err(Wrong::expected(expected, text, help))
            }
            _ => size(text, expected).map(Some),
        })
    }

    /// A duration.
    pub fn duration(&mut self, at: At, zero: Zero) -> Option<Duration> {
        let expected = "a duration such as 90s";
        self.read(at, expected, |text| {
            let duration = duration(text, expected)?;
            match duration.is_zero() && zero == Zero::Refused {
                true => Err(Wrong::expected("more than nothing", text, None)),
                false => Ok(duration),
            }
        })
    }

    /// A duration, or `never`, which is the inner nothing.
    pub fn duration_or_never(&mut self, at: At) -> Option<Option<Duration>> {
        let expected = "a duration such as 15m, or never";
        self.read(at, expected, |text| match text {
            "never" => Ok(None),
            _ => duration(text, expected).map(Some),
        })
    }

    /// A duration, or `auto`.
    pub fn min_residency(&mut self, at: At) -> Option<MinResidency> {
        let expected = "auto, or a duration such as 20s";
        self.read(at, expected, |text| match text {
            "auto" => Ok(MinResidency::Auto),
            _ => duration(text, expected)
                .map(MinResidency::For)
                .map_err(|wrong| {
                    let help = advice::choice(text, &["auto"]);
                    Wrong::advised(wrong.message, wrong.help.or(help))
                }),
        })
    }

    /// A whole number.
    pub fn number<T: TryFrom<u64>>(&mut self, at: At, span: Span) -> Option<T> {
        let expected = format!("a whole number from {} to {}", span.0, span.1);
        self.read(at, &expected, |text| {
            let number = number(text).filter(|number| (span.0..=span.1).contains(number));
            number
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| Wrong::expected(&expected, text, advice::number(text)))
        })
    }

    /// A count, or `unlimited`, which is the inner nothing.
    pub fn number_or_unlimited(&mut self, at: At) -> Option<Option<usize>> {
        match &at.node.value {
            Value::Text(text) if text == "unlimited" => Some(None),
            Value::Text(text) if number(text).is_some() => self.number(at, Span::COUNT).map(Some),
            _ => {
                let expected = "a whole number or unlimited";
                self.read(at, expected, |text| {
                    let help = match text {
                        "none" | "no" | "never" | "infinite" | "inf" | "-1" => {
                            Some("write unlimited".to_owned())
                        }
                        _ => advice::choice(text, &["unlimited"]).or_else(|| advice::number(text)),
                    };
                    Err(Wrong::expected(expected, text, help))
                })
            }
        }
    }
}

/// Digits alone, without a leading zero: `0x10`, `1e3` and `08080` are none.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|b| b.is_ascii_digit());
    let is_octal = text.len() > 1 && text.starts_with('0');
    match is_plain && !is_octal {
        true => text.parse().ok(),
        false => None,
    }
}

/// A size or a percentage, more than nothing.
fn amount(text: &str, expected: &str) -> Result<Amount, Wrong> {
    let Some(percent) = text.strip_suffix('%') else {
        return size(text, expected).map(Amount::Size);
    };
    let is_number = percent.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value: f64 = match percent.trim_end().parse() {
        Ok(value) if is_number => value,
        _ => return Err(Wrong::expected(expected, text, advice::size(text))),
    };
    match value > 0.0 && value <= 100.0 {
        true => Ok(Amount::of_percent(value)),
        false => Err(Wrong::expected(
            "a percentage above 0% and up to 100%",
            text,
            None,
        )),
    }
}

/// A size that is more than nothing.
fn size(text: &str, expected: &str) -> Result<ByteSize, Wrong> {
    match ByteSize::parse(text) {
        Ok(ByteSize::ZERO) => Err(Wrong::expected("more than nothing", text, None)),
        Ok(size) => Ok(size),
        Err(error) => Err(unit(error, text, expected, advice::size(text))),
    }
}

/// A duration that clocks can count.
fn duration(text: &str, expected: &str) -> Result<Duration, Wrong> {
    match parse_duration(text) {
        Ok(duration) if duration > LONGEST => Err(Wrong::expected("at most 3650d", text, None)),
        Ok(duration) => Ok(duration),
        Err(error) => Err(unit(error, text, expected, advice::duration(text))),
    }
}

/// A quantity that could not be read: of one without its unit that is said.
fn unit(error: UnitError, text: &str, expected: &str, help: Option<String>) -> Wrong {
    let found = quoted(text);
    let why = match error {
        UnitError::SizeUnit(_) | UnitError::DurationUnit(_) if number(text).is_some() => {
            " without a unit"
        }
        UnitError::TooLarge(_) => ", which is too large",
        _ => "",
    };
    Wrong::advised(format!("expected {expected}, found {found}{why}"), help)
}
