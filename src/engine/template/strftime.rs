//! The date for templates that tell it to the model: Python's `strftime`, in UTC (the
//! standard library knows no time zones, and a server's zone is seldom its caller's).

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A moment in the parts that a format names.
struct Moment {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    weekday: usize,
    seconds: i64,
    micros: u32,
}

impl Moment {
    fn new(time: SystemTime) -> Self {
        // A clock before 1970 is set wrong; the start of the epoch serves as well.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        Self {
            year,
            month: usize::try_from(month - 1).unwrap_or_default(),
            day,
            day_of_year: days - days_before(year) + 1,
            // The first of January 1970 was a Thursday.
            weekday: usize::try_from((days + 4) % 7).unwrap_or_default(),
            seconds: seconds % 86_400,
            micros: since.subsec_micros(),
        }
    }
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Days from 1970 to the start of the year.
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400 - 719_162
}

/// The moment in the words of `format`; what is no directive stays as it is.
pub(super) fn format(time: SystemTime, format: &str) -> String {
    let moment = Moment::new(time);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        // `%-d` leaves the leading zero out.
        let mut bare = false;
        let mut directive = characters.next();
        if directive == Some('-') {
            bare = true;
            directive = characters.next();
        }
        let Some(directive) = directive else {
            out.push('%');
            break;
        };
        match told(&moment, directive) {
            Some(text) if bare && text.len() > 1 => {
                let cut = text.trim_start_matches('0');
                out.push_str(if cut.is_empty() { "0" } else { cut });
            }
            Some(text) => out.push_str(&text),
            None => {
                out.push('%');
                if bare {
                    out.push('-');
                }
                out.push(directive);
            }
        }
    }
    out
}

fn told(moment: &Moment, directive: char) -> Option<String> {
    let (hour, minute, second) = (
        moment.seconds / 3_600,
        moment.seconds / 60 % 60,
        moment.seconds % 60,
    );
    let (month, weekday) = (MONTHS[moment.month], WEEKDAYS[moment.weekday]);
    let (year, day) = (moment.year, moment.day);
    Some(match directive {
        'Y' => format!("{year}"),
        'y' => format!("{:02}", year % 100),
        'm' => format!("{:02}", moment.month + 1),
        'B' => month.to_owned(),
        'b' | 'h' => month[..3].to_owned(),
        'd' => format!("{day:02}"),
        'e' => format!("{day:2}"),
        'j' => format!("{:03}", moment.day_of_year),
        'A' => weekday.to_owned(),
        'a' => weekday[..3].to_owned(),
        'w' => moment.weekday.to_string(),
        'H' => format!("{hour:02}"),
        'I' => format!("{:02}", (hour + 11) % 12 + 1),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'M' => format!("{minute:02}"),
        'S' => format!("{second:02}"),
        'f' => format!("{:06}", moment.micros),
        'F' => format!("{year}-{:02}-{day:02}", moment.month + 1),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'D' => format!("{:02}/{day:02}/{:02}", moment.month + 1, year % 100),
        'R' => format!("{hour:02}:{minute:02}"),
        's' => (moment.seconds + 86_400 * (days_before(year) + moment.day_of_year - 1)).to_string(),
        // What Python answers for a time without a zone.
        'Z' | 'z' => String::new(),
        '%' => "%".to_owned(),
        _ => return None,
    })
}
