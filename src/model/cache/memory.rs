//! What is remembered of the repositories that were looked at: the judgement, and
//! what the system said of each place it came from. While that says the same, the
//! repository is not looked at again. Reads no content.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::CachedModel;

/// Two changes within so long may leave one time behind: file systems count in
/// steps, the coarsest in use in two seconds.
const COARSE: Duration = Duration::from_secs(2);

/// Judgements by the folder of their repository.
pub(super) type Memory = HashMap<PathBuf, Judged>;

/// A repository as it was found, and what that rests on.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) model: Arc<CachedModel>,
    places: Arc<[PathBuf]>,
    /// Nothing if a place had changed so shortly before that its time would not
    /// tell another change.
    stamp: Option<u64>,
}

impl Judged {
    /// What was judged since `started`, from these places below the repository.
    pub(super) fn new(model: CachedModel, places: Vec<PathBuf>, started: SystemTime) -> Self {
        let (stamp, newest) = stamp(&model.repository, &places);
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit = since.saturating_sub(COARSE).as_secs();
        Self {
            model: Arc::new(model),
            places: places.into(),
            stamp: (newest < limit as i64).then_some(stamp),
        }
    }

    /// Whether nothing has changed since.
    pub(super) fn still_holds(&self) -> bool {
        let now = || stamp(&self.model.repository, &self.places).0;
        self.stamp.is_some_and(|then| then == now())
    }
}

/// One number over what the system says of the places, and when the newest of them
/// changed, in seconds. No link is followed. A place's change time moves with its
/// content, its name and its permissions, and nobody can set it.
fn stamp(repository: &Path, places: &[PathBuf]) -> (u64, i64) {
    let mut hasher = DefaultHasher::new();
    let mut newest = 0;
    for place in places {
        let facts = fs::symlink_metadata(repository.join(place)).ok();
        facts.is_some().hash(&mut hasher);
        if let Some(facts) = facts {
            (facts.dev(), facts.ino(), facts.size(), facts.mode()).hash(&mut hasher);
            (facts.ctime(), facts.ctime_nsec()).hash(&mut hasher);
            newest = newest.max(facts.ctime());
        }
    }
    (hasher.finish(), newest)
}
