use rand::RngExt;

use super::keys::{KeyClass, Keys};
use super::*;
use crate::secret::Secret;

const LOOPBACK: Door = Door::Tcp {
    local: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(
            header::HeaderName::try_from(*name).expect("a name"),
            value.parse().expect("a value"),
        );
    }
    headers
}

fn made(keys: &mut Keys, class: KeyClass, name: &str) -> Secret {
    let made = keys.make(class, Some(name), Scope::default());
    made.expect("a key").1
}

/// Who somebody turns out to be: the name of the key, or a word.
fn identified(
    access: Access,
    pairs: &[(&str, &str)],
    door: &Door,
    keys: &Keys,
) -> Result<String, Code> {
    match identify(access, &headers(pairs), door, keys, false, NOW) {
        Ok(Known::Anybody) => Ok("anybody".to_owned()),
        Ok(Known::Local) => Ok("local".to_owned()),
        Ok(Known::Owner) => Ok("owner".to_owned()),
        Ok(Known::Holder(key)) => Ok(key.name.clone()),
        Err(refusal) => Err(refusal.error.code),
    }
}

#[test]
fn a_key_opens_its_class_and_no_other() {
    let mut keys = Keys::default();
    let inference = made(&mut keys, KeyClass::Inference, "chat");
    let management = made(&mut keys, KeyClass::Management, "admin");
    let (inference, management) = (inference.expose(), management.expose());
    let check = |access: Access, pairs: &[(&str, &str)], expected: Result<&str, Code>| {
        let got = identified(access, pairs, &LOOPBACK, &keys);
        assert_eq!(got, expected.map(str::to_owned), "{access:?}");
    };
    let bearer = format!("Bearer {inference}");
    check(Access::Open, &[], Ok("anybody"));
    check(Access::Inference, &[], Err(Code::InvalidApiKey));
    check(Access::Inference, &[("authorization", &bearer)], Ok("chat"));
    check(Access::Inference, &[("x-api-key", inference)], Ok("chat"));
    check(
        Access::Management,
        &[("x-api-key", management)],
        Ok("admin"),
    );
    let other = Err(Code::WrongKeyClass);
    check(Access::Management, &[("x-api-key", inference)], other);
    check(Access::Inference, &[("x-api-key", management)], other);
    let wrong = Err(Code::InvalidApiKey);
    check(Access::Inference, &[("x-api-key", "wrong")], wrong);
}

#[test]
fn a06_only_the_exact_forms_of_a_credential_count() {
    let mut keys = Keys::default();
    let key = made(&mut keys, KeyClass::Inference, "chat");
    let key = key.expose();
    let check = |pairs: &[(&str, String)], expected: Result<&str, Code>| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let got = identified(Access::Inference, &pairs, &LOOPBACK, &keys);
        assert_eq!(got, expected.map(str::to_owned));
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        check(&[("authorization", format!("{scheme} {key}"))], Ok("chat"));
    }
    for value in [
        format!("Bearer  {key}"),
        format!("Bearer\t{key}"),
        format!("Bearer {key} "),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        key.to_owned(),
        format!("Basic {key}"),
        format!("Bearer {key}, Bearer {key}"),
    ] {
        check(&[("authorization", value)], Err(Code::InvalidApiKey));
    }
    let bearer = || ("authorization", format!("Bearer {key}"));
    let api_key = || ("x-api-key", key.to_owned());
    check(&[bearer(), bearer()], Err(Code::BadRequest));
    check(&[api_key(), api_key()], Err(Code::BadRequest));
    check(&[bearer(), api_key()], Err(Code::BadRequest));
}

#[test]
fn without_keys_inference_is_open_on_this_machine_and_management_is_not() {
    let check = |access, door: &Door, keys: &Keys, expected: Result<&str, Code>| {
        let got = identified(access, &[], door, keys);
        assert_eq!(got, expected.map(str::to_owned), "{door:?}");
    };
    let none = Keys::default();
    let reachable = Door::Tcp {
        local: IpAddr::from([192, 0, 2, 1]),
        peer: IpAddr::from([192, 0, 2, 2]),
    };
    check(Access::Inference, &LOOPBACK, &none, Ok("local"));
    check(Access::Inference, &Door::UnixSocket, &none, Ok("local"));
    // As when the last key is revoked while the server runs.
    let closed = Err(Code::InvalidApiKey);
    check(Access::Inference, &reachable, &none, closed);
    let behind_a_proxy = Door::Tcp {
        local: IpAddr::from([127, 0, 0, 1]),
        peer: IpAddr::from([192, 0, 2, 2]),
    };
    check(Access::Inference, &behind_a_proxy, &none, closed);
    let insisted = identify(
        Access::Inference,
        &headers(&[]),
        &reachable,
        &none,
        true,
        NOW,
    );
    assert!(matches!(insisted, Ok(Known::Local)));
    for door in [&LOOPBACK, &Door::UnixSocket, &reachable] {
        check(Access::Management, door, &none, closed);
        let insisted = identify(Access::Management, &headers(&[]), door, &none, true, NOW);
        assert!(insisted.is_err(), "{door:?}");
    }
    check(Access::Management, &Door::ControlSocket, &none, Ok("owner"));
}

#[test]
fn an_expired_key_is_a_wrong_key_and_opens_nothing_by_its_absence() {
    let mut keys = Keys::default();
    let scope = Scope {
        expires: Some(100),
        ..Scope::default()
    };
    let made = keys.make(KeyClass::Inference, None, scope);
    let (_, text) = made.expect("a key");
    let check = |pairs: &[(&str, &str)], at: u64, expected: Option<Code>| {
        let now = NOW + Duration::from_secs(at);
        let got = identify(
            Access::Inference,
            &headers(pairs),
            &LOOPBACK,
            &keys,
            false,
            now,
        );
        assert_eq!(
            got.err().map(|refusal| refusal.error.code),
            expected,
            "{at}"
        );
    };
    check(&[("x-api-key", text.expose())], 99, None);
    check(
        &[("x-api-key", text.expose())],
        100,
        Some(Code::InvalidApiKey),
    );
    check(&[], 100, Some(Code::InvalidApiKey));
}

/// How often of a hundred tries a measurement of one is above one of the other,
/// in hundredths: 50 for two that cannot be told apart (the area under the ROC
/// curve, which is the statistic of the Mann-Whitney test).
fn separation(one: &[u128], other: &[u128]) -> f64 {
    let mut sorted = other.to_vec();
    sorted.sort_unstable();
    let above = |value: &u128| {
        let below = sorted.partition_point(|other| other < value);
        let up_to = sorted.partition_point(|other| other <= value);
        (below + up_to) as f64 / 2.0
    };
    let pairs = one.len() as f64 * other.len() as f64;
    one.iter().map(above).sum::<f64>() / pairs * 100.0
}

#[test]
fn a20_the_time_of_a_wrong_key_tells_nothing_of_the_right_one() {
    // The noise of such a figure at this size is below one; a comparison that ends
    // early, or is skipped, moves it by tens.
    let (tries, bound) = match std::env::var_os("ROUNDHOUSE_LONG") {
        Some(_) => (20_000, 4.0),
        None => (2_000, 10.0),
    };
    let mut keys = Keys::default();
    let right = made(&mut keys, KeyClass::Inference, "right");
    for number in 0..7 {
        made(&mut keys, KeyClass::Inference, &format!("other{number}"));
    }
    let right = right.expose();
    let (first, last) = (&right[..right.len() - 1], &right[right.len() - 1..]);
    let flipped = if last == "0" { "1" } else { "0" };
    let guesses = [
        "x".repeat(right.len()),
        format!("{}{}", &right[..1], "x".repeat(right.len() - 1)),
        format!("{first}{flipped}"),
        "x".repeat(right.len() - 10),
        right[..right.len() - 10].to_owned(),
    ];
    // How long a guess is its maker knows, and hashing it takes nanoseconds more or less
    // by that: only those of one length are to be alike.
    let alike = [(0, 1), (0, 2), (3, 4)];
    let mut times = vec![Vec::with_capacity(tries); guesses.len() + 1];
    for _ in 0..tries * times.len() {
        // Interleaved by chance: what came before must not tell them apart.
        let which = rand::rng().random_range(0..times.len());
        let begin = std::time::Instant::now();
        let found = match guesses.get(which) {
            Some(guess) => keys.find(std::hint::black_box(guess)),
            // What a lookup that gives up at the first byte would take.
            None => None,
        };
        times[which].push(begin.elapsed().as_nanos());
        assert!(std::hint::black_box(found).is_none());
    }
    for (one, other) in alike {
        let apart = separation(&times[one], &times[other]);
        println!("guesses {one} and {other}: {apart:.1} of 100, 50 is alike");
        assert!((apart - 50.0).abs() < bound, "{one} and {other}: {apart}");
    }
    let apart = separation(&times[0], &times[guesses.len()]);
    assert!(apart > 90.0, "what would be seen is not seen: {apart}");
}
