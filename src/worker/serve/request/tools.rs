//! What a request says about tools: which the model is shown, and whether it has to call
//! one.

use serde_json::Value;

use crate::api::error::ApiError;
use crate::api::fields::invalid;
use crate::engine::parts::{Forced, Tools};
use crate::worker::serve::fields::Fields;

/// What a request says about tools.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The tools that the model is shown; nothing if it may call none.
    pub(super) shown: Option<Vec<Value>>,
    /// The calls that the answer has to be.
    pub(super) forced: Option<Forced>,
    /// Whether the answer ends with its first call.
    pub(super) one_call: bool,
}

/// Takes the fields about tools. The table has let nothing through that is not of the
/// right form.
pub(super) fn read(fields: &mut Fields) -> Result<Wanted, ApiError> {
    let choice = fields.take("tool_choice")?.unwrap_or(Value::Null);
    let one_call = fields.flag("parallel_tool_calls")? == Some(false);
    let tools = fields.array("tools")?.unwrap_or_default();
    if let Some(index) = tools.iter().position(|tool| !tool.is_object()) {
        let place = format!("tools[{index}]");
        return Err(invalid(&place, format!("{place}: expected an object")));
    }
    if choice == "none" {
        return Ok(Wanted::default());
    }
    let functions = || tools.iter().filter(|tool| tool["function"].is_object());
    let forced: Option<Vec<Value>> = match &choice {
        Value::Object(_) => {
            let name = &choice["function"]["name"];
            let named = functions().find(|tool| tool["function"]["name"] == *name);
            let named = named.ok_or_else(|| {
                let message = "tool_choice: expected the name of one of the tools";
                invalid("tool_choice", message)
            })?;
            Some(vec![named.clone()])
        }
        choice if *choice == "required" => Some(functions().cloned().collect()),
        _ => None,
    };
    let forced = match forced {
        None => None,
        Some(forced) if forced.is_empty() => {
            let message = "tool_choice: expected tools that can be called, found none";
            return Err(invalid("tool_choice", message));
        }
        Some(forced) => {
            check(&forced)?;
            Some(Forced {
                // The API documents one call where the tool is named.
                several: !one_call && !choice.is_object(),
                tools: Tools(forced),
            })
        }
    };
    Ok(Wanted {
        shown: (!tools.is_empty()).then_some(tools),
        forced,
        one_call,
    })
}

/// What becomes part of a grammar is held to the bounds of schemas.
fn check(tools: &[Value]) -> Result<(), ApiError> {
    let all = Value::Array(tools.to_vec());
    crate::api::fields::format::bounded("tools", &all)?;
    let is_named = |tool: &Value| {
        let name = tool["function"]["name"].as_str();
        name.is_some_and(|name| !name.is_empty())
    };
    if !tools.iter().all(is_named) {
        let message = "tools: expected functions with a name";
        return Err(invalid("tools", message));
    }
    Ok(())
}
