//! `roundhouse schema`: the JSON Schema of `models.yaml`, for editors.

use std::process::ExitCode;

use crate::config::schema;

/// Prints the schema.
pub fn run() -> ExitCode {
    super::print(&format!("{:#}\n", schema::schema()), 0)
}
