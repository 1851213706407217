//! Rows copied out of caches and into them, beside MLX's own way.

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype, ops};

use super::super::{evaluate_joined, evaluate_rows};
use super::{normal, on_the_cpu};

/// Whether both are the same to the last number.
fn same(one: &Array, other: &Array) -> bool {
    let same = ops::array_eq(one, other, None).unwrap();
    same.item_exact::<bool>()
}

#[test]
fn rows_are_taken_and_joined_as_with_mlx() {
    on_the_cpu();
    // The larger ones are shared between threads; the last are words, as packed ones are.
    for (heads, room, width) in [(2, 8, 4), (1, 5, 1), (3, 1500, 64)] {
        let kinds = [
            normal(&[heads, room, width], 1),
            normal(&[heads, room, width], 2),
        ];
        for kinds in [
            kinds.each_ref().map(|kind| kind.view_dtype(Dtype::Uint32)),
            kinds.map(Ok),
        ] {
            let kinds = kinds.map(Result::unwrap);
            let rows = 1..room - 1;
            let taken = evaluate_rows(&kinds.each_ref(), rows.clone()).unwrap();
            let expected = ops::stack(&kinds, 0).unwrap();
            let expected = expected.try_index((.., .., rows, ..)).unwrap();
            assert!(same(&taken, &expected), "{heads} heads, {room} rows");

            // A piece that is not in one run, as a slice, is taken as it counts.
            let slice = ops::stack(&kinds, 0).unwrap();
            let slice = slice.try_index((.., .., 1.., ..)).unwrap();
            let joined = evaluate_joined(&[(&taken, 2), (&slice, room - 1)], 1, room + 3);
            let joined = joined.unwrap();
            let parts = [
                taken.try_index((1, .., ..2, ..)).unwrap(),
                slice.try_index((1, .., .., ..)).unwrap(),
                ops::zeros_dtype(&[heads, 2, width], taken.dtype()).unwrap(),
            ];
            let expected = ops::concatenate(&parts, 1).unwrap();
            assert!(same(&joined, &expected), "{heads} heads, {room} rows");
        }
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    on_the_cpu();
    let (kind, piece) = (normal(&[2, 8, 4], 1), normal(&[2, 2, 8, 4], 1));
    for (start, end) in [(-1, 3), (0, 9), (5, 4)] {
        assert!(evaluate_rows(&[&kind], start..end).is_err());
    }
    assert!(evaluate_rows(&[], 0..1).is_err());
    assert!(evaluate_rows(&[&kind, &normal(&[2, 7, 4], 1)], 0..1).is_err());
    assert!(evaluate_rows(&[&piece], 0..1).is_err());
    let whole = (&piece, 8);
    for (pieces, of, room) in [
        (&[whole][..], 2, 9),
        (&[whole], -1, 9),
        (&[whole], 0, 7),
        (&[(&piece, 9)], 0, 9),
        (&[(&kind, 1)], 0, 9),
        (&[whole, (&normal(&[2, 1, 8, 4], 1), 1)], 0, 9),
        (&[], 0, 9),
    ] {
        assert!(evaluate_joined(pieces, of, room).is_err(), "{of} {room}");
    }
}
