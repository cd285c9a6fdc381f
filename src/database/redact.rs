//! Database URLs without their passwords, for messages, logs and `config show`.

const HIDDEN: &str = "***";
const SCHEMES: [&str; 2] = ["postgres", "postgresql"];

/// Replaces the password of a database URL by `***`, and leaves an SQLite URL as it is.
///
/// When in doubt it hides more: an `@` or `/` in a password that is not percent-encoded makes the host
/// uncertain, and then only the scheme is shown, as it is for other databases. After a `?password=` nothing of the query is shown.
///
/// ```
/// use larder::database::redact_url;
///
/// assert_eq!(redact_url("postgres://app:secret@db:5432/app"), "postgres://app:***@db:5432/app");
/// assert_eq!(redact_url("postgres://db/app?password=secret"), "postgres://db/app?password=***");
/// assert_eq!(redact_url("postgres://app:sec/ret@db/app"), "postgres://***");
/// assert_eq!(redact_url("sqlite://larder.db"), "sqlite://larder.db");
/// ```
#[must_use]
pub fn redact_url(url: &str) -> String {
    if has_scheme(url, "sqlite") {
        return url.to_owned();
    }
    // URL parsers drop these before they look for `password=`.
    let url: String = url.chars().filter(|c| !c.is_control()).collect();
    let url = url.trim();
    let Some((scheme, rest)) = url.split_once("://") else {
        let known = SCHEMES.iter().find(|scheme| has_scheme(url, scheme));
        return known.map_or(HIDDEN.into(), |scheme| format!("{scheme}:{HIDDEN}"));
    };
    if !is_scheme(scheme) {
        return HIDDEN.into();
    }
    let known = SCHEMES
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    let rest = known.then(|| redact_rest(rest)).flatten();
    format!("{scheme}://{}", rest.as_deref().unwrap_or(HIDDEN))
}

/// What follows `://`, or nothing where it is uncertain which part of it is the password.
fn redact_rest(rest: &str) -> Option<String> {
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, query) = tail.split_at(tail.find(['?', '#']).unwrap_or(tail.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let may_be_userinfo = |text: &str| {
        text.contains('@') || contains_encoded(text, "%40") || contains_encoded(text, "%3a")
    };
    if tail.contains('@')
        || may_be_userinfo(host)
        || may_be_userinfo(path)
        || !has_numeric_port(host)
    {
        return None;
    }
    let user = match user.map(|user| user.split_once(':').ok_or(user)) {
        None => String::new(),
        Some(Ok((user, _password))) => format!("{user}:{HIDDEN}@"),
        Some(Err(user)) if contains_encoded(user, "%3a") => format!("{HIDDEN}@"),
        Some(Err(user)) => format!("{user}@"),
    };
    Some(format!("{user}{host}{path}{}", redact_query(query)))
}

/// Shows the parameters before the first one that looks like a secret, and that one's name.
fn redact_query(query: &str) -> String {
    let mut shown = String::new();
    for parameter in query.split_inclusive(['?', '&', ';', '#']) {
        let decoded = decode(parameter).to_lowercase();
        if ["pass", "pwd", "secret", "token"]
            .iter()
            .any(|word| decoded.contains(word))
        {
            let name = parameter.split_once('=').map(|(name, _value)| name);
            shown += &name.map_or(HIDDEN.into(), |name| format!("{name}={HIDDEN}"));
            break;
        }
        shown += parameter;
    }
    shown
}

fn has_scheme(url: &str, scheme: &str) -> bool {
    let start = url.split_once(':').map(|(start, _)| start);
    start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// Tells a host from `user:password` whose `@` is missing; brackets hold an IPv6 address.
fn has_numeric_port(host: &str) -> bool {
    let after_address = match host.strip_prefix('[') {
        Some(address) => match address.split_once(']') {
            Some((address, port))
                if address
                    .chars()
                    .all(|c| c.is_ascii_hexdigit() || ":.".contains(c)) =>
            {
                port
            }
            _ => return false,
        },
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    match after_address.strip_prefix(':') {
        Some(port) => port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit()),
        None => after_address.is_empty(),
    }
}

fn contains_encoded(text: &str, encoded: &str) -> bool {
    text.to_ascii_lowercase().contains(encoded)
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let encoded = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match encoded {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_password_of_a_plain_url_is_hidden() {
        for (url, shown) in [
            ("postgres://u:pw@h/db", "postgres://u:***@h/db"),
            (
                "postgresql://u:p%40w@h:5432/db?sslmode=require",
                "postgresql://u:***@h:5432/db?sslmode=require",
            ),
            (
                "postgres://u:p:w@[::1]:5432/db",
                "postgres://u:***@[::1]:5432/db",
            ),
            ("postgres://u:p@w@h/db", "postgres://u:***@h/db"),
            (
                "postgres://u%40tenant:pw@h/db",
                "postgres://u%40tenant:***@h/db",
            ),
            ("postgres://:pw@h/db", "postgres://:***@h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://h:5432/db", "postgres://h:5432/db"),
            (
                "postgres:///db?host=/run/postgresql&user=me",
                "postgres:///db?host=/run/postgresql&user=me",
            ),
            (
                "postgres://u:pw@%2Frun%2Fpostgresql/db",
                "postgres://u:***@%2Frun%2Fpostgresql/db",
            ),
            (
                "postgres://h/db?user=u&password=pw&sslmode=off",
                "postgres://h/db?user=u&password=***",
            ),
            ("mysql://u:pw@h/db", "mysql://***"),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }

    #[test]
    fn sqlite_urls_are_unchanged() {
        for url in [
            "sqlite://larder.db",
            "sqlite::memory:",
            "sqlite:///srv/a@b:c.db?mode=rwc",
            "SQLite://x",
        ] {
            assert_eq!(redact_url(url), url);
        }
    }

    #[test]
    fn odd_urls_do_not_give_the_password_away() {
        for url in [
            "HUNTER2",
            "u:HUNTER2@h/db",
            "postgres:u:HUNTER2@h/db",
            "postgres:/u:HUNTER2@h/db",
            "postgres//u:HUNTER2@h",
            "://u:HUNTER2@h",
            "postgres://u:HUNTER2",
            "postgres://u:SEC/HUNTER2",
            "postgres://u:12/HUNTER2@h/db",
            "postgres://u:12?HUNTER2@h/db",
            "postgres://u:12#HUNTER2@h/db",
            "postgres://u:a@b/HUNTER2@h/db",
            "postgres://u:a/HUNTER2@b@h/db",
            "postgres://u%3AHUNTER2%40h/db",
            "postgres://u%3aHUNTER2@h/db",
            "postgres://u:x%40HUNTER2",
            "postgres://u:1/HUNTER2%40h/db",
            "postgres://h/db?password=a@HUNTER2",
            "postgres://h/db?p%61ssword=HUNTER2",
            "postgres://h/db?p\tassword=HUNTER2",
            "postgres://h/db?PASSWORD=HUNTER2",
            "postgres://h/db?password=a&HUNTER2",
            "postgres://h/db?password=a&HUNTER2=b",
            "postgres://h/db?password=a#HUNTER2",
            "postgres://h/db#password=HUNTER2",
            "postgres://h/db?a=b;password=HUNTER2",
            "postgres://h/db?options=-cpassword%3DHUNTER2",
            "postgres://[u:HUNTER2@h",
            "postgres://[u:HUNTER2]/db",
            "postgres ://u:HUNTER2@h",
            " postgres://u:HUNTER2@h",
            "\npostgres://u:HUNTER2@h",
            "host=h password=HUNTER2",
            "postgres://u:h1:5432,HUNTER2:5432/db",
            "jdbc:postgresql://h/db?password=HUNTER2",
            "pass://word:HUNTER2@x",
        ] {
            let shown = redact_url(url);
            assert!(!shown.contains("HUNTER2"), "{url} -> {shown}");
        }
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(
            scheme in "postgres://|postgresql://|mysql://|postgres:|",
            user in "[a-z%@:]{0,6}",
            before in "[-a-z0-9@:/?#&=%;\\[\\] ]{0,8}",
            after in "\\PC{0,8}",
            database in "/[a-z]{0,5}(\\?sslmode=require)?",
        ) {
            let url = format!("{scheme}{user}:{before}HUNTER2{after}@host:5432{database}");
            let shown = redact_url(&url);
            prop_assert!(!shown.contains("HUNTER2"), "{} -> {}", url, shown);
        }

        #[test]
        fn redacting_twice_changes_nothing_more(url in "(postgres://)?[-a-z0-9@:/?#&=%;*]{0,24}") {
            let once = redact_url(&url);
            prop_assert_eq!(redact_url(&once), once);
        }
    }
}
