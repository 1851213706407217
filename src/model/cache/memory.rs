//! What is remembered of the repositories that were looked at: the judgement, and
//! what the system said of each place it came from. While that says the same, the
//! repository is not looked at again. Reads no content.

use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, statat};

use super::CachedModel;
use crate::model::id::ModelId;

/// Two changes within so long may leave one time behind: file systems count in
/// steps, the coarsest in use in two seconds.
const COARSE: Duration = Duration::from_secs(2);

/// Judgements by the cache folder and the id.
pub(super) type Memory = HashMap<PathBuf, HashMap<ModelId, Judged>>;

/// A repository as it was found, and what that rests on.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) model: Arc<CachedModel>,
    /// From the cache folder on, as the system takes them: there are many, and they are
    /// asked about again and again.
    places: Arc<[CString]>,
    /// Nothing if a place had changed so shortly before that its time would not
    /// tell another change.
    stamp: Option<u64>,
}

impl Judged {
    /// What was judged since `started`, from these places below the repository in an
    /// opened cache folder.
    pub(super) fn new(
        model: CachedModel,
        mut places: Vec<PathBuf>,
        root: impl AsFd,
        started: SystemTime,
    ) -> Self {
        places.sort_unstable();
        places.dedup();
        let repository = PathBuf::from(model.id.folder());
        // A place is a path that was used before: it has no zero byte.
        let places = places.into_iter().filter_map(|place| {
            let place = repository.join(place).into_os_string();
            CString::new(place.into_vec()).ok()
        });
        let places: Arc<[CString]> = places.collect();
        let (stamp, newest) = stamp(root, &places);
        let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let limit = since.saturating_sub(COARSE).as_secs();
        Self {
            model: Arc::new(model),
            places,
            stamp: (newest < limit as i64).then_some(stamp),
        }
    }

    /// Whether nothing has changed since.
    pub(super) fn still_holds(&self, root: impl AsFd) -> bool {
        self.stamp
            .is_some_and(|then| then == stamp(root, &self.places).0)
    }
}

/// One number over what the system says of the places, and when the newest of them
/// changed, in seconds. No link is followed. A place's change time moves with its
/// content, its name and its permissions, and nobody can set it.
fn stamp(root: impl AsFd, places: &[CString]) -> (u64, i64) {
    let mut hasher = DefaultHasher::new();
    let mut newest = 0;
    for place in places {
        let facts = statat(root.as_fd(), place, AtFlags::SYMLINK_NOFOLLOW).ok();
        facts.is_some().hash(&mut hasher);
        if let Some(facts) = facts {
            (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mode).hash(&mut hasher);
            (facts.st_ctime, facts.st_ctime_nsec).hash(&mut hasher);
            newest = newest.max(facts.st_ctime);
        }
    }
    (hasher.finish(), newest)
}
