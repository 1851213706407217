//! `roundhouse doctor`: says what is wrong with a setup and what mends it. Exit
//! code 0 without faults, 1 with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::failed;
use crate::doctor::{self, Finding, Severity, gather};
use crate::platform::Folders;

/// What `doctor` understands.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Also count models of the engine that plays a file, which exists for tests
    #[arg(long, hide = true)]
    scripted_engine: bool,
}

/// Runs the command.
pub fn run(args: &DoctorArgs) -> ExitCode {
    let Some(folders) = Folders::from_environment() else {
        return failed(1, "there is no home folder; set HOME");
    };
    let facts = gather::facts(args.config.as_deref(), args.scripted_engine, &folders);
    let findings = doctor::examine(&facts);
    let is_fault = |finding: &Finding| finding.severity == Severity::Fault;
    let faults = findings.iter().filter(|finding| is_fault(finding)).count();
    let text = match args.json {
        true => format!("{}\n", json!({"ok": faults == 0, "findings": findings})),
        false => shown(&findings, faults),
    };
    super::print(&text, u8::from(faults > 0))
}

/// The findings for people, faults first.
fn shown(findings: &[Finding], faults: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = match finding.severity {
            Severity::Fault => "fault",
            Severity::Note => "note ",
        };
        text += &format!("{severity}  {}: {}\n", finding.name, finding.message);
        if let Some(mend) = &finding.mend {
            text += &format!("       mend: {mend}\n");
        }
    }
    text + &match faults {
        0 => "no faults\n".to_owned(),
        1 => "1 fault\n".to_owned(),
        faults => format!("{faults} faults\n"),
    }
}
