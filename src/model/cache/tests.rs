use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::super::manifest::fixture::{COMMIT, RULES, Tree};
use super::*;

fn id(text: &str) -> ModelId {
    ModelId::parse(text).expect("an id")
}

fn scan(tree: &Tree) -> CacheIndex {
    CacheIndex::scan(&[tree.root().to_owned()], RULES)
}

fn good(tree: &Tree) -> CachedModel {
    scan(tree).get(&id("good/model")).expect("cached").clone()
}

#[test]
fn a_complete_model_is_offered_with_its_size_and_commit() {
    let tree = Tree::complete();
    let model = good(&tree);
    assert_eq!(model.commit.as_deref(), Some(COMMIT));
    assert!(model.state.is_ok(), "{:?}", model.state);
    // A second snapshot of the same blobs takes no more room.
    let second = tree.repository().join("snapshots/ffff");
    fs::create_dir(&second).expect("a folder");
    symlink(
        "../../blobs/blob-of-config.json",
        second.join("config.json"),
    )
    .expect("linked");
    assert_eq!(good(&tree).size, model.size);
}

#[test]
fn a_single_snapshot_needs_no_ref_and_several_do() {
    let tree = Tree::complete();
    fs::remove_file(tree.repository().join("refs/main")).expect("removed");
    assert!(good(&tree).state.is_ok());
    fs::create_dir(tree.repository().join("snapshots/ffff")).expect("a folder");
    assert_eq!(good(&tree).state, Err(Reason::Ambiguous(2)));
}

#[test]
fn a_ref_is_followed_and_never_out_of_the_folder() {
    let tree = Tree::complete();
    fs::create_dir(tree.repository().join("snapshots/ffff")).expect("a folder");
    tree.refer("main", &format!("{COMMIT}\n"));
    assert!(good(&tree).state.is_ok(), "a line end is no part of it");
    for hostile in ["../../../x", "/etc", "", "..", "a/b", "a b"] {
        tree.refer("main", hostile);
        assert_eq!(
            good(&tree).state,
            Err(Reason::Ambiguous(2)),
            "{hostile:?} is no commit"
        );
    }
    tree.refer("main", "eeee");
    assert_eq!(good(&tree).state, Err(Reason::NoSnapshot));
    let main = tree.repository().join("refs/main");
    fs::remove_file(&main).expect("removed");
    symlink("/dev/zero", &main).expect("linked");
    assert_eq!(
        good(&tree).state,
        Err(Reason::Ambiguous(2)),
        "a link is no ref"
    );
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let tree = Tree::complete();
    tree.refer("v1.0", COMMIT);
    let index = scan(&tree);
    let check = |revision: &str, found: bool| {
        let got = index
            .snapshot(&id("good/model"), Some(revision), &RULES)
            .expect("cached");
        assert_eq!(got.is_ok(), found, "{revision}: {got:?}");
        if let Err(reason) = got {
            assert_eq!(reason.code(), "not_cached", "{revision}");
        }
    };
    check("main", true);
    check("v1.0", true);
    check(COMMIT, true);
    check("v2.0", false);
    check("../snapshots", false);
    check("..", false);
    check("", false);
    check("/etc/passwd", false);
    check(&"a".repeat(1000), false);
    assert_eq!(index.snapshot(&id("other/model"), None, &RULES), None);
}

#[test]
fn m06_ids_are_matched_byte_for_byte_as_they_are_on_disk() {
    let tree = Tree::complete();
    let index = scan(&tree);
    for other in ["Good/model", "good/Model", "good/model1", "good/mode"] {
        assert!(index.get(&id(other)).is_none(), "{other}");
    }
    assert_eq!(index.models().count(), 1, "one entry at most");
}

#[test]
fn what_is_no_model_is_told_and_harms_nothing() {
    let tree = Tree::complete();
    let folder = |name: &str| fs::create_dir(tree.root().join(name)).expect("a folder");
    for name in [
        "models--gpt2",
        "models--a--b--c",
        "models--a--.git",
        "models--a--b..c",
    ] {
        folder(name);
    }
    // Not for us to judge.
    for name in ["datasets--a--b", ".locks", "tmp"] {
        folder(name);
    }
    fs::write(tree.root().join("models--a--file"), "x").expect("written");
    let index = scan(&tree);
    assert_eq!(index.strangers.len(), 4, "{:?}", index.strangers);
    assert!(index.get(&id("good/model")).expect("cached").state.is_ok());
    let file = index.get(&id("a/file")).expect("told");
    assert_eq!(file.state, Err(Reason::NoSnapshot));
}

#[test]
fn m06_a_repository_that_is_a_link_is_not_a_second_id_of_another() {
    let tree = Tree::complete();
    symlink(
        "models--good--model",
        tree.root().join("models--other--name"),
    )
    .expect("linked");
    let index = scan(&tree);
    let linked = index.get(&id("other/name")).expect("told");
    assert_eq!(
        linked.state.as_ref().expect_err("refused").code(),
        "unsafe_link"
    );
    assert_eq!(linked.size, 0, "nothing is looked at behind it");
}

#[test]
fn folders_of_a_repository_that_are_links_are_not_looked_into() {
    let elsewhere = Tree::complete();
    for folder in ["blobs", "refs", "snapshots"] {
        let tree = Tree::complete();
        let own = tree.repository().join(folder);
        fs::remove_dir_all(&own).expect("removed");
        symlink(elsewhere.repository().join(folder), &own).expect("linked");
        let model = good(&tree);
        let reason = model.state.expect_err(folder).to_string();
        assert_eq!(
            reason,
            format!("unsafe_link: {folder} is a link that stands in place of a folder")
        );
        let counted = if folder == "blobs" {
            0
        } else {
            good(&elsewhere).size
        };
        assert_eq!(model.size, counted, "nothing behind {folder} counts");
    }
    let tree = Tree::complete();
    let refs = tree.repository().join("refs");
    symlink(elsewhere.repository().join("refs"), refs.join("pr")).expect("linked");
    let found = scan(&tree).snapshot(&id("good/model"), Some("pr/main"), &RULES);
    assert_eq!(
        found.expect("cached").expect_err("a link").code(),
        "not_cached"
    );
}

#[test]
fn a_file_with_several_names_takes_its_room_once() {
    let tree = Tree::complete();
    let before = good(&tree).size;
    let second = tree.repository().join("snapshots/ffff/onnx");
    fs::create_dir_all(&second).expect("a folder");
    fs::write(second.join("own"), [7; 100]).expect("written");
    assert_eq!(good(&tree).size, before + 100, "files in folders count");
    fs::hard_link(second.join("own"), second.join("same")).expect("linked");
    let blob = tree.repository().join("blobs/blob-of-config.json");
    fs::hard_link(blob, second.join("config.json")).expect("linked");
    assert_eq!(good(&tree).size, before + 100);
}

#[test]
fn a_second_scan_looks_at_what_has_changed_and_at_nothing_else() {
    let tree = Tree::complete();
    let other = tree.root().join("models--other--model");
    fs::create_dir_all(other.join("snapshots")).expect("a folder");
    let roots = [tree.root().to_owned()];
    // So long after the changes that no step of a clock hides one.
    let later = SystemTime::now() + Duration::from_secs(3600);
    let mut index = scan(&tree).scan_at(&roots, later);
    let is_remembered = |index: &CacheIndex, next: &CacheIndex, name: &str| {
        let of = |index: &CacheIndex| Arc::as_ptr(&index.models[&id(name)]);
        of(index) == of(next)
    };
    let mut check = |what: &str, change: &dyn Fn()| {
        change();
        let next = index.scan_at(&roots, later);
        assert!(next.models().eq(scan(&tree).models()), "{what}");
        assert_eq!(
            is_remembered(&index, &next, "good/model"),
            what == "nothing",
            "{what}"
        );
        assert!(is_remembered(&index, &next, "other/model"), "{what}");
        index = next;
    };
    let blob = |name: &str| tree.repository().join(format!("blobs/blob-of-{name}"));
    check("nothing", &|| ());
    check("a file goes", &|| tree.remove("tokenizer.json"));
    check("a file comes", &|| tree.put("tokenizer.json", b"{ }"));
    check("a shard is cut in its place", &|| {
        let file = fs::File::options()
            .write(true)
            .open(blob("model.safetensors"));
        file.and_then(|file| file.set_len(100)).expect("cut");
    });
    check("a link leads out", &|| {
        tree.link("config.json", "/etc/hostname")
    });
    check("and back", &|| {
        tree.link("config.json", "../../blobs/blob-of-config.json")
    });
    check("a branch moves", &|| tree.refer("main", "ffff"));
    check("and back", &|| tree.refer("main", COMMIT));
    check("a download begins", &|| {
        fs::write(tree.repository().join("blobs/x.incomplete"), "x").expect("written");
    });
    let second = tree.repository().join("snapshots/ffff/onnx");
    check("another snapshot", &|| {
        fs::create_dir_all(&second).expect("a folder")
    });
    check("a file in it", &|| {
        fs::write(second.join("x"), "x").expect("written")
    });
    check("the snapshot goes", &|| {
        fs::remove_dir_all(tree.snapshot()).expect("removed");
    });
    check("nothing", &|| ());
}

#[test]
fn what_has_changed_just_now_is_looked_at_again() {
    let tree = Tree::complete();
    let roots = [tree.root().to_owned()];
    let index = scan(&tree);
    let again = index.scan_again(&roots);
    let of = |index: &CacheIndex| Arc::as_ptr(&index.models[&id("good/model")]);
    assert_ne!(
        of(&index),
        of(&again),
        "a time of this moment tells nothing"
    );
}

#[test]
fn the_first_folder_that_can_serve_an_id_wins() {
    let (broken, whole) = (Tree::complete(), Tree::complete());
    broken.remove("config.json");
    let scan = |roots: [&Tree; 2]| {
        let roots = roots.map(|tree| tree.root().to_owned());
        CacheIndex::scan(&roots, RULES)
            .get(&id("good/model"))
            .map(|model| model.repository.clone())
    };
    let expected = Some(whole.repository().to_owned());
    assert_eq!(scan([&broken, &whole]), expected);
    assert_eq!(scan([&whole, &broken]), expected);
}

#[test]
fn a_cache_folder_that_is_a_link_or_missing_is_as_usual() {
    let tree = Tree::complete();
    let other = tempfile::tempdir().expect("a folder");
    let link = other.path().join("hub");
    symlink(tree.root(), &link).expect("linked");
    let index = CacheIndex::scan(&[link, "/not/there".into()], RULES);
    assert!(index.get(&id("good/model")).expect("cached").state.is_ok());
    assert!(index.strangers.is_empty());
}
