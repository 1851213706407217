use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::config::standard::Surroundings;

fn server(change: impl FnOnce(&mut Server)) -> Server {
    let around = Surroundings {
        folder: "/etc/roundhouse".into(),
        home: None,
        hub_cache: "/hub".into(),
        state: "/state".into(),
    };
    let mut server = Config::standard(&around).server;
    change(&mut server);
    server
}

fn door(dialled: &str) -> Door {
    Door::Tcp {
        local: dialled.parse().expect(dialled),
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::try_from(*name).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn passes(host: &str, dialled: &str, server: &Server) -> bool {
    let Ok(value) = HeaderValue::from_str(host) else {
        return false;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, value);
    check_host(&Uri::from_static("/"), &headers, &door(dialled), server).is_ok()
}

#[test]
fn w03_hosts_are_localhost_own_addresses_and_listed_names() {
    let server = server(|server| {
        server.allowed_hosts = vec!["ai.example.internal".into(), "[2001:db8::7]".into()];
        server
            .listen
            .push("[::1]:11440".parse().map(Listen::Tcp).expect("an address"));
        server
            .listen
            .push("0.0.0.0:1".parse().map(Listen::Tcp).expect("an address"));
    });
    let check = |host: &str, expected: bool| {
        assert_eq!(passes(host, "127.0.0.1", &server), expected, "{host:?}");
    };
    for host in [
        "localhost",
        "LOCALHOST:1",
        "LocalHost:65535",
        "127.0.0.1",
        "127.0.0.1:11440",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:11440",
        "[::ffff:127.0.0.1]:1",
        "[::ffff:7f00:1]",
        "ai.example.internal",
        "AI.example.internal:443",
        "[2001:db8::7]:80",
    ] {
        check(host, true);
    }
    for host in [
        "",
        "attacker.example",
        "attacker.example:11440",
        "localhost.evil.com",
        "localhost.",
        "localhost:",
        "localhost:99999",
        "localhost:0x50",
        "localhost:80:80",
        "localhost/",
        " localhost",
        "127.0.0.1.nip.io",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "127.0.0.2",
        "0.0.0.0",
        "10.0.0.1",
        "[::2]",
        "[::1",
        "::1",
        "[localhost]",
        "[::1%25lo]",
        "user@localhost",
        "localhost@attacker.example",
        "user:pass@127.0.0.1",
        "ai.example.internal.",
        "xai.example.internal",
    ] {
        check(host, false);
    }
}

#[test]
fn w03_an_address_that_was_dialled_is_ours_and_no_other() {
    let server = server(|_| {});
    assert!(passes("192.0.2.7:80", "192.0.2.7", &server));
    assert!(!passes("192.0.2.8:80", "192.0.2.7", &server));
    assert!(passes("192.0.2.7", "::ffff:192.0.2.7", &server));
}

#[test]
fn w03_every_host_that_is_given_has_to_pass() {
    let server = server(|_| {});
    let check = |uri: &'static str, hosts: &[&str], code: Option<Code>| {
        let pairs: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
        let checked = check_host(
            &Uri::from_static(uri),
            &headers(&pairs),
            &door("127.0.0.1"),
            &server,
        );
        assert_eq!(
            checked.err().map(|error| error.code),
            code,
            "{uri} {hosts:?}"
        );
    };
    check("/", &["localhost"], None);
    check("/", &[], Some(Code::HostNotAllowed));
    check("/", &["localhost", "localhost"], Some(Code::BadRequest));
    check("http://localhost/", &["localhost"], None);
    check("http://localhost/", &[], None);
    check(
        "http://attacker.example/",
        &["localhost"],
        Some(Code::HostNotAllowed),
    );
    check(
        "http://localhost/",
        &["attacker.example"],
        Some(Code::HostNotAllowed),
    );
    let none = HeaderMap::new();
    assert!(check_host(&Uri::from_static("/"), &none, &Door::ControlSocket, &server).is_ok());
}

proptest! {
    /// Whatever passes is, without case and port, one of the few spellings there are.
    #[test]
    fn w03_nothing_else_passes(text in "\\PC{0,24}|[0-9a-fA-Fx.:\\[\\]@]{0,24}|(localhost|127\\.0\\.0\\.1|\\[::1\\])[.:@0-9a-z\\-]{0,6}") {
        let server = server(|_| {});
        if passes(&text, "127.0.0.1", &server) {
            let lower = text.to_ascii_lowercase();
            let host = match lower.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => {
                    prop_assert!(port.parse::<u16>().is_ok(), "{text}");
                    host
                }
                _ => &lower,
            };
            let mapped = host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok_and(|address| {
                address.to_ipv4_mapped() == Some(Ipv4Addr::LOCALHOST)
            });
            prop_assert!(host == "localhost" || host == "127.0.0.1" || mapped, "{text}");
        }
    }
}

#[test]
fn w05_effects_are_for_listed_pages_and_for_programs() {
    let allowed = ["https://ui.example".to_owned()];
    let check = |method: Method, origins: &[&str], expected: bool| {
        let pairs: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
        let passed = check_origin(&method, &headers(&pairs), &allowed).is_ok();
        assert_eq!(passed, expected, "{method} {origins:?}");
    };
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        check(method.clone(), &[], true);
        check(method.clone(), &["https://ui.example"], true);
        for origin in [
            "https://ui.example:8443",
            "http://ui.example",
            "https://UI.example",
            "https://ui.example/",
            "https://ui.example.evil.com",
            "null",
            "",
            "*",
            "http://localhost:11440",
        ] {
            check(method.clone(), &[origin], false);
        }
        check(
            method,
            &["https://ui.example", "https://evil.example"],
            false,
        );
    }
    check(Method::GET, &["https://evil.example"], true);
}

#[test]
fn w05_management_is_not_read_by_pages_of_other_sites() {
    let allowed = ["https://ui.example".to_owned()];
    let check = |pairs: &[(&str, &str)], expected: bool| {
        assert_eq!(
            check_site(&headers(pairs), &allowed).is_ok(),
            expected,
            "{pairs:?}"
        );
    };
    check(&[], true);
    check(&[("sec-fetch-site", "none")], true);
    check(&[("sec-fetch-site", "same-origin")], true);
    check(&[("sec-fetch-site", "cross-site")], false);
    check(&[("sec-fetch-site", "same-site")], false);
    check(
        &[
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://evil.example"),
        ],
        false,
    );
    check(
        &[
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://ui.example"),
        ],
        true,
    );
}

#[test]
fn w01_only_a_listed_page_may_read_and_no_star_is_ever_said() {
    let allowed = ["https://ui.example".to_owned()];
    let mut answer = HeaderMap::new();
    let_read(&mut answer, None, &[]);
    assert!(answer.is_empty(), "{answer:?}");
    let_read(&mut answer, None, &allowed);
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert_eq!(answer[header::VARY], "Origin");
    let request = headers(&[("origin", "https://ui.example")]);
    let_read(&mut answer, listed_origin(&request, &allowed), &allowed);
    assert_eq!(
        answer[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        "https://ui.example"
    );
    assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    let asked = headers(&[(
        "access-control-request-headers",
        "authorization, x-stainless-os",
    )]);
    let answer = preflight(&asked);
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        answer.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS],
        "authorization, x-stainless-os"
    );
    let odd = headers(&[("access-control-request-headers", "*;q=1")]);
    assert!(
        !preflight(&odd)
            .headers()
            .contains_key(header::ACCESS_CONTROL_ALLOW_HEADERS)
    );
}

#[test]
fn h11_only_listed_proxies_are_believed() {
    let trusted: Vec<Network> = ["127.0.0.1", "10.0.0.0/8"]
        .map(|text| text.parse().expect(text))
        .into();
    let check = |peer: &str, pairs: &[(&str, &str)], expected: &str| {
        let real = real_peer(peer.parse().expect(peer), &headers(pairs), &trusted);
        assert_eq!(
            real,
            expected.parse::<IpAddr>().expect(expected),
            "{peer} {pairs:?}"
        );
    };
    let said = |text| [("x-forwarded-for", text)];
    check("203.0.113.9", &said("198.51.100.1"), "203.0.113.9");
    check("127.0.0.1", &[], "127.0.0.1");
    check("127.0.0.1", &said("198.51.100.1"), "198.51.100.1");
    check("127.0.0.1", &said("1.1.1.1, 198.51.100.1"), "198.51.100.1");
    check(
        "127.0.0.1",
        &said("1.1.1.1, 198.51.100.1, 10.2.3.4"),
        "198.51.100.1",
    );
    check("127.0.0.1", &said("198.51.100.1:4711"), "198.51.100.1");
    check("127.0.0.1", &said("[2001:db8::1]:80"), "2001:db8::1");
    check("127.0.0.1", &said("unknown"), "127.0.0.1");
    check("127.0.0.1", &said("1.1.1.1, unknown, 10.2.3.4"), "10.2.3.4");
    check(
        "127.0.0.1",
        &[("x-real-ip", "1.1.1.1"), ("forwarded", "for=1.1.1.1")],
        "127.0.0.1",
    );
    let two = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "198.51.100.1"),
    ];
    check("127.0.0.1", &two, "198.51.100.1");
}
