//! Leaves secrets out of what is shown of a configuration. A key never belongs into
//! the file; where somebody writes one all the same, the message about it goes to a
//! terminal, a log and a status, and must not carry it there. Not the log's own
//! filter of request data (`records/redact.rs`).

use std::iter;

/// What stands for each character of a secret, so that columns stay where they are.
const MASK: char = '*';

/// The last word of a key whose value is a secret.
const SECRET_WORDS: &[&str] = &[
    "authorization",
    "credential",
    "credentials",
    "key",
    "keys",
    "passphrase",
    "password",
    "secret",
    "secrets",
    "token",
];

/// How keys of well-known services begin, and those of this program.
const SECRET_BEGINNINGS: &[&str] = &[
    "AIza", "Bearer ", "ghp_", "gsk_", "hf_", "rh-", "sk-", "xai-",
];

/// The shortest text after such a beginning that is taken for a key, characters.
const SHORTEST: usize = 8;

/// The longest of which all is looked at, characters, and the most keys of secrets that are
/// told apart in a line: a hostile line costs no more than a long one.
const LONGEST: usize = 512;
const MOST_KEYS: usize = 16;

/// A line of the file without its secrets, as many characters as before. `above` is the
/// last line before it that says something: a value may stand under its key.
pub fn line(line: &str, above: Option<&str>) -> String {
    let is_under = above.is_some_and(ends_with_secret_key);
    let keys = secret_keys(line);
    // Of thousands of lines, few have anything to conceal.
    if !is_under && keys.is_empty() {
        return message(line);
    }
    let mut shown: Vec<char> = line.chars().collect();
    if is_under {
        let start = shown.iter().take_while(|c| c.is_whitespace()).count();
        mask(&mut shown, start, None);
    }
    for (index, colon) in keys.into_iter().enumerate() {
        let blanks = shown[colon + 1..].iter().take_while(|c| c.is_whitespace());
        let start = colon + 1 + blanks.count();
        let flow = index + 1 < MOST_KEYS && in_flow(&shown[..colon]);
        mask(&mut shown, start, Some(flow));
    }
    message(&shown.into_iter().collect::<String>())
}

/// A text without keys of known shapes: a message may quote what was found.
pub fn message(message: &str) -> String {
    let is_known = SECRET_BEGINNINGS
        .iter()
        .any(|beginning| message.contains(beginning));
    let has_user = message.contains("://") && message.contains('@');
    if !is_known && !has_user {
        return message.to_owned();
    }
    let mut shown: Vec<char> = message.chars().collect();
    conceal_users(&mut shown);
    conceal_known(&mut shown);
    shown.into_iter().collect()
}

/// The colons behind keys of secrets in a line, in characters from its beginning; the
/// first of them, if there are very many.
fn secret_keys(line: &str) -> Vec<usize> {
    let colons = line.match_indices(':').filter(|(at, _)| {
        let value = line[at + 1..].chars().next();
        value.is_none_or(|c| c == ' ' || c == '\t') && is_secret_key(key_before(&line[..*at]))
    });
    let colons = colons.take(MOST_KEYS);
    colons.map(|(at, _)| line[..at].chars().count()).collect()
}

/// Whether a line is a key of a secret and nothing more but an indicator of a text below.
fn ends_with_secret_key(line: &str) -> bool {
    let line = line.trim_end_matches(|c: char| c.is_whitespace() || "|>-+".contains(c));
    line.strip_suffix(':')
        .is_some_and(|key| is_secret_key(key_before(key)))
}

/// The key that ends where its colon stands.
fn key_before(text: &str) -> &str {
    let text = text.trim_end_matches(['"', '\'']);
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let other = text.char_indices().rev().find(|(_, c)| !is_part(*c));
    other.map_or(text, |(at, c)| &text[at + c.len_utf8()..])
}

/// Whether the last word of a key names a secret; `key_env` and `key_file` name a place.
fn is_secret_key(key: &str) -> bool {
    let last = key.rsplit(['_', '-']).next().unwrap_or(key);
    let ends = last.len().saturating_sub("apikey".len());
    let is_api_key = last
        .get(ends..)
        .is_some_and(|end| end.eq_ignore_ascii_case("apikey"));
    let is_secret = |word: &&str| word.eq_ignore_ascii_case(last);
    is_api_key || SECRET_WORDS.iter().any(is_secret)
}

/// Whether a text ends inside `{` or `[`.
fn in_flow(text: &[char]) -> bool {
    let count = |of: [char; 2]| text.iter().filter(|c| of.contains(c)).count();
    count(['{', '[']) > count(['}', ']'])
}

/// Masks a value: to the end of the line, or in a flow to the end of its entry.
/// A comment stays.
fn mask(shown: &mut [char], start: usize, flow: Option<bool>) {
    let mut quote = None;
    let mut depth = 0_usize;
    for index in start..shown.len() {
        let c = shown[index];
        match quote {
            Some(mark) if c == mark => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == '#' && index > 0 && shown[index - 1] == ' ' => return,
            None if matches!(c, '[' | '{') => depth += 1,
            None if matches!(c, ']' | '}') && depth > 0 => depth -= 1,
            None if flow == Some(true) && depth == 0 && matches!(c, ',' | '}' | ']') => return,
            None => {}
        }
        if !c.is_whitespace() && !matches!(c, '"' | '\'' | '[' | ']' | '{' | '}' | ',') {
            shown[index] = MASK;
        }
    }
}

/// Masks what stands before the `@` of a URL.
fn conceal_users(shown: &mut [char]) {
    let starts: Vec<usize> = places_of(shown, "://").map(|at| at + 3).collect();
    for start in starts {
        let inside = |c: &char| !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '"' | '\'');
        let length = shown[start..].iter().take_while(|c| inside(c)).count();
        let user = shown[start..start + length].iter().rposition(|c| *c == '@');
        if let Some(length) = user {
            shown[start..start + length].fill(MASK);
        }
    }
}

/// Masks what looks like a key of a known service. An id of a model has a slash.
fn conceal_known(shown: &mut [char]) {
    for beginning in SECRET_BEGINNINGS {
        let starts: Vec<usize> = places_of(shown, beginning).collect();
        for at in starts {
            let before = at.checked_sub(1).map(|before| shown[before]);
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/')) {
                continue;
            }
            let start = at + beginning.chars().count();
            let of_a_key = |c: &&char| c.is_ascii_alphanumeric() || "_-.+/=~".contains(**c);
            let key = shown[start..].iter().take(LONGEST);
            let length = key.take_while(of_a_key).count();
            let key = start..start + length;
            if length >= SHORTEST && !shown[key.clone()].contains(&'/') {
                shown[key].fill(MASK);
            }
        }
    }
}

/// Where a text stands in another, in characters.
fn places_of<'a>(text: &'a [char], wanted: &'a str) -> impl Iterator<Item = usize> + 'a {
    let wanted: Vec<char> = wanted.chars().collect();
    let mut at = 0;
    iter::from_fn(move || {
        let found = text
            .get(at..)?
            .windows(wanted.len())
            .position(|w| w == wanted)?;
        at += found + 1;
        Some(at - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_a_key_of_a_secret_is_not_shown() {
        let check = |given: &str, shown: &str| assert_eq!(line(given, None), shown, "{given}");
        check("    api_key: canary-12", "    api_key: *********");
        check(
            "api_key:  \"can ary\" # mine",
            "api_key:  \"*** ***\" # mine",
        );
        check("\"api-key\": canary", "\"api-key\": ******");
        check("apiKey: canary", "apiKey: ******");
        check("openaiApikey: canary", "openaiApikey: ******");
        check("keys: [canary, bird]", "keys: [******, ****]");
        check(
            "a: { token: canary, url: b }",
            "a: { token: ******, url: b }",
        );
        check(
            "a: {url: b, password: canary}",
            "a: {url: b, password: ******}",
        );
        check("- secret: {a: canary}", "- secret: {** ******}");
        check(
            "Authorization: Bearer canary",
            "Authorization: ****** ******",
        );
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        let check = |given: &str| assert_eq!(line(given, None), given);
        check("    max_tokens: maybe");
        check("    key_env: OPENAI_API_KEY");
        check("    key_file: /home/me/key");
        check("    url: https://api.example.com/v1");
        check("models: [mlx-community/sk-telecom-A.X-4bit, sk-telecom/A.X-4.0-Light]");
        check("keep: 10m # as long as: it takes");
        check("monkey: 3");
        check("");
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_shown() {
        let check = |given: &str, shown: &str| {
            assert_eq!(line(given, None), shown);
            assert_eq!(message(given), shown);
        };
        check("key_env: sk-canary-1234", "key_env: sk-***********");
        check("models: [\"sk-0123456789\"]", "models: [\"sk-**********\"]");
        check(
            "url: https://me:canary@a.b/v1",
            "url: https://*********@a.b/v1",
        );
        check("url: https://a.b/v1?x=me@c", "url: https://a.b/v1?x=me@c");
        check("found Bearer abcdefgh", "found Bearer ********");
    }

    #[test]
    fn a_line_full_of_keys_is_gone_through_once() {
        let given = format!("{{{}}}", "key: canary, ".repeat(50_000));
        assert!(!line(&given, None).contains("canary"));
        let given = ".sk-a".repeat(200_000) + "/";
        assert_eq!(line(&given, None).len(), given.len());
    }

    #[test]
    fn a_value_under_its_key_is_not_shown() {
        let check = |above: &str, shown: &str| assert_eq!(line("  canary", Some(above)), shown);
        check("api_key:", "  ******");
        check("  api_key: |", "  ******");
        check("  api_key: >-", "  ******");
        check("models:", "  canary");
    }
}
