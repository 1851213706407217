//! The prompts on disk of the model that a worker has: which pieces there are, for a
//! prompt that begins with them, and writing more when the worker goes. Of a caller the
//! files' heads are read when their first prompt comes, of a piece the rest when it is
//! used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::file::{self, Bad, Head};
use super::folder::{self, entries, folders, name_of, parts_of, remove_file, remove_folder};
use super::index::{Index, Link};
use super::room::Paces;
use super::{Key, Place, Tensor};
use crate::engine::EngineError;
use crate::engine::prefix::{Owner, Ranked};
use crate::records::private;

/// The part of the free space of a disk that is left alone.
const LEFT_FREE: u64 = 2;

/// The prompts on disk of one model.
#[derive(Debug)]
pub struct Store {
    place: Place,
    /// The folder of all models.
    root: PathBuf,
    /// The folder of what this engine wrote.
    folder: PathBuf,
    /// Stands at the beginning of every digest.
    salt: [u8; folder::SALT],
    /// What the numbers depend on.
    form: Key,
    index: Index,
    /// Where the pieces are.
    paths: BTreeMap<Key, PathBuf>,
    /// Callers whose pieces are in the index.
    known: BTreeSet<Owner>,
    paces: Paces,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Pieces that were written.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Pieces that were wanted there and are not.
    pub left_out: usize,
}

impl Store {
    /// Opens the prompts of a network whose pieces are of this form, and removes those
    /// of the model that are of another.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(place: Place, network: &str) -> io::Result<Self> {
        let root = place.folder.parent().unwrap_or(&place.folder).to_owned();
        private::create_folder(&root)?;
        let salt = folder::salt(&root)?;
        let form = Key::of(&[&salt, place.form.as_bytes(), b"\n", network.as_bytes()]);
        let name = format!("{}-{}", env!("CARGO_PKG_VERSION"), form.digits());
        let folder = place.folder.join(name);
        for other in folders(&place.folder)?
            .iter()
            .filter(|other| **other != folder)
        {
            remove_folder(other)?;
        }
        Ok(Self {
            place,
            root,
            folder,
            salt,
            form,
            index: Index::default(),
            paths: BTreeMap::new(),
            known: BTreeSet::new(),
            paces: Paces::default(),
        })
    }

    /// The pieces that prompts of `owner` which begin like `tokens` begin with.
    pub fn find(&mut self, owner: Owner, tokens: &[u32]) -> Vec<Link> {
        if self.known.insert(owner)
            && let Err(error) = self.read_heads(owner)
        {
            tracing::warn!(?error, "prompts on disk cannot be read");
        }
        self.index.find(self.root_of(owner), tokens)
    }

    /// Where a piece is, once all of it is known to be as it was written.
    ///
    /// # Errors
    /// It is not; then it is no more.
    pub fn verified(&mut self, key: Key) -> Result<PathBuf, Bad> {
        let path = self.paths.get(&key).cloned().unwrap_or_default();
        let began = Instant::now();
        match file::verify(&path) {
            Ok(bytes) => {
                self.paces.read.add(bytes, began.elapsed());
                Ok(path)
            }
            Err(bad) => {
                self.remove(key);
                Err(bad)
            }
        }
    }

    /// Removes a piece and those that come after it.
    pub fn remove(&mut self, key: Key) {
        for key in self.index.remove(key) {
            if let Some(path) = self.paths.remove(&key) {
                removed(&path);
            }
        }
    }

    /// Notes that these pieces were used.
    pub fn used(&self, links: &[Link]) {
        let now = SystemTime::now();
        for path in links.iter().filter_map(|link| self.paths.get(&link.key)) {
            // One that is gone is removed when it is asked for.
            drop(file::touch(path, now));
        }
    }

    /// Notes how long the network took to read so many tokens of prompts.
    pub fn prefilled(&mut self, tokens: u64, time: std::time::Duration) {
        self.paces.prefill.add(tokens, time);
    }

    /// Forgets everything, and removes it.
    pub fn forget(&mut self) {
        self.index.clear();
        self.paths.clear();
        if let Err(error) = remove_folder(&self.folder) {
            tracing::warn!(?error, "prompts on disk cannot be removed");
        }
    }

    /// Writes pieces that are not there yet, most worth first, each after the one ahead
    /// of it, until the quota, the time or what it is good for is used up. `tensors`
    /// gives a piece's numbers.
    ///
    /// # Errors
    /// Those of the system. What was written before stays.
    pub fn write<P>(
        &mut self,
        pieces: &[Ranked<'_, P>],
        mut tensors: impl FnMut(&P) -> Result<Vec<Tensor>, EngineError>,
        until: Instant,
    ) -> io::Result<Written> {
        let now = SystemTime::now();
        let chosen = self.choose(pieces, now)?;
        let coming = chosen.iter().map(|piece| pieces[piece.place].bytes).sum();
        let model = self.place.folder.file_name().unwrap_or_default();
        let model = model.to_string_lossy();
        folder::remove_surplus(&self.root, self.place.quota, Some((&model, coming)))?;
        let written = self.write_chosen(pieces, &chosen, &mut tensors, now, until);
        // The heads of the files have been counted by nobody.
        folder::remove_surplus(&self.root, self.place.quota, None)?;
        written
    }

    fn write_chosen<P>(
        &mut self,
        pieces: &[Ranked<'_, P>],
        chosen: &[To],
        tensors: &mut impl FnMut(&P) -> Result<Vec<Tensor>, EngineError>,
        now: SystemTime,
        until: Instant,
    ) -> io::Result<Written> {
        let mut written = Written::default();
        let folders: BTreeSet<&Path> = chosen.iter().filter_map(|to| to.path.parent()).collect();
        for folder in folders {
            private::create_folder(folder)?;
        }
        for (done, to) in chosen.iter().enumerate() {
            let piece = &pieces[to.place];
            let pays = self.paces.pays(piece.tokens.len() as u64, piece.bytes);
            if !pays || Instant::now() >= until {
                written.left_out = chosen.len() - done;
                return Ok(written);
            }
            let began = Instant::now();
            let tensors = tensors(piece.piece).map_err(io::Error::other)?;
            let head = Head {
                parent: to.parent,
                tokens: piece.tokens.to_vec(),
            };
            file::write(&to.path, &head, &tensors, now)?;
            self.paces.write.add(piece.bytes, began.elapsed());
            written.pieces += 1;
            written.bytes += piece.bytes;
        }
        Ok(written)
    }

    /// What is to be written of these pieces: as many as the quotas and the disk have
    /// room for, without those that are there, which count as used.
    fn choose<P>(&self, pieces: &[Ranked<'_, P>], now: SystemTime) -> io::Result<Vec<To>> {
        let mut room = self.place.quota.each.min(self.place.quota.all);
        let mut space = free(&self.root)? / LEFT_FREE;
        let mut keys: Vec<Option<Key>> = Vec::with_capacity(pieces.len());
        let mut chosen = Vec::new();
        for (place, piece) in pieces.iter().enumerate() {
            let parent = match piece.parent {
                Some(parent) => keys[parent],
                None => Some(self.root_of(piece.owner)),
            };
            let fits = parent.filter(|_| piece.bytes <= room);
            let Some(parent) = fits else {
                keys.push(None);
                continue;
            };
            let key = self.key_of(parent, piece.tokens);
            let name = name_of(piece.from, piece.tokens.len(), &key.digits());
            let path = self.folder_of(piece.owner).join(name);
            if file::touch(&path, now).is_err() {
                if piece.bytes > space {
                    keys.push(None);
                    continue;
                }
                space -= piece.bytes;
                chosen.push(To {
                    place,
                    parent,
                    path,
                });
            }
            room -= piece.bytes;
            keys.push(Some(key));
        }
        Ok(chosen)
    }

    /// Reads the heads of a caller's files, and removes files that have none.
    fn read_heads(&mut self, owner: Owner) -> io::Result<()> {
        let folder = self.folder_of(owner);
        folder::remove_unfinished(&folder)?;
        for path in entries(&folder)? {
            let head = match file::head(&path) {
                Ok(head) => head,
                Err(error) => {
                    let name = path.file_name();
                    tracing::warn!(?name, ?error, "a prompt on disk is damaged and removed");
                    remove_file(&path)?;
                    continue;
                }
            };
            let key = self.key_of(head.parent, &head.tokens);
            if parts_of(&path).is_none_or(|(_, told)| told != key.digits()) {
                remove_file(&path)?;
                continue;
            }
            self.index.add(key, head.parent, head.tokens);
            self.paths.insert(key, path);
        }
        Ok(())
    }

    /// What stands ahead of the first pieces of a caller.
    fn root_of(&self, owner: Owner) -> Key {
        Key::of(&[&self.salt, &self.form.0, &owner.0.to_be_bytes()])
    }

    fn folder_of(&self, owner: Owner) -> PathBuf {
        self.folder.join(self.root_of(owner).digits())
    }

    fn key_of(&self, parent: Key, tokens: &[u32]) -> Key {
        let tokens: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        Key::of(&[&self.salt, &self.form.0, &parent.0, &tokens])
    }
}

/// A piece to write.
struct To {
    /// Its place among those that were given.
    place: usize,
    parent: Key,
    path: PathBuf,
}

/// Free bytes of the disk that a folder is on.
fn free(folder: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(folder)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

fn removed(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(?error, "a prompt on disk cannot be removed");
        }
        _ => {}
    }
}
