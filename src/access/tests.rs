use super::keys::{KeyClass, Keys};
use super::*;

const LOOPBACK: Door = Door::Tcp {
    local: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    peer: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
};

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

#[test]
fn a_key_opens_its_class_and_no_other() {
    let mut keys = Keys::default();
    let inference = keys.make(KeyClass::Inference, "chat").expect("a key");
    let management = keys.make(KeyClass::Management, "admin").expect("a key");
    let check = |access: Access, pairs: &[(&str, &str)], expected: Result<&str, Code>| {
        let got = authorise(access, &headers(pairs), &LOOPBACK, &keys);
        let got = got.map(|caller| caller.id).map_err(|error| error.code);
        let expected = expected.map(|name| {
            keys.iter()
                .find(|key| key.name == name)
                .map_or(name.to_owned(), |key| key.id.clone())
        });
        assert_eq!(got, expected, "{access:?} {pairs:?}");
    };
    let bearer = |key: &str| format!("Bearer {key}");
    check(Access::Open, &[], Ok("anybody"));
    check(Access::Inference, &[], Err(Code::InvalidApiKey));
    check(
        Access::Inference,
        &[("authorization", &bearer(&inference))],
        Ok("chat"),
    );
    check(Access::Inference, &[("x-api-key", &inference)], Ok("chat"));
    check(
        Access::Management,
        &[("x-api-key", &management)],
        Ok("admin"),
    );
    check(
        Access::Management,
        &[("x-api-key", &inference)],
        Err(Code::WrongKeyClass),
    );
    check(
        Access::Inference,
        &[("x-api-key", &management)],
        Err(Code::WrongKeyClass),
    );
    check(
        Access::Inference,
        &[("x-api-key", "wrong")],
        Err(Code::InvalidApiKey),
    );
}

#[test]
fn only_the_exact_forms_of_a_credential_count() {
    let mut keys = Keys::default();
    let key = keys.make(KeyClass::Inference, "chat").expect("a key");
    let check = |pairs: &[(&str, String)], expected: Result<(), Code>| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let got = authorise(Access::Inference, &headers(&pairs), &LOOPBACK, &keys);
        assert_eq!(
            got.map(|_| ()).map_err(|error| error.code),
            expected,
            "{pairs:?}"
        );
    };
    check(&[("authorization", format!("bearer {key}"))], Ok(()));
    check(&[("authorization", format!("BEARER {key}"))], Ok(()));
    check(
        &[("authorization", format!("Bearer  {key}"))],
        Err(Code::InvalidApiKey),
    );
    check(
        &[("authorization", format!("Bearer\t{key}"))],
        Err(Code::InvalidApiKey),
    );
    check(
        &[("authorization", "Bearer".to_owned())],
        Err(Code::InvalidApiKey),
    );
    check(&[("authorization", key.clone())], Err(Code::InvalidApiKey));
    check(
        &[("authorization", format!("Basic {key}"))],
        Err(Code::InvalidApiKey),
    );
    let twice = [
        ("authorization", format!("Bearer {key}")),
        ("authorization", format!("Bearer {key}")),
    ];
    check(&twice, Err(Code::BadRequest));
}

#[test]
fn without_keys_inference_is_open_and_management_is_not() {
    let keys = Keys::default();
    let check = |access, door: &Door, expected: Result<&str, Code>| {
        let got = authorise(access, &HeaderMap::new(), door, &keys);
        assert_eq!(
            got.map(|c| c.id).map_err(|e| e.code),
            expected.map(str::to_owned)
        );
    };
    check(Access::Inference, &LOOPBACK, Ok("local"));
    check(Access::Management, &LOOPBACK, Err(Code::InvalidApiKey));
    check(Access::Management, &Door::ControlSocket, Ok("owner"));
    check(
        Access::Management,
        &Door::UnixSocket,
        Err(Code::InvalidApiKey),
    );
}
