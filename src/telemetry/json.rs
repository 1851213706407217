//! A line of the log as one flat JSON object: when, how serious, the fields, where
//! in the code. It is written straight into a text of its own, since there is one for
//! each request; what may not stand in a line at all is the business of `escape`.

use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::line::{Line, push_number};

/// Lines of JSON. There are no spans here, so none are written.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        // A clock before 1970 is set wrong; the start of the epoch serves as well.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut fields = Fields(Line::begin());
        fields
            .0
            .text("timestamp", Some(&stamp(now.unwrap_or_default())))
            .text("level", Some(word(*about.level())));
        event.record(&mut fields);
        fields.0.text("target", Some(about.target()));
        let mut text = fields.0.end();
        text.push('\n');
        line.write_str(&text)
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// A time since 1970 as RFC 3339 writes it, in UTC: `2026-11-22T17:03:09.123456Z`.
fn stamp(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let mut text = String::with_capacity(27);
    let parts = [
        (year, 4, '-'),
        (month, 2, '-'),
        (day, 2, 'T'),
        (of_day / 3600, 2, ':'),
        (of_day / 60 % 60, 2, ':'),
        (of_day % 60, 2, '.'),
        (since.subsec_micros().into(), 6, 'Z'),
    ];
    for (number, digits, then) in parts {
        push_number(&mut text, number, digits);
        text.push(then);
    }
    text
}

/// Year, month and day of a number of days since 1970.
///
/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms"
/// (`civil_from_days`), for days that are not before 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Eras of 400 years, of years that begin in March.
    let since_era_zero = days + 719_468;
    let (era, of_era) = (since_era_zero / 146_097, since_era_zero % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    (year, month, day)
}

/// Writes each field that it is shown.
struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.text(field.name(), Some(&format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), Some(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.number(field.name(), Some(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.json(field.name(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0
            .json(field.name(), if value { "true" } else { "false" });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // What is no number in JSON becomes null.
        let value = serde_json::Value::from(value);
        self.0.json(field.name(), &value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::fmt;
    use tracing_subscriber::layer::SubscriberExt;

    /// A writer whose bytes can be looked at.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_a_flat_object_whatever_its_fields_hold() {
        let shared = Shared::default();
        let writer = shared.clone();
        let layer = fmt::layer()
            .event_format(super::Json)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let (text, none) = ("a \"b\" \\ \n\u{1b}é", None::<&str>);
            let cause = ["x\ty"];
            tracing::info!(
                request.id = text,
                none,
                count = 3u64,
                less = -1i64,
                ?cause,
                "said"
            );
            tracing::warn!(share = 0.5, is = true, nan = f64::NAN);
        });
        let bytes = shared.0.lock().expect("not poisoned").clone();
        let lines = String::from_utf8(bytes).expect("text");
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let rest = |mut line: Value| {
            let time = line["timestamp"].take();
            assert!(
                time.as_str().is_some_and(|time| time.ends_with('Z')),
                "{time}"
            );
            line
        };
        let target = "roundhouse::telemetry::json::tests";
        let expected = [
            json!({
                "timestamp": null, "level": "INFO", "message": "said", "count": 3, "less": -1,
                "request.id": "a \"b\" \\ \n\u{1b}é", "cause": "[\"x\\ty\"]", "target": target,
            }),
            json!({
                "timestamp": null, "level": "WARN", "share": 0.5, "is": true, "nan": null,
                "target": target,
            }),
        ];
        assert_eq!(lines.into_iter().map(rest).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_moment_is_told_as_everywhere_else() {
        let check = |seconds: u64, micros: u32, expected: &str| {
            let since = std::time::Duration::new(seconds, micros * 1000);
            assert_eq!(super::stamp(since), expected);
        };
        check(0, 0, "1970-01-01T00:00:00.000000Z");
        check(951_782_399, 999_999, "2000-02-28T23:59:59.999999Z");
        check(951_782_400, 1, "2000-02-29T00:00:00.000001Z");
        check(1_704_067_199, 0, "2023-12-31T23:59:59.000000Z");
        check(1_709_251_200, 0, "2024-03-01T00:00:00.000000Z");
        check(4_107_542_400, 0, "2100-03-01T00:00:00.000000Z");
        check(1_795_397_978, 42, "2026-11-23T01:39:38.000042Z");
    }
}
