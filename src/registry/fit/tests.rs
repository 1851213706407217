//! What fits together, in words.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Models from `a`, with their gigabytes; negative ones are always kept.
fn needs(sizes: &[i64]) -> Vec<Need> {
    let named = sizes.iter().zip('a'..).map(|(size, name)| Need {
        name: name.to_string(),
        memory: ByteSize(size.unsigned_abs() * 1_000_000_000),
        keep: *size < 0,
        never_with: Vec::new(),
    });
    named.collect()
}

fn room(gigabytes: u64) -> Room {
    Room {
        budget: ByteSize(gigabytes * 1_000_000_000),
        places: None,
    }
}

/// The lines after the first, less the one that tells how models swap.
fn lines(fit: &Fit) -> Vec<String> {
    let text = fit.to_string();
    let lines = text.lines().skip(1).map(|line| line.trim().to_owned());
    lines
        .filter(|line| !line.starts_with("what has no room"))
        .collect()
}

#[test]
fn what_is_never_together_is_in_no_group() {
    let check = |sizes: &[i64], rivals: &[(usize, usize)], gigabytes: u64, expected: &[&str]| {
        let mut needs = needs(sizes);
        for (one, other) in rivals {
            let name = needs[*other].name.clone();
            needs[*one].never_with.push(name);
        }
        let told = fit(needs, room(gigabytes));
        assert_eq!(lines(&told), expected, "{sizes:?} {rivals:?}");
        assert!(!told.is_all());
    };
    check(
        &[1, 1, 1],
        &[(2, 0)],
        10,
        &["a and b fit together", "b and c fit together"],
    );
    check(
        &[1, 1],
        &[(0, 1)],
        10,
        &["a and b only one at a time: a request for one of them unloads the one before it"],
    );
    check(
        &[1, 1, 1],
        &[(0, 1), (2, 0)],
        10,
        &[
            "b and c fit together",
            "a (1.0 GB) only alone: a request for it unloads b and c",
        ],
    );
    check(
        &[1; 11],
        &[(0, 1), (3, 2)],
        5,
        &[
            "at most 5 of these 11 fit together: a, b, c, d, e and 6 more",
            "never together: a and b",
            "never together: c and d",
        ],
    );
}

#[test]
fn what_fits_together_is_told_in_a_few_lines() {
    let check = |sizes: &[i64], gigabytes: u64, expected: &[&str]| {
        assert_eq!(
            lines(&fit(needs(sizes), room(gigabytes))),
            expected,
            "{sizes:?}"
        );
    };
    check(&[1, 2, 3], 6, &[]);
    check(
        &[3, 2, 9],
        10,
        &[
            "a and b fit together",
            "c (9.0 GB) only alone: a request for it unloads a and b",
        ],
    );
    check(
        &[9, 9],
        10,
        &["a and b only one at a time: a request for one of them unloads the one before it"],
    );
    check(
        &[5, 4, 6],
        10,
        &["a and b fit together", "b and c fit together"],
    );
    check(
        &[3, 3, 3, 3],
        10,
        &["any 3 of these 4 fit together: a, b, c and d"],
    );
    check(
        &[-4, 3, 3, 12, 6],
        10,
        &[
            "always kept: a; 6.0 GB are left for the others",
            "b and c fit together beside them",
            "e (6.0 GB) only alone: a request for it unloads b and c",
            "d never fits: it needs 12.0 GB and the budget is 10.0 GB, of which 4.0 GB is always kept",
        ],
    );
    check(
        &[-6, -6, 1],
        10,
        &[
            "always kept: a and b, which need 12.0 GB together: not all of them can be loaded",
            "c never fits: it needs 1.0 GB and the budget is 10.0 GB, of which 12.0 GB is always kept",
        ],
    );
    check(
        &[-12, 4],
        10,
        &[
            "b fits",
            "a never fits: it needs 12.0 GB and the budget is 10.0 GB",
        ],
    );
}

#[test]
fn places_count_beside_bytes() {
    let with = |sizes: &[i64], places| {
        let room = Room {
            places: Some(places),
            ..room(100)
        };
        fit(needs(sizes), room)
    };
    assert!(with(&[1, 1], 2).is_all());
    assert_eq!(
        lines(&with(&[1, 1, 1], 2)),
        ["any 2 of these 3 fit together: a, b and c"]
    );
    let one = with(&[1, 1], 1).to_string();
    assert!(one.contains("one place (pool.max_models)"), "{one}");
    assert!(one.contains("a and b only one at a time"), "{one}");
}

#[test]
fn everything_fits_in_one_line() {
    let check = |sizes: &[i64], expected: &str| {
        let text = fit(needs(sizes), room(10)).to_string();
        assert_eq!(text, format!("budget 10.0 GB{expected}"));
    };
    check(&[], "");
    check(&[1], ": the one model fits");
    check(&[1, -1], ": both models fit together");
    check(&[1, 1, -1], ": all 3 models fit together");
}

#[test]
fn a_thousand_models_are_summed_up_at_once() {
    let sizes: Vec<_> = (0..1000).map(|number| 1 + number % 7).collect();
    let many = sizes.iter().enumerate().map(|(number, size)| Need {
        name: format!("org/model-{number}"),
        memory: ByteSize(size * 1_000_000_000),
        keep: false,
        never_with: Vec::new(),
    });
    let many: Vec<_> = many.collect();
    let start = Instant::now();
    let text = fit(many, room(48)).to_string();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(
        text.contains("any 6 of these 1000 fit together, and at most 48: org/model-0"),
        "{text}"
    );
    assert!(text.contains("and 995 more"), "{text}");
    assert!(text.lines().count() < 5, "{text}");
}

proptest! {
    /// Each choice fits, takes no other, and together they have everything that fits.
    #[test]
    fn choices_are_whole_and_complete(
        sizes in prop::collection::vec(1_i64..12, 0..8),
        kept in 0_usize..3,
        budget in 1_u64..30,
        places in prop::option::of(1_usize..6),
    ) {
        let sizes: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, size)| if index < kept { -size } else { *size })
            .collect();
        let room = Room { places, ..room(budget) };
        let all = needs(&sizes);
        let fitted = fit(all.clone(), room);
        let told = fitted.always.len() + fitted.never.len() + fitted.alone.len() + fitted.together.len();
        prop_assert_eq!(told, all.len(), "each is told of once");
        prop_assume!(!fitted.is_overbooked);
        let fits = |names: &[&str]| {
            let chosen = all.iter().filter(|need| need.keep && need.memory <= room.budget || names.contains(&need.name.as_str()));
            let chosen: Vec<_> = chosen.collect();
            holds(room, chosen.len(), sum(chosen.iter().copied()))
        };
        for never in &fitted.never {
            prop_assert!(!fits(&[&never.name]));
        }
        for alone in &fitted.alone {
            prop_assert!(fits(&[&alone.name]));
            let others = fitted.alone.iter().chain(&fitted.together);
            for other in others.filter(|other| other.name != alone.name) {
                prop_assert!(!fits(&[&alone.name, &other.name]));
            }
        }
        match &fitted.choice {
            Choice::All => {
                let names: Vec<_> = fitted.together.iter().map(|need| need.name.as_str()).collect();
                prop_assert!(fits(&names));
            }
            Choice::Groups(groups) => for group in groups {
                let group = fitted.group(group);
                prop_assert!(fits(&group));
                for more in fitted.together.iter().filter(|need| !group.contains(&need.name.as_str())) {
                    prop_assert!(!fits(&[&group[..], &[&more.name]].concat()));
                }
            },
            Choice::Counts { any, most } => {
                let mut by_size: Vec<_> = fitted.together.iter().collect();
                by_size.sort_by_key(|need| need.memory);
                let names: Vec<_> = by_size.iter().map(|need| need.name.as_str()).collect();
                prop_assert!(fits(&names[names.len() - any..]), "the largest");
                prop_assert!(fits(&names[..*most]), "the smallest");
                prop_assert!(!fits(&names[..most + 1]));
            }
        }
        let is_all = fits(&all.iter().map(|need| need.name.as_str()).collect::<Vec<_>>());
        prop_assert_eq!(is_all && fitted.never.is_empty(), fitted.is_all());
    }
}
