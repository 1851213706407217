//! `upstreams.NAME`: a service elsewhere that speaks OpenAI's HTTP, and the names that
//! it answers. Pure: where it may not lead to is decided here, from the text alone;
//! what a host name turns out to mean is looked at when it is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::engine::Use;
use super::{AliasName, Config, Listen};

/// A service of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its key under `upstreams`.
    pub name: String,
    /// `url`: where its API is.
    pub url: BaseUrl,
    /// `key_env` or `key_file`: where the key lies that it is shown; nothing means none.
    pub key: Option<KeySource>,
    /// `ca`: the certificates that its own has to lead to, instead of the system's.
    pub ca: Option<PathBuf>,
    /// `kinds`: what it may be asked, in the order of [`Use::ALL`].
    pub kinds: Vec<Use>,
    /// `models`: the names that it answers.
    pub models: Vec<RemoteName>,
    /// `priority`: of several with a name, the ones with the least are asked first.
    pub priority: u32,
    /// `weight`: its share among those with the same priority.
    pub weight: u32,
    /// `roundhouse`: whether it is a server like this one, which tells what is up there.
    pub roundhouse: bool,
}

/// `weight`, if it is not written.
pub const USUAL_WEIGHT: u32 = 1;

/// What an upstream is asked where its kinds are not written.
pub const USUAL_KINDS: [Use; 3] = [Use::Chat, Use::Completions, Use::Embeddings];

/// Where a key lies. The key itself is in no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `key_env`: in this variable of the server's environment.
    Variable(String),
    /// `key_file`: in this file, which is its owner's alone.
    File(PathBuf),
}

/// A name that an upstream answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteName {
    /// What requests say, or the pattern that it matches.
    pub name: AliasName,
    /// `as`: what the upstream is asked for instead.
    pub sent_as: Option<String>,
}

/// What official clients call a base URL: `https://api.example.com/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Whether TLS is spoken; it always is but with this machine.
    pub is_secure: bool,
    /// The host, an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands before `/chat/completions` and its like; no slash at its end.
    pub path: String,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not `https://host[:port][/path]`.
    #[error("expected a URL such as https://api.example.com/v1")]
    Form,
    /// A user or a password.
    #[error("expected a URL without a user; a key stands in key_env or key_file")]
    User,
    /// Clear text to another machine.
    #[error("expected https: without it, keys and prompts would cross the network in clear text")]
    ClearText,
    /// An address that is no service.
    #[error("expected the address of a service, found {0}")]
    Address(&'static str),
}

impl BaseUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// If it is none, has a user, a query or a fragment, leads to another machine in
    /// clear text, or to an address where no service of others can be.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Form)?;
        let is_secure = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError::Form),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::User);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
        if !path.chars().all(is_plain) || path.contains("/../") || path.contains("//") {
            return Err(UrlError::Form);
        }
        let (host, port) = split_authority(authority).ok_or(UrlError::Form)?;
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        check_host(&host)?;
        let url = Self {
            is_secure,
            host,
            port,
            path: path.trim_end_matches('/').to_owned(),
        };
        match url.is_secure || url.is_loopback() {
            true => Ok(url),
            false => Err(UrlError::ClearText),
        }
    }

    /// The address, if the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether it says that it is this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Host and port as the header `Host` has them.
    pub fn authority(&self) -> String {
        let host = match self.address() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        match (self.is_secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Whether it is the listener itself: a request would come back to where it was.
    pub fn is_listener(&self, listen: &Listen) -> bool {
        let Listen::Tcp(listens) = listen else {
            return false;
        };
        let at = listens.ip().to_canonical();
        let is_there = match self.address() {
            Some(address) => address == at,
            None => self.host == "localhost" && at.is_loopback(),
        };
        listens.port() == self.port && (is_there || at.is_unspecified() && self.is_loopback())
    }
}

impl std::fmt::Display for BaseUrl {
    /// As it can be written in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// The first upstream that is a listener of this server, in words: also for listeners
/// that the command line names instead of the file.
pub fn own_listener(config: &Config) -> Option<String> {
    let server = &config.server;
    let listens = || server.listen.iter().chain(&server.management);
    let mut upstreams = config.upstreams.values();
    let looped = upstreams.find(|upstream| listens().any(|it| upstream.url.is_listener(it)))?;
    Some(format!(
        "upstreams.{}.url: {} is this server itself",
        looped.name, looped.url
    ))
}

/// Why nothing that an upstream is reached by may be at this address; nothing if it
/// may. Metadata services of clouds are at link-local ones.
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    let link_local = match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::BROADCAST,
        // fe80::/10, and where clouds answer for their metadata (fd00:ec2::254).
        IpAddr::V6(address) => {
            let segments = address.segments();
            let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
            segments[0] & 0xffc0 == 0xfe80 || address == metadata
        }
    };
    let address = address.to_canonical();
    if link_local {
        Some("a link-local one")
    } else if address.is_unspecified() {
        Some("the one that stands for none")
    } else if address.is_multicast() {
        Some("one of many machines")
    } else {
        None
    }
}

/// `host`, `host:port`, `[::1]:port`.
fn split_authority(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// A name of letters, digits, `.` and `-`, or an address in its usual form: resolvers
/// read `127.1`, `0x7f000001` and their like as addresses too.
fn check_host(host: &str) -> Result<(), UrlError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            return Err(UrlError::Address("an IPv4 address in the form of IPv6"));
        }
        return forbidden(address).map_or(Ok(()), |what| Err(UrlError::Address(what)));
    }
    let fits = |label: &str| {
        let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inside)
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    match host.len() <= 253 && host.split('.').all(fits) {
        false => Err(UrlError::Form),
        true if last.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(UrlError::Address("a number that is no address"))
        }
        true => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_https_or_this_machine() {
        let check = |text: &str, expected: Result<&str, UrlError>| {
            let read = BaseUrl::parse(text).map(|url| url.to_string());
            assert_eq!(read, expected.map(str::to_owned), "{text}");
        };
        let same = |text| check(text, Ok(text));
        same("https://api.example.com/v1");
        same("https://api.example.com");
        same("https://api.example.com:8443/openai/v1");
        same("http://127.0.0.1:8000/v1");
        same("http://localhost:8000/v1");
        same("http://[::1]:8000/v1");
        same("https://[2001:db8::1]/v1");
        check(
            "https://API.Example.com:443/v1/",
            Ok("https://api.example.com/v1"),
        );
        for text in [
            "api.example.com/v1",
            "ftp://api.example.com",
            "https://",
            "https://:443",
            "https://a b/v1",
            "https://a..b/v1",
            "https://a/v1?x=1",
            "https://a/v1#x",
            "https://a/../b",
            "https://a:0/v1",
            "https://a:99999/v1",
            "https://a:x/v1",
            "https://[::1/v1",
            "https://[::1]x/v1",
        ] {
            check(text, Err(UrlError::Form));
        }
        check("https://me:secret@a/v1", Err(UrlError::User));
        for text in [
            "http://api.example.com/v1",
            "http://10.0.0.2/v1",
            "http://localhost.example/v1",
        ] {
            check(text, Err(UrlError::ClearText));
        }
        for text in [
            "https://0.0.0.0/v1",
            "https://[::]/v1",
            "http://169.254.169.254/v1",
            "https://169.254.169.254/v1",
            "https://[fe80::1]/v1",
            "https://[fd00:ec2::254]/v1",
            "http://[::ffff:127.0.0.1]:8000/v1",
            "https://[::ffff:169.254.169.254]/v1",
            "https://224.0.0.1/v1",
            "https://127.1/v1",
            "https://2130706433/v1",
            "https://0x7f000001/v1",
        ] {
            assert!(
                matches!(BaseUrl::parse(text), Err(UrlError::Address(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_own_listener_is_known_by_any_of_its_names() {
        let check = |url: &str, listen: &str, expected: bool| {
            let listen = Listen::Tcp(listen.parse().expect("an address"));
            let url = BaseUrl::parse(url).expect("a URL");
            assert_eq!(url.is_listener(&listen), expected, "{url} {listen}");
        };
        check("http://127.0.0.1:11440/v1", "127.0.0.1:11440", true);
        check("http://localhost:11440/v1", "127.0.0.1:11440", true);
        check("http://localhost:11440/v1", "[::1]:11440", true);
        check("http://127.0.0.1:11440", "0.0.0.0:11440", true);
        check("http://[::1]:11440", "[::]:11440", true);
        check("http://127.0.0.1:11442/v1", "127.0.0.1:11440", false);
        check("https://10.0.0.2:11440/v1", "10.0.0.2:11440", true);
        check("https://10.0.0.3:11440/v1", "10.0.0.2:11440", false);
        check("https://ai.example.com:11440/v1", "127.0.0.1:11440", false);
    }
}
