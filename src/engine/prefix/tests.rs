use proptest::prelude::*;

use super::*;

const ANNE: Owner = Owner(1);
const BERT: Owner = Owner(2);

/// Pieces hold their own tokens, so that a wrong one shows.
type Tree = Prefixes<Vec<u32>>;

/// Keeps `tokens` within `most` bytes, four for a token.
fn keep(tree: &mut Tree, owner: Owner, tokens: &[u32], most: u64) -> Missing {
    let missing = tree.make_room(owner, tokens, 4, most);
    let mut begin = missing.from;
    let pieces = missing.lengths.iter().map(|length| {
        let run = tokens[begin..begin + length].to_vec();
        begin += length;
        (run, *length, *length as u64 * 4)
    });
    let pieces = pieces.collect();
    tree.add(owner, tokens, missing.from, pieces);
    missing
}

/// What is found, as tokens.
fn found(tree: &mut Tree, owner: Owner, tokens: &[u32]) -> Vec<u32> {
    let found = tree.find(owner, tokens);
    let whole: Vec<u32> = found
        .pieces
        .iter()
        .flat_map(|(piece, count)| piece[..*count].to_vec())
        .collect();
    assert_eq!(found.tokens, whole.len());
    whole
}

#[test]
fn what_was_kept_is_found_as_far_as_it_is_the_same() {
    let mut tree = Tree::default();
    let tokens: Vec<u32> = (0..200).collect();
    let missing = keep(&mut tree, ANNE, &tokens, 10_000);
    assert_eq!(missing.lengths, [64, 64, 64, 8]);
    assert_eq!((tree.bytes(), tree.tokens()), (800, 200));
    let mut other = tokens.clone();
    other[150] = 7;
    for (asked, length) in [(&tokens, 200), (&other, 150), (&tokens[..70].to_vec(), 70)] {
        assert_eq!(found(&mut tree, ANNE, asked), asked[..length]);
    }
    assert_eq!(found(&mut tree, ANNE, &[9, 9]), [0u32; 0]);
    // Only what differs is added, from the piece on in which it does.
    assert_eq!(keep(&mut tree, ANNE, &other, 10_000).from, 128);
    assert_eq!(found(&mut tree, ANNE, &other), other);
    assert_eq!(found(&mut tree, ANNE, &tokens), tokens);
    // Nothing is added for what is there.
    let nothing = Missing {
        from: 128,
        lengths: Vec::new(),
    };
    assert_eq!(keep(&mut tree, ANNE, &other[..160], 10_000), nothing);
}

#[test]
fn callers_do_not_see_each_other() {
    let mut tree = Tree::default();
    let tokens: Vec<u32> = (0..100).collect();
    keep(&mut tree, ANNE, &tokens, 10_000);
    assert_eq!(found(&mut tree, BERT, &tokens), [0u32; 0]);
    keep(&mut tree, BERT, &tokens[..50], 10_000);
    assert_eq!(tree.tokens(), 150);
    assert_eq!(found(&mut tree, BERT, &tokens), tokens[..50]);
    tree.clear();
    assert_eq!((tree.bytes(), tree.tokens()), (0, 0));
    assert!(tree.first.is_empty() && tree.leaves.is_empty());
}

#[test]
fn what_is_used_outlives_what_is_not_and_what_is_not_used_any_more_goes_in_the_end() {
    let mut tree = Tree::default();
    let text = |number: u32| (number * 1000..number * 1000 + 60).collect::<Vec<u32>>();
    // Room for three.
    let most = 3 * 60 * 4;
    keep(&mut tree, ANNE, &text(0), most);
    for _ in 0..3 {
        assert_eq!(found(&mut tree, ANNE, &text(0)).len(), 60);
    }
    for number in 1..4 {
        keep(&mut tree, ANNE, &text(number), most);
    }
    assert_eq!(
        tree.find(ANNE, &text(1)).tokens,
        0,
        "the oldest of the rest"
    );
    assert_eq!(tree.find(ANNE, &text(0)).tokens, 60, "it was used");
    for number in 4..40 {
        keep(&mut tree, ANNE, &text(number), most);
    }
    assert_eq!(tree.find(ANNE, &text(0)).tokens, 0, "it has grown old");
}

#[test]
fn what_has_no_room_is_kept_as_far_as_it_has() {
    let mut tree = Tree::default();
    let tokens: Vec<u32> = (0..200).collect();
    keep(&mut tree, ANNE, &tokens, 100 * 4);
    assert_eq!(found(&mut tree, ANNE, &tokens), tokens[..100]);
    keep(&mut tree, ANNE, &tokens, 120 * 4);
    // The piece that was cut short is gone on with.
    assert_eq!(found(&mut tree, ANNE, &tokens), tokens[..120]);
    tree.shrink(70 * 4);
    assert_eq!(found(&mut tree, ANNE, &tokens), tokens[..64]);
    assert_eq!(keep(&mut tree, ANNE, &tokens, 0).lengths, [0usize; 0]);
}

/// Pieces of these lengths, as they were kept elsewhere.
fn pieces(tokens: &[u32], lengths: &[usize]) -> Vec<(Vec<u32>, usize, u64)> {
    let mut begin = 0;
    let piece = |length: &usize| {
        let run = tokens[begin..begin + length].to_vec();
        begin += length;
        (run, *length, *length as u64 * 4)
    };
    lengths.iter().map(piece).collect()
}

#[test]
fn what_comes_from_elsewhere_is_taken_in_as_it_is_cut_there() {
    let tokens: Vec<u32> = (0..200).collect();
    let check = |kept: usize, lengths: &[usize], most: u64, expected: usize| {
        let mut tree = Tree::default();
        keep(&mut tree, ANNE, &tokens[..kept], 10_000);
        let length: usize = lengths.iter().sum();
        tree.adopt(ANNE, &tokens[..length], pieces(&tokens, lengths), most);
        assert_eq!(found(&mut tree, ANNE, &tokens), tokens[..expected]);
        assert!(tree.bytes() <= most.max(kept as u64 * 4));
    };
    check(0, &[64, 64, 20], 10_000, 148);
    check(64, &[64, 64, 20], 10_000, 148);
    check(128, &[64, 64, 20], 10_000, 148);
    // As far as there is room, and nothing if they are cut otherwise.
    check(0, &[64, 64, 20], 130 * 4, 128);
    check(0, &[64], 10, 0);
    check(64, &[50, 64], 10_000, 64);
    check(100, &[64, 20], 10_000, 100);
    // What has begun alike and goes on otherwise stays beside it.
    let mut tree = Tree::default();
    let mut other = tokens.clone();
    other[100] = 7;
    keep(&mut tree, ANNE, &other[..128], 10_000);
    tree.adopt(ANNE, &tokens[..128], pieces(&tokens, &[64, 64]), 10_000);
    assert_eq!(found(&mut tree, ANNE, &tokens), tokens[..128]);
    assert_eq!(found(&mut tree, ANNE, &other), other[..128]);
}

#[test]
fn what_is_worth_most_is_ranked_first_and_after_what_is_ahead_of_it() {
    let mut tree = Tree::default();
    let text = |number: u32, length: u32| (number..number + length).collect::<Vec<u32>>();
    keep(&mut tree, ANNE, &text(0, 150), 10_000);
    keep(&mut tree, BERT, &text(1000, 70), 10_000);
    for _ in 0..3 {
        tree.find(BERT, &text(1000, 70));
    }
    let ranked = tree.ranked();
    let told: Vec<_> = ranked
        .iter()
        .map(|piece| (piece.owner, piece.parent, piece.from, piece.tokens.len()))
        .collect();
    let mut expected = vec![(BERT, None, 0, 64), (BERT, Some(0), 64, 6)];
    expected.extend([
        (ANNE, None, 0, 64),
        (ANNE, Some(2), 64, 64),
        (ANNE, Some(3), 128, 22),
    ]);
    assert_eq!(told, expected);
}

/// What can happen.
#[derive(Clone, Debug)]
enum Happening {
    Keep(Owner, Vec<u32>, u64),
    Find(Owner, Vec<u32>),
    Shrink(u64),
}

/// Runs of few different tokens begin alike, and are longer than a piece.
fn tokens() -> impl Strategy<Value = Vec<u32>> {
    let run = (0u32..3, 1usize..50).prop_map(|(token, length)| vec![token; length]);
    prop::collection::vec(run, 0..6).prop_map(|runs| runs.concat())
}

fn happening() -> impl Strategy<Value = Happening> {
    let owner = || prop_oneof![Just(ANNE), Just(BERT)];
    prop_oneof![
        4 => (owner(), tokens(), 0u64..4000).prop_map(|(o, t, most)| Happening::Keep(o, t, most)),
        4 => (owner(), tokens()).prop_map(|(owner, tokens)| Happening::Find(owner, tokens)),
        1 => (0u64..4000).prop_map(Happening::Shrink),
    ]
}

/// Every way from a root to a leaf, with its owner: the stupid reference looks at all.
fn kept(tree: &Tree) -> Vec<(Owner, Vec<u32>)> {
    let whole = |number: &Number| {
        let (mut number, mut runs) = (Some(*number), Vec::new());
        let owner = tree.nodes[&number.expect("a leaf")].owner;
        while let Some(node) = number.and_then(|number| tree.nodes.get(&number)) {
            runs.insert(0, node.tokens.clone());
            number = node.parent;
        }
        (owner, runs.concat())
    };
    tree.leaves
        .iter()
        .map(|(_, number)| whole(number))
        .collect()
}

fn longest(kept: &[(Owner, Vec<u32>)], owner: Owner, tokens: &[u32]) -> usize {
    let own = kept.iter().filter(|(of, _)| *of == owner);
    let lengths = own.map(|(_, there)| common(there, tokens));
    lengths.max().unwrap_or(0)
}

fn check(tree: &Tree) {
    let nodes = tree.nodes.values();
    assert_eq!(
        tree.bytes,
        nodes.clone().map(|node| node.bytes).sum::<u64>()
    );
    let tokens = nodes.clone().map(|node| node.tokens.len() as u64);
    assert_eq!(tree.tokens, tokens.sum::<u64>());
    for node in nodes.clone() {
        assert!((1..=PIECE).contains(&node.tokens.len()));
        assert_eq!(node.tokens, node.piece);
    }
    let leaves = tree
        .nodes
        .iter()
        .filter(|(_, node)| node.children.is_empty());
    let leaves: BTreeSet<_> = leaves.map(|(number, node)| (node.worth, *number)).collect();
    assert_eq!(tree.leaves, leaves);
    let families = nodes.map(|node| &node.children).chain(tree.first.values());
    for family in families {
        for one in family {
            for other in family.iter().filter(|other| *other != one) {
                let (one, other) = (&tree.nodes[one].tokens, &tree.nodes[other].tokens);
                assert!(!other.starts_with(one), "{one:?} begins {other:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn the_longest_prefix_is_found_and_the_bound_is_kept(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut tree = Tree::default();
        for happening in happenings {
            let before = kept(&tree);
            match happening {
                Happening::Find(owner, tokens) => {
                    let expected = longest(&before, owner, &tokens);
                    prop_assert_eq!(found(&mut tree, owner, &tokens), &tokens[..expected]);
                    prop_assert_eq!(kept(&tree).len(), before.len());
                }
                Happening::Keep(owner, tokens, most) => {
                    let bytes = tree.bytes();
                    keep(&mut tree, owner, &tokens, most);
                    prop_assert!(tree.bytes() <= most.max(bytes));
                    let has = longest(&kept(&tree), owner, &tokens);
                    if tokens.len() as u64 * 4 <= most {
                        prop_assert_eq!(has, tokens.len());
                    }
                }
                Happening::Shrink(most) => {
                    tree.shrink(most);
                    prop_assert!(tree.bytes() <= most);
                }
            }
            check(&tree);
        }
    }
}
