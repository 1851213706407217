use super::*;
use crate::config::Counts;

/// Every reference of a document leads somewhere, every schema is used.
#[track_caller]
fn check(routes: &[Route], operations: &[Operation], schemas: Map<String, Value>) {
    let described = |method: &str, path: &str| {
        let here = |known: &&Operation| known.method == method && known.path == path;
        operations.iter().filter(here).count()
    };
    for route in routes {
        let methods: Vec<_> = route
            .methods()
            .iter()
            .map(|method| method.as_str())
            .collect();
        for method in &methods {
            // HEAD is what GET says, without the body.
            let times = usize::from(*method != "HEAD" || !methods.contains(&"GET"));
            assert_eq!(
                described(method, route.path),
                times,
                "{method} {}",
                route.path
            );
        }
    }
    for Operation { method, path, .. } in operations {
        let there = routes.iter().any(|route| {
            route.path == *path && route.methods().iter().any(|known| known == method)
        });
        assert!(there, "{method} {path} is described and not there");
    }
    let names: Vec<String> = schemas.keys().cloned().collect();
    let text = document("x", routes, operations, schemas).to_string();
    for name in &names {
        assert!(
            text.contains(&format!("schemas/{name}\"")),
            "{name} is not used"
        );
    }
    let references = text.split("#/components/schemas/").skip(1);
    for reference in references.filter_map(|rest| rest.split('"').next()) {
        assert!(names.iter().any(|name| name == reference), "{reference}");
    }
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let schemas = schemas::inference(&Counts::standard());
    check(&crate::api::routes(), inference::OPERATIONS, schemas);
    check(
        &crate::admin::routes(),
        management::OPERATIONS,
        schemas::management(),
    );
}

#[test]
fn a_path_is_written_as_openapi_writes_it() {
    assert_eq!(path("/v1/models/{*id}"), "/v1/models/{id}");
    assert_eq!(path("/"), "/");
}
