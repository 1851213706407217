//! The bill of materials of the program, as CycloneDX JSON: every package of
//! `Cargo.lock` with version, sum and licence, and the libraries of MLX that the
//! set-up fetches. Format: the CycloneDX 1.6 specification; names of packages as
//! the package-url specification writes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::Result;
use crate::lock::{self, Locked};
use crate::packages::{self, Package};
use crate::place::{self, output_of};

/// The libraries that the program is linked with, beside its crates.
const LIBRARIES: &[&Package] = &[&packages::MLX_CPU, &packages::OPENBLAS];

/// Where the bill is written.
const FILE: &str = "target/roundhouse.cdx.json";

/// Writes the bill. The same sources make the same bytes: it has no date.
pub fn write() -> Result<()> {
    let repository = place::repository();
    let locked = lock::read(&repository.join("Cargo.lock"))?;
    let bill = bill(&locked, &licences(&repository)?)?;
    let file = repository.join(FILE);
    place::write_whole(&file, format!("{bill:#}\n").as_bytes())?;
    let components = bill["components"].as_array().map_or(0, Vec::len);
    println!("{FILE}: {components} components");
    Ok(())
}

/// The licence of each package, by name and version, as its author wrote it.
fn licences(repository: &Path) -> Result<BTreeMap<(String, String), String>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
        ])
        .current_dir(repository);
    let metadata: Value = serde_json::from_str(&output_of(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let licence = |package: &Value| {
        let text = |key: &str| package[key].as_str().map(str::to_string);
        Some(((text("name")?, text("version")?), text("license")?))
    };
    Ok(packages.filter_map(licence).collect())
}

fn bill(locked: &[Locked], licences: &BTreeMap<(String, String), String>) -> Result<Value> {
    let own = locked
        .iter()
        .find(|package| package.name == "roundhouse")
        .ok_or("Cargo.lock does not name this program")?;
    let crates = locked.iter().filter(|package| package.source.is_some());
    let mut components: Vec<Value> = crates
        .map(|package| {
            let key = (package.name.clone(), package.version.clone());
            component(package, licences.get(&key).map(String::as_str))
        })
        .collect();
    components.extend(LIBRARIES.iter().map(|library| fetched(library)));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "bom-ref": reference(own),
            "name": own.name,
            "version": own.version,
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
        }},
        "components": components,
        "dependencies": locked.iter().map(|package| edges(package, locked)).collect::<Vec<_>>(),
    }))
}

fn component(package: &Locked, licence: Option<&str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
        "purl": reference(package),
    });
    if let Some(checksum) = &package.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(licence) = licence {
        // Some old manifests write "/" for OR.
        let expression = licence.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    component
}

/// A package that the set-up unpacks; which of its archives depends on the machine.
fn fetched(package: &Package) -> Value {
    let purl = format!("pkg:pypi/{}@{}", package.name, package.version);
    json!({
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    })
}

fn reference(package: &Locked) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// What a package needs. The lock file leaves out the version where there is one.
fn edges(package: &Locked, locked: &[Locked]) -> Value {
    let needs = package.dependencies.iter().filter_map(|needed| {
        let mut words = needed.split(' ');
        let (name, version) = (words.next()?, words.next());
        let found = locked.iter().find(|other| {
            other.name == name && version.is_none_or(|version| other.version == version)
        });
        found.map(reference)
    });
    json!({"ref": reference(package), "dependsOn": needs.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{bill, reference};
    use crate::{lock, place};

    #[test]
    fn d05_the_bill_holds_every_package_of_the_lock_file() {
        let locked = lock::read(&place::repository().join("Cargo.lock")).expect("a lock file");
        let bill = bill(&locked, &BTreeMap::new()).expect("a bill");
        let text = bill["components"].to_string();
        let crates: Vec<_> = locked
            .iter()
            .filter(|package| package.source.is_some())
            .collect();
        assert!(crates.len() > 200, "{}", crates.len());
        for package in &crates {
            let purl = format!("\"purl\":\"{}\"", reference(package));
            assert!(text.contains(&purl), "{purl} is missing");
            assert!(package.checksum.is_some(), "{purl} has no sum");
        }
        assert!(
            text.contains("pkg:pypi/mlx-cpu@"),
            "what is linked is part of it"
        );
        let edges = bill["dependencies"].as_array().expect("edges");
        assert_eq!(edges.len(), locked.len());
        let all: usize = locked
            .iter()
            .map(|package| package.dependencies.len())
            .sum();
        let kept = edges
            .iter()
            .filter_map(|edge| edge["dependsOn"].as_array())
            .map(Vec::len);
        assert_eq!(kept.sum::<usize>(), all, "an edge leads nowhere");
    }
}
