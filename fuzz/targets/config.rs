//! A configuration file, all the way from its bytes to what may be asked for, or to
//! its problems.

use std::collections::BTreeMap;
use std::path::Path;

use roundhouse::config::lock::Lock;
use roundhouse::config::problem::{Problems, Text, lines_of};
use roundhouse::config::standard::Surroundings;
use roundhouse::config::{Config, locate, walk};
use roundhouse::model::cache::Stranger;
use roundhouse::model::id::ModelId;
use roundhouse::registry::catalogue::{Catalogue, Found, Role};
use roundhouse::registry::{Machine, MachineMemory, NotServable, build, why};
use roundhouse::units::ByteSize;

/// Reads the bytes of a file: settings that make a snapshot, or problems that point
/// into the text and do not steer a terminal.
pub fn config(data: &[u8]) {
    let around = Surroundings {
        folder: "/etc".into(),
        home: Some("/home".into()),
        hub_cache: "/hub".into(),
        state: "/state".into(),
    };
    let Ok(text) = locate::decode(data.to_owned()) else {
        return;
    };
    match walk::config(&text, Some(Path::new("models.yaml")), &around) {
        Ok(config) => settings(config),
        Err(problems) => told(&problems, &text),
    }
    lock(&text);
}

/// Whatever is valid can be put in force.
fn settings(config: Config) {
    let names: Vec<_> = config
        .models
        .iter()
        .map(|entry| entry.name.clone())
        .collect();
    let machine = Machine {
        memory: MachineMemory {
            total: ByteSize(64_000_000_000),
            auto: ByteSize(48_000_000_000),
        },
        scripted: false,
    };
    let Ok(snapshot) = build::snapshot(config, &machine, &Bare, None) else {
        return;
    };
    for name in names {
        assert!(snapshot.served.contains_key(name.as_str()), "{name}");
    }
    assert_eq!(why::explain(&snapshot).len(), snapshot.served.len());
}

fn told(problems: &Problems, text: &str) {
    assert!(!problems.list.is_empty());
    let lines = lines_of(text).count();
    for problem in &problems.list {
        if let Some(place) = problem.place {
            assert!((1..=lines + 1).contains(&place.line), "{problem:?}");
            assert!(place.column >= 1, "{problem:?}");
        }
        assert!(!problem.message.is_empty());
        assert!(!problem.message.contains('\n'), "{problem:?}");
    }
    let shown = problems.to_string();
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!shown.contains(steers), "{shown:?}");
    drop(problems.to_json());
}

/// The text as a lock file: what is read is written so that it is read again.
fn lock(content: &str) {
    let text = |text: &str| Text {
        file: Some("models.lock".into()),
        text: text.to_owned(),
    };
    match Lock::parse(&text(content)) {
        Ok(lock) => assert_eq!(Lock::parse(&text(&lock.text())), Ok(lock)),
        Err(problems) => told(&problems, content),
    }
}

/// A disk without a model.
struct Bare;

impl Catalogue for Bare {
    fn ids(&self) -> Vec<ModelId> {
        Vec::new()
    }

    fn repository(&self, _: &ModelId, _: Option<&str>, _: &Role) -> Result<Found, NotServable> {
        Err(NotServable::NotCached)
    }

    fn files(&self, _: &Found) -> Result<BTreeMap<String, u64>, NotServable> {
        Ok(BTreeMap::new())
    }

    fn stranger_to(&self, _: &Found, _: &Found) -> Option<String> {
        None
    }

    fn strangers(&self) -> Vec<Stranger> {
        Vec::new()
    }

    fn folder(&self, _: &Path, _: &Role) -> Result<Found, NotServable> {
        Err(NotServable::NotCached)
    }
}
