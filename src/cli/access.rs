//! `roundhouse access`: every route of both ports and of the control socket, with
//! what it asks of its caller. It is read from the tables the routers are built from.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::table;
use crate::access::Access;
use crate::api::table::Route;
use crate::{admin, api};

/// What `access` understands.
#[derive(Debug, Args)]
pub struct AccessArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Where routes are served.
#[derive(Clone, Copy, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Inference,
    Management,
    Control,
}

impl Place {
    const ALL: [Place; 3] = [Place::Inference, Place::Management, Place::Control];

    fn routes(self) -> Vec<Route> {
        match self {
            Place::Inference => api::routes(),
            Place::Management | Place::Control => admin::routes(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Place::Inference => "inference",
            Place::Management => "management",
            Place::Control => "control socket",
        }
    }

    /// What a route asks of who comes in here.
    fn asks(self, access: Access) -> &'static str {
        match (self, access) {
            (_, Access::Open) => "nothing",
            (_, Access::Inference) => "an inference key, if there is one",
            (Place::Control, Access::Management) => "the owner of the socket",
            (_, Access::Management) => "a management key",
        }
    }
}

/// Runs the command.
pub fn run(args: &AccessArgs) -> ExitCode {
    let rows = Place::ALL
        .into_iter()
        .flat_map(|place| place.routes().into_iter().map(move |route| (place, route)));
    let text = match args.json {
        true => {
            let rows: Vec<_> = rows
                .map(|(place, route)| {
                    json!({
                        "place": place,
                        "path": route.path,
                        "methods": methods(&route),
                        "access": route.access,
                        "asks": place.asks(route.access),
                    })
                })
                .collect();
            format!("{}\n", json!(rows))
        }
        false => {
            let head = ["WHERE", "METHODS", "PATH", "ASKS FOR"]
                .map(str::to_owned)
                .to_vec();
            let rows = rows.map(|(place, route)| {
                let methods = methods(&route).join(" ");
                let asks = place.asks(route.access).to_owned();
                vec![
                    place.as_str().to_owned(),
                    methods,
                    route.path.to_owned(),
                    asks,
                ]
            });
            table::lines(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
        }
    };
    super::print(&text, 0)
}

fn methods(route: &Route) -> Vec<&str> {
    route
        .methods()
        .iter()
        .map(|method| method.as_str())
        .collect()
}
