//! Caches that stay whole: who takes one, and when one is taken apart.

use super::*;

/// What was copied since the last time, when all that was said before has been kept: it is
/// told of its end first.
async fn copied(setup: &Setup) -> (u64, u64) {
    said(setup.engine.begin(job(0..1, 1))).await;
    setup.copied.take()
}

#[tokio::test]
async fn the_next_turn_takes_the_cache_as_it_was_left() {
    let setup = start(settings(2000), None, None);
    said(setup.engine.begin(job_of(1, 0..100, 20))).await;
    let mut second = setup.engine.begin(job_of(1, 0..125, 5));
    assert_eq!(cached(&mut second).await, 119);
    said(second).await;
    // One that goes on otherwise shortly before its end takes it too.
    let mut third = setup.engine.begin(job_of(1, 0..125, 5));
    assert_eq!(cached(&mut third).await, 124);
    said(third).await;
    assert_eq!(copied(&setup).await, (0, 0), "nothing is copied");
    assert_eq!(setup.engine.counted().kept.tokens, 129);
}

#[tokio::test]
async fn of_two_that_begin_alike_both_are_there() {
    // One that is no larger than the other would be is shared, a larger one taken apart.
    for (answer, apart) in [(20, (0, 0)), (200, (330, 130))] {
        let setup = start_free();
        let ask = |end: &[u32], answer| {
            let mut job = job_of(1, 0..130, answer);
            job.prompt.extend(end);
            setup.engine.begin(job)
        };
        let mut first = ask(&[300], answer);
        assert_eq!(cached(&mut first).await, 0);
        said(first).await;
        let mut second = ask(&[600], 20);
        assert_eq!(cached(&mut second).await, 130);
        assert_eq!(said(second).await.0, (601..621).collect::<Vec<_>>());
        assert_eq!(copied(&setup).await, apart, "with {answer} tokens");
        for end in [300, 600] {
            let prompt: Vec<u32> = (end..end + 15).collect();
            let mut again = ask(&prompt, 2);
            assert_eq!(cached(&mut again).await, 144, "behind {end}");
            assert_eq!(said(again).await.0, [end + 15, end + 16]);
        }
    }
}

#[test]
fn what_a_running_sequence_has_read_is_gone_on_from() {
    let (open, gate) = mpsc::channel();
    let setup = start(settings(20_000), Some(gate), None);
    let first = setup.engine.begin(job_of(1, 0..200, 50));
    // All of its 25 chunks but the last, which is asked for.
    for _ in 0..25 {
        open.send(()).expect("the thread lives");
    }
    wait_for(&setup, 25);
    let mut second = setup.engine.begin(job_of(1, 0..210, 5));
    let mut other = setup.engine.begin(job_of(2, 0..210, 5));
    drop(open);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        assert!(cached(&mut second).await >= 199, "it shares what is there");
        assert_eq!(
            cached(&mut other).await,
            0,
            "of another caller it has nothing"
        );
        for sequence in [second, other] {
            assert_eq!(said(sequence).await.0, (210..215).collect::<Vec<_>>());
        }
        assert_eq!(said(first).await.0, (200..250).collect::<Vec<_>>());
    });
}

#[tokio::test]
async fn the_last_ones_stay_whole_and_older_ones_in_pieces() {
    let setup = start(settings(20_000), None, None);
    for begin in 0..10u32 {
        said(
            setup
                .engine
                .begin(job_of(1, begin * 50..begin * 50 + 40, 1)),
        )
        .await;
    }
    assert_eq!(copied(&setup).await, (2 * 40, 0), "two were one too many");
    assert_eq!(setup.engine.counted().kept.tokens, 400);
    for (begin, expected) in [(0u32, 40), (9, 0)] {
        let prompt = begin * 50..begin * 50 + 41;
        let mut again = setup.engine.begin(job_of(1, prompt, 1));
        assert_eq!(cached(&mut again).await, 40);
        said(again).await;
        assert_eq!(copied(&setup).await.1, expected, "of number {begin}");
    }
}

#[tokio::test]
async fn whole_ones_have_half_of_the_room_and_give_way_to_sequences() {
    // Room for 300 tokens.
    let setup = start(settings(600), None, None);
    said(setup.engine.begin(job_of(1, 0..100, 1))).await;
    assert_eq!(copied(&setup).await, (0, 0));
    said(setup.engine.begin(job_of(1, 400..500, 1))).await;
    assert_eq!(copied(&setup).await, (100, 0), "both are more than half");
    said(setup.engine.begin(job_of(2, 700..860, 1))).await;
    copied(&setup).await;
    let counted = setup.engine.counted().kept;
    assert!(counted.bytes <= 600 && counted.tokens >= 160, "{counted:?}");
    setup.engine.forget();
    for owner in [1, 2] {
        let mut gone = setup.engine.begin(job_of(owner, 700..861, 1));
        assert_eq!(cached(&mut gone).await, 0, "all is forgotten");
    }
}
