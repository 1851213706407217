//! Quantities as people write them: sizes (`48GB`, `512MB`, `40%`) and
//! durations (`90s`, `10m`, `2h`). Not a place for anything else.

use std::fmt;
use std::time::Duration;

/// A number of bytes. Written with decimal units, as model hubs do: 1 GB is 10⁹ bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// The sum, or the largest size there is.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Reads `48GB`, `512MB`, `1.5GiB` or `100B`. A unit is required.
    pub fn parse(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split_number(text)?;
        let factor: f64 = match unit.to_ascii_uppercase().as_str() {
            "B" => 1.0,
            "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "KIB" => 1024.0,
            "MIB" => 1024.0 * 1024.0,
            "GIB" => 1024.0 * 1024.0 * 1024.0,
            "TIB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(UnitError::SizeUnit(text.to_owned())),
        };
        let bytes = number * factor;
        if bytes >= u64::MAX as f64 {
            return Err(UnitError::TooLarge(text.to_owned()));
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for ByteSize {
    /// The size with at most one decimal, in the largest unit that keeps it above one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            b if b >= 1_000_000_000_000 => (b as f64 / 1e12, "TB"),
            b if b >= 1_000_000_000 => (b as f64 / 1e9, "GB"),
            b if b >= 1_000_000 => (b as f64 / 1e6, "MB"),
            b if b >= 1_000 => (b as f64 / 1e3, "kB"),
            b => return write!(f, "{b} B"),
        };
        write!(f, "{value:.1} {unit}")
    }
}

/// Reads `90s`, `10m`, `2h`, `250ms` or `1d`. A unit is required; `never` is
/// for the caller to know.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split_number(text)?;
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(UnitError::DurationUnit(text.to_owned())),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| UnitError::TooLarge(text.to_owned()))
}

/// Why a quantity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits at the beginning, or a sign.
    #[error("\"{0}\" does not begin with a number")]
    NoNumber(String),
    /// A size without a unit that is known.
    #[error("\"{0}\" needs a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB")]
    SizeUnit(String),
    /// A duration without a unit that is known.
    #[error("\"{0}\" needs a unit: ms, s, m, h or d")]
    DurationUnit(String),
    /// The value does not fit.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

/// Splits `1.5GB` into its number and its unit.
fn split_number(text: &str) -> Result<(f64, &str), UnitError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number
        .parse()
        .map_err(|_| UnitError::NoNumber(text.to_owned()))?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_are_decimal() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(ByteSize::parse(text).ok().map(|s| s.0), expected, "{text}");
        };
        check("48GB", Some(48_000_000_000));
        check("512MB", Some(512_000_000));
        check("1.5GiB", Some(1_610_612_736));
        check("0B", Some(0));
        check("48", None);
        check("-1GB", None);
        check("GB", None);
        check("1e3GB", None);
        check("99999999999TB", None);
    }

    #[test]
    fn durations_need_a_unit() {
        let check = |text: &str, expected: Option<u64>| {
            let got = parse_duration(text).ok().map(|d| d.as_millis() as u64);
            assert_eq!(got, expected, "{text}");
        };
        check("90s", Some(90_000));
        check("10m", Some(600_000));
        check("2h", Some(7_200_000));
        check("250ms", Some(250));
        check("1.5s", Some(1500));
        check("10", None);
        check("never", None);
        check("10 years", None);
    }
}
