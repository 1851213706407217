use super::*;

/// What an answer is to its reader, in one line: status, body, trailers, how it ended.
fn told(answer: &[u8], cuts: usize, is_head: bool) -> String {
    let mut reader = Reader::new(is_head);
    let mut text = String::new();
    let mut pieces = answer.chunks(cuts);
    loop {
        let piece = pieces.next();
        let mut bytes = piece.unwrap_or_default();
        loop {
            match reader.next(&mut bytes) {
                Err(error) => return format!("{text} refused: {error}"),
                Ok(None) => break,
                Ok(Some(Part::Head(head))) => text += &head.status().as_u16().to_string(),
                Ok(Some(Part::Data(data))) => {
                    assert!(!data.is_empty(), "data without a byte");
                    text += &format!("+{}", String::from_utf8_lossy(data));
                }
                Ok(Some(Part::Trailers(trailers))) => text += &format!(" {trailers:?}"),
                Ok(Some(Part::End)) => {
                    let goes_on = if reader.goes_on() { "goes on" } else { "ends" };
                    return format!("{text} {goes_on}").replace('+', "");
                }
            }
        }
        if piece.is_none() {
            return match reader.finish() {
                Ok(()) => format!("{text} ends").replace('+', ""),
                Err(error) => format!("{text} {error}"),
            };
        }
    }
}

#[test]
fn an_answer_is_the_same_wherever_it_is_cut() {
    let check = |answer: &str, expected: &str| {
        for cuts in [1, 2, 3, 7, usize::MAX] {
            assert_eq!(
                told(answer.as_bytes(), cuts, false),
                expected,
                "{answer:?} in {cuts}"
            );
        }
    };
    let ok = "HTTP/1.1 200 OK\r\n";
    let check_fields = |rest: &str, expected: &str| check(&format!("{ok}{rest}"), expected);
    check_fields("content-length: 3\r\n\r\nabc", "200abc goes on");
    check_fields(
        "content-length: 3\r\ncontent-length: 3, 3\r\n\r\nabc",
        "200abc goes on",
    );
    check_fields("content-length: 0\r\n\r\n", "200 goes on");
    check_fields(
        "content-length: 3\r\nconnection: x, Close\r\n\r\nabc",
        "200abc ends",
    );
    check_fields("\r\nabc", "200abc ends");
    check_fields(
        "Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0A ;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
        "200abc0123456789 goes on",
    );
    check_fields(
        "transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-a: b\r\n\r\n",
        "200a {\"x-a\": \"b\"} goes on",
    );
    // The chunks count, and the connection with them.
    check_fields(
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "200a ends",
    );
    check(
        "HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n",
        "204 goes on",
    );
    check("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", "200a ends");
    check(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na",
        "200a goes on",
    );
    assert_eq!(
        told(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", 99, true),
        "200 goes on"
    );
}

#[test]
fn what_is_not_clearly_framed_is_refused() {
    let check = |answer: &str| {
        for cuts in [1, 2, 5, usize::MAX] {
            let told = told(answer.as_bytes(), cuts, false);
            assert!(told.contains("refused: "), "{answer:?} in {cuts}: {told}");
        }
    };
    let check_fields = |rest: &str| check(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    for lengths in [
        "content-length: 3\r\ncontent-length: 4\r\n",
        "content-length: 3, 4\r\n",
        "content-length: +3\r\n",
        "content-length: 0x3\r\n",
        "content-length: -3\r\n",
        "content-length:\r\n",
        "content-length: 3,\r\n",
        "content-length: 99999999999999999999999\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "x-a : b\r\n",
        "x-a: b\r\n folded\r\n",
        "no field\r\n",
    ] {
        check_fields(&format!("{lengths}\r\nabcd"));
    }
    for chunks in [
        "\r\n\r\n",
        "x\r\n",
        "-1\r\na",
        "0x1\r\na",
        "1\na\n0\n\n",
        "1\r\nab\r\n",
        "1\r\na\n0\r\n\r\n",
        "1 1\r\na\r\n",
        "1;a\nb\r\na\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n\n",
        "0\r\nno field\r\n\r\n",
    ] {
        check_fields(&format!("transfer-encoding: chunked\r\n\r\n{chunks}"));
    }
    check("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    check("HTTP/1.1 101 Other\r\n\r\n");
    check("HTTP/1.1 99 No\r\n\r\n");
    check("HTTP/2.0 200 OK\r\n\r\n");
    check("SSH-2.0-OpenSSH_9.2\r\n\r\n");
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    check_fields(&format!("{many}\r\n"));
    let long = format!("x: {}\r\n\r\n", "y".repeat(LARGEST_HEAD));
    check_fields(&long);
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    check_fields(&format!(
        "{chunked}1;{}\r\na\r\n",
        "y".repeat(LARGEST_EXTRA)
    ));
    check_fields(&format!(
        "{chunked}0\r\nx: {}\r\n\r\n",
        "y".repeat(LARGEST_EXTRA)
    ));
}

#[test]
fn what_breaks_off_is_told() {
    let check = |answer: &str| {
        let told = told(answer.as_bytes(), 3, false);
        assert!(
            told.ends_with("the connection was closed before its end"),
            "{answer:?}: {told}"
        );
    };
    check("");
    check("HTTP/1.1 200 OK\r\n");
    check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab");
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab");
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n");
}
