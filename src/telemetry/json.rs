//! A line of the log as one flat JSON object: when, how serious, the fields, where
//! in the code. It is written straight into the line's buffer, since there is one for
//! each request; what may not stand in a line at all is the business of `escape`.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

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
        line.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut line)?;
        write!(line, "\",\"level\":\"{}\"", about.level())?;
        let mut fields = Fields {
            line: &mut line,
            written: Ok(()),
        };
        event.record(&mut fields);
        fields.written?;
        line.write_str(",\"target\":")?;
        text(&mut line, about.target())?;
        line.write_str("}\n")
    }
}

/// Writes each field that it is shown.
struct Fields<'l, 'w> {
    line: &'l mut Writer<'w>,
    written: fmt::Result,
}

impl Fields<'_, '_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let (line, name) = (&mut *self.line, field.name());
        // Names are words of the source.
        let written = [",\"", name, "\":"]
            .iter()
            .try_for_each(|part| line.write_str(part));
        self.written = self.written.and(written).and_then(|()| value(line));
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |line| text(line, &format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |line| text(line, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |line| write!(line, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |line| write!(line, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |line| write!(line, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // What is no number in JSON becomes null.
        let value = serde_json::Value::from(value);
        self.field(field, |line| write!(line, "{value}"));
    }
}

/// A JSON string.
fn text(line: &mut Writer<'_>, text: &str) -> fmt::Result {
    let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
    // Without a way out early, which lets many bytes be looked at in one step.
    if text
        .bytes()
        .fold(true, |plain, byte| plain & is_plain(byte))
    {
        line.write_char('"')?;
        line.write_str(text)?;
        return line.write_char('"');
    }
    // Only its tree is written by `Display` without a buffer in between.
    write!(line, "{}", serde_json::Value::from(text))
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
}
