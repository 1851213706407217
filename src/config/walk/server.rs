//! `server` and `server.limits`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::values::{Span, Zero, parse_listen, quoted};
use super::{At, Walker, advice, set};
use crate::config::file::{Node, Value};
use crate::config::problem::{Place, Problem, both};
use crate::config::{Counts, Limits, Listen, Server, Tls};

impl Walker<'_> {
    /// `server`
    pub(super) fn server(&mut self, node: &Node, server: &mut Server) {
        for pair in self.pairs("server", "server", node) {
            let path = format!("server.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "listen" => set(&mut server.listen, self.listens(at, 1)),
                "management" => set(&mut server.management, self.listens(at, 0)),
                "allowed_hosts" => {
                    let hosts = self.list(at, "a list of hosts", Self::host);
                    set(&mut server.allowed_hosts, hosts);
                }
                "allowed_origins" => {
                    let origins = self.list(at, "a list of origins", Self::origin);
                    set(&mut server.allowed_origins, origins);
                }
                "trusted_proxies" => {
                    let networks =
                        self.list(at, "a list of addresses or networks", |walker, at| {
                            walker.read(at, "an address or a network", str::parse)
                        });
                    set(&mut server.trusted_proxies, networks);
                }
                "tls" => server.tls = self.tls(&pair.node),
                "socket_mode" => set(&mut server.socket_mode, self.mode(at)),
                "drain" => set(&mut server.drain, self.duration(at, Zero::Fits)),
                "heartbeat_after" => {
                    set(&mut server.heartbeat_after, self.duration(at, Zero::Fits));
                }
                "heartbeat_every" => {
                    set(
                        &mut server.heartbeat_every,
                        self.duration(at, Zero::Refused),
                    );
                }
                "heartbeat" => set(&mut server.heartbeat, self.heartbeat(at)),
                "limits" => self.limits(&pair.node, &mut server.limits),
                _ => {}
            }
        }
        self.check_addresses(node, server);
    }

    /// `server.tls`: both files or neither.
    fn tls(&mut self, node: &Node) -> Option<Tls> {
        let (mut cert, mut key) = (None, None);
        for pair in self.pairs("server.tls", "server.tls", node) {
            let path = format!("server.tls.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            match pair.key.as_str() {
                "cert" => cert = self.path(at),
                "key" => key = self.path(at),
                _ => {}
            }
        }
        let Value::Map(pairs) = &node.value else {
            return None;
        };
        let missing = ["cert", "key"]
            .into_iter()
            .find(|name| !pairs.iter().any(|pair| pair.key == *name));
        if let Some(missing) = missing {
            let message = format!("server.tls: expected cert and key, found no {missing}");
            self.problem(Problem::at(node.place, message));
        }
        Some(Tls {
            cert: cert?,
            key: key?,
        })
    }

    /// `server.limits`
    fn limits(&mut self, node: &Node, limits: &mut Limits) {
        for pair in self.pairs("server.limits", "server.limits", node) {
            let path = format!("server.limits.{}", pair.key);
            let at = At {
                path: &path,
                node: &pair.node,
            };
            if self.counts(at, &pair.key, &mut limits.counts) {
                continue;
            }
            let time = match pair.key.as_str() {
                "header_time" => &mut limits.header_time,
                "body_idle" => &mut limits.body_idle,
                "idle" => &mut limits.idle,
                "load_time" => &mut limits.load_time,
                "first_token" => &mut limits.first_token,
                "between_tokens" => &mut limits.between_tokens,
                "write_stall" => &mut limits.write_stall,
                "body" => {
                    set(&mut limits.body, self.size(at));
                    continue;
                }
                "bodies" => {
                    set(&mut limits.bodies, self.size(at));
                    continue;
                }
                "connections" => {
                    set(&mut limits.connections, self.number(at, Span::COUNT));
                    continue;
                }
                "address_rate" => {
                    let rate = self.number_or_unlimited(at);
                    set(
                        &mut limits.address_rate,
                        rate.map(|rate| rate.and_then(nonzero)),
                    );
                    continue;
                }
                "wrong_keys" => {
                    let number = self.number(at, Span::COUNT);
                    set(&mut limits.wrong_keys, number.and_then(nonzero));
                    continue;
                }
                _ => continue,
            };
            set(time, self.duration(at, Zero::Refused));
        }
    }

    /// The part of `server.limits` about bodies; answers whether the key was one of it.
    fn counts(&mut self, at: At, key: &str, counts: &mut Counts) -> bool {
        let number = match key {
            "values" => return set_count(&mut counts.values, self.number(at, Span::VALUES)),
            "image_size" => return set_count(&mut counts.image_size, self.size(at)),
            "messages" => &mut counts.messages,
            "images" => &mut counts.images,
            "tools" => &mut counts.tools,
            "tool_calls" => &mut counts.tool_calls,
            "inputs" => &mut counts.inputs,
            "stops" => &mut counts.stops,
            "choices" => &mut counts.choices,
            "answers" => &mut counts.answers,
            _ => return false,
        };
        set_count(number, self.number(at, Span::COUNT))
    }

    /// A host as it stands in `Host`, without a port.
    fn host(&mut self, at: At) -> Option<String> {
        let expected = "a host without a port, such as ai.example.internal";
        self.plain(at, expected, is_host, advice::host)
    }

    /// A web origin.
    fn origin(&mut self, at: At) -> Option<String> {
        let expected = "an origin such as https://chat.example.com";
        self.plain(at, expected, is_origin, advice::origin)
    }

    /// No address may be listened on twice; port 0 is another one each time.
    fn check_addresses(&mut self, node: &Node, server: &Server) {
        let around = self.around;
        let mut seen: HashMap<Listen, Place> = HashMap::new();
        let standard = [
            ("listen", &server.listen),
            ("management", &server.management),
        ];
        for (key, listens) in standard {
            for (listen, place) in written(node, key, listens, |path| around.resolve(path)) {
                if matches!(listen, Listen::Tcp(address) if address.port() == 0) {
                    continue;
                }
                let Some(first) = seen.insert(listen.clone(), place) else {
                    continue;
                };
                let message = format!(
                    "server.{key}: expected different addresses, found {} twice: {}",
                    quoted(&listen.to_string()),
                    both(&self.files, first, place)
                );
                self.problem(Problem::at(place, message));
            }
        }
    }
}

/// The addresses of a key with their places; those that hold without the key have
/// the place of the section.
fn written(
    node: &Node,
    key: &str,
    listens: &[Listen],
    resolve: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<(Listen, Place)> {
    let pairs = match &node.value {
        Value::Map(pairs) => pairs.as_slice(),
        _ => &[],
    };
    let Some(pair) = pairs.iter().find(|pair| pair.key == key) else {
        let place = |listen: &Listen| (listen.clone(), node.place);
        return listens.iter().map(place).collect();
    };
    let nodes = match &pair.node.value {
        Value::List { items, .. } => items.as_slice(),
        _ => std::slice::from_ref(&pair.node),
    };
    let read = |node: &Node| match &node.value {
        Value::Text(text) => Some((parse_listen(text, &resolve).ok()?, node.place)),
        _ => None,
    };
    nodes.iter().filter_map(read).collect()
}

/// Sets what could be read; the key was known either way.
fn set_count<T>(to: &mut T, read: Option<T>) -> bool {
    set(to, read);
    true
}

/// A count that was checked to be more than nothing.
fn nonzero(number: usize) -> Option<NonZeroU32> {
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

/// A DNS name or a literal address.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    text.len() <= 253
        && (text.split('.').all(label)
            || text
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<std::net::Ipv6Addr>()
                .is_ok())
}

/// `scheme://host` with an optional port and nothing after it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_scheme = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    is_scheme && is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}
