use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const TIMES: Times = Times {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(120),
    write: Duration::from_secs(60),
};

fn paced(room: usize, multiplexed: bool) -> (Paced<DuplexStream>, DuplexStream, Arc<Activity>) {
    let (ours, theirs) = duplex(room);
    let activity = Arc::new(Activity::default());
    let paced = Paced::new(ours, activity.clone(), TIMES, multiplexed);
    (paced, theirs, activity)
}

/// Reads until the pace ends it; answers after how many seconds.
async fn ends_after(paced: &mut Paced<DuplexStream>) -> u64 {
    let start = Instant::now();
    let mut space = [0; 64];
    loop {
        match paced.read(&mut space).await {
            Ok(0) => panic!("the client left"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                return start.elapsed().as_secs();
            }
        }
    }
}

/// Sends a byte every five seconds.
async fn creep(mut client: DuplexStream) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        if client.write_all(b"x").await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l01_the_first_head_has_its_time_from_the_beginning() {
    for multiplexed in [false, true] {
        let (mut paced, client, _activity) = paced(64, multiplexed);
        assert_eq!(ends_after(&mut paced).await, 10, "silent");
        drop(client);
    }
    let (mut paced, client, _activity) = paced(64, false);
    let ended = tokio::select! {
        ended = ends_after(&mut paced) => ended,
        () = creep(client) => 0,
    };
    assert_eq!(ended, 10, "creeping");
}

#[tokio::test(start_paused = true)]
async fn l01_a_later_head_has_its_time_from_its_first_byte() {
    let (mut paced, client, activity) = paced(64, false);
    drop(activity.begin().answered());
    let ended = tokio::select! {
        ended = ends_after(&mut paced) => ended,
        () = creep(client) => 0,
    };
    assert_eq!(ended, 15);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let (mut paced, client, activity) = paced(64, true);
    let exchange = activity.begin();
    let end = async {
        tokio::time::sleep(Duration::from_secs(1000)).await;
        drop(exchange.answered());
    };
    let (ended, ()) = tokio::join!(ends_after(&mut paced), end);
    assert_eq!(ended, 1120);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn where_one_exchange_runs_at_a_time_its_last_flush_begins_the_wait() {
    let (mut paced, _client, activity) = paced(64, false);
    let mut exchange = Some(activity.begin());
    let (start, mut space) = (Instant::now(), [0; 8]);
    std::future::poll_fn(|context| {
        let mut buffer = ReadBuf::new(&mut space);
        let read = Pin::new(&mut paced).poll_read(context, &mut buffer);
        if let Some(exchange) = exchange.take() {
            assert!(read.is_pending() && start.elapsed().is_zero());
            drop(exchange.answered());
            // Nothing is read after this, but when somebody wakes the task.
            assert!(Pin::new(&mut paced).poll_flush(context).is_ready());
            return Poll::Pending;
        }
        read
    })
    .await
    .expect_err("the end");
    assert_eq!(start.elapsed(), TIMES.idle);
}

#[tokio::test(start_paused = true)]
async fn frames_between_requests_do_not_keep_http2_open() {
    let (mut paced, client, activity) = paced(64, true);
    drop(activity.begin().answered());
    let ended = tokio::select! {
        ended = ends_after(&mut paced) => ended,
        () = creep(client) => 0,
    };
    assert_eq!(ended, 120);
}

#[tokio::test(start_paused = true)]
async fn l03_a_client_that_takes_nothing_is_cut_off() {
    let (mut paced, mut client, activity) = paced(8, false);
    let _exchange = activity.begin();
    let start = Instant::now();
    let error = paced.write_all(&[0; 64]).await.expect_err("a stall");
    assert_eq!(
        (error.kind(), start.elapsed().as_secs()),
        (ErrorKind::TimedOut, 60)
    );
    let mut space = [0; 8];
    client.read_exact(&mut space).await.expect("what had room");
}

#[tokio::test(start_paused = true)]
async fn giving_up_more_than_a_hundred_requests_in_ten_seconds_ends_a_connection() {
    let (mut paced, mut client, activity) = paced(4096, true);
    let mut read = async |bytes: &[u8]| {
        client.write_all(bytes).await.expect("sent");
        paced.read(&mut [0; 64]).await
    };
    for _ in 0..30 {
        (0..50).for_each(|_| drop(activity.begin()));
        assert!(read(b"x").await.is_ok());
        tokio::time::advance(Duration::from_secs(11)).await;
    }
    (0..101).for_each(|_| drop(activity.begin().answered()));
    assert!(read(b"x").await.is_ok(), "answered ones do not count");
    (0..101).for_each(|_| drop(activity.begin()));
    let error = read(b"x").await.expect_err("the end");
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn what_the_framing_refuses_is_told_in_the_words_of_the_contract() {
    let (mut paced, mut client, _activity) = paced(16, false);
    let reply = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
    let write = async {
        paced.write_all(reply).await.expect("written");
        paced.shutdown().await.expect("shut");
        drop(paced);
    };
    let mut told = String::new();
    let (_, read) = tokio::join!(write, client.read_to_string(&mut told));
    read.expect("read");
    assert!(
        told.ends_with("}}") && told.contains("headers_too_large"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn a15_an_early_answer_has_time_to_arrive() {
    let (mut paced, client, activity) = paced(1024 * 1024, false);
    activity.set_unread();
    let start = Instant::now();
    paced.shutdown().await.expect("shut");
    assert_eq!(start.elapsed(), LINGER);
    drop(client);
    let (mut paced, _client, _activity) = self::paced(64, false);
    let start = Instant::now();
    paced.shutdown().await.expect("shut");
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits without need");
}
