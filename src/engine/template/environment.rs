//! What a chat template may use: transformers' environment in minijinja's terms.

use std::sync::LazyLock;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use regex::Regex;

use super::{json, methods, strftime};

/// Instructions that one rendering may take: some seconds at most. A message takes
/// some hundred.
pub(super) const MOST_STEPS: u64 = 10_000_000;

/// An environment without templates.
pub(super) fn new(now: fn() -> SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(MOST_STEPS));
    // Prompts are no web pages, whatever a template calls itself.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the delimiters are Jinja's own");
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(methods::call);
    environment.remove_global("debug");
    environment.add_filter("tojson", to_json);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| {
        strftime::format(now(), format)
    });
    environment
}

/// Templates made for training mark the model's own part with `{% generation %}` and
/// `{% endgeneration %}` (transformers' extension). Here they are scopes without effect,
/// with the same white space.
pub(super) fn without_generation_tags(text: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%(?<before>[-+]?)\s*(?<end>end)?generation\s*(?<after>[-+]?)%\}")
            .expect("the expression is constant and every template test runs it")
    });
    TAG.replace_all(text, "{%$before ${end}with $after%}")
        .into_owned()
}

/// What a template raised with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned())
        .with_source(Raised(message.to_owned())))
}

/// The message of `raise_exception`, if that is where the error comes from.
pub(super) fn raised(error: &Error) -> Option<String> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message.clone());
        }
        cause = error.source();
    }
    None
}

/// transformers' `tojson`: Python's `json.dumps` without escapes for other alphabets,
/// and without Jinja's for web pages.
fn to_json(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(positional.get(at).cloned().or(named))
    };
    let is_true = |argument: Option<Value>| argument.is_some_and(|flag| flag.is_true());
    let style = json::Style {
        ensure_ascii: is_true(argument(0, "ensure_ascii")?),
        indent: argument(1, "indent")?.as_ref().and_then(json::indent),
        separators: match argument(2, "separators")? {
            Some(pair) if !pair.is_none() => Some(json::separators(&pair)?),
            _ => None,
        },
        sort_keys: is_true(argument(3, "sort_keys")?),
    };
    kwargs.assert_all_used()?;
    json::dumps(value, &style)
}

/// Jinja2's test asks for a length and for items by index: texts and mappings have
/// both.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined
    )
}

/// As in Jinja2, texts and mappings can be iterated, and so can what is undefined.
fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}
