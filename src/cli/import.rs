//! `roundhouse import FILE.gguf --as org/name`: a GGUF file into the cache, or a
//! folder that holds a snapshot.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::model::id::ModelId;
use crate::model::import::{self, Imported, Precision, Progress, Request};
use crate::platform::Folders;
use crate::units::ByteSize;

/// Bits per weight where nothing is said.
const USUAL_BITS: u32 = 4;

/// When progress is first shown, and how often after.
const SHOW_AFTER: Duration = Duration::from_secs(2);
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// The arguments of `roundhouse import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// The GGUF file (llama architecture), or the folder of a snapshot, taken as it is
    pub file: PathBuf,
    /// The id under which the model is served, like org/name
    #[arg(long = "as", value_name = "ORG/NAME")]
    pub name: String,
    /// Bits per weight of what a GGUF file becomes: 4 or 8 quantised, 16 or 32 dense
    /// [default: 4]
    #[arg(long, value_parser = parse_bits)]
    pub bits: Option<u32>,
    /// The cache folder [default: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Answer with one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Imports the file and says on standard output where it went. The error is a
/// sentence for a person.
pub fn run(args: &ImportArgs) -> Result<(), String> {
    let id = ModelId::parse(&args.name).map_err(|error| format!("--as: {error}"))?;
    let cache = args
        .cache
        .clone()
        .or_else(|| Folders::from_environment().map(|folders| folders.hub_cache))
        .ok_or("no cache folder is known: give --cache DIR or set HF_HUB_CACHE")?;
    let mut progress = shown(Instant::now());
    let imported = match (args.file.is_dir(), args.bits) {
        (true, Some(_)) => return Err("--bits: a folder is taken as it is".to_owned()),
        (true, None) => import::folder::import(&args.file, &id, &cache, &mut progress),
        (false, bits) => {
            let bits = bits.unwrap_or(USUAL_BITS);
            let request = Request {
                file: args.file.clone(),
                id: id.clone(),
                precision: Precision::from_bits(bits).ok_or_else(|| bits_message(bits))?,
                cache,
            };
            import::import(&request, &mut progress)
        }
    };
    let imported = imported.map_err(|error| format!("{}: {error}", args.file.display()))?;
    let text = match args.json {
        true => as_json(&id, &imported),
        false => as_text(&id, &imported),
    };
    writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
}

/// Lines on standard error once it takes long.
fn shown(start: Instant) -> impl FnMut(Progress) {
    let mut next = start + SHOW_AFTER;
    move |progress| {
        let now = Instant::now();
        if now >= next {
            next = now + SHOW_EVERY;
            let percent = progress.done.saturating_mul(100) / progress.total.max(1);
            tell(&format!("{}: {percent} %", progress.doing));
        }
    }
}

/// Progress that cannot be told is no reason to stop.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn as_text(id: &ModelId, imported: &Imported) -> String {
    let state = match imported.already {
        true => "was there already",
        false => "imported",
    };
    format!(
        "{id}: {state}, {} of weights in {}",
        ByteSize(imported.weight_bytes),
        imported.snapshot.display()
    )
}

fn as_json(id: &ModelId, imported: &Imported) -> String {
    serde_json::json!({
        "event": "imported",
        "model": id.as_str(),
        "commit": imported.commit,
        "snapshot": imported.snapshot,
        "weight_bytes": imported.weight_bytes,
        "already": imported.already,
    })
    .to_string()
}

fn parse_bits(text: &str) -> Result<u32, String> {
    let bits = text.parse().map_err(|_| "expected 4, 8, 16 or 32")?;
    match Precision::from_bits(bits) {
        Some(_) => Ok(bits),
        None => Err(bits_message(bits)),
    }
}

fn bits_message(found: u32) -> String {
    format!("expected 4, 8, 16 or 32 bits, found {found}")
}
