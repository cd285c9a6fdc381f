//! `[fetch]`: how URLs are fetched.

use super::*;
use larder::fetch::{AllowPrivate, FetchOptions};

#[test]
fn every_key_is_read_and_the_defaults_are_those_of_the_library() {
    assert_eq!(settings("").fetch.options(), FetchOptions::default());
    let text = "[fetch]\nmax_bytes = \"1MiB\"\nmax_redirects = 0\ntimeout = \"1m\"\nconnect_timeout = 2\n\
        allow_private = [\"10.0.0.0/8\", \"::1\", \"intranet.example.com\"]\nfresh_for = \"0s\"\nkeep_for = \"1d\"\n";
    let read = settings(text);
    let options = read.fetch.options();
    assert_eq!((options.max_bytes, options.max_redirects), (1 << 20, 0));
    assert_eq!(options.timeout, Duration::from_secs(60));
    assert_eq!(options.connect_timeout, Duration::from_secs(2));
    assert_eq!(options.fresh_for, Duration::ZERO);
    assert_eq!(options.keep_for, Duration::from_secs(86_400));
    let allowed = ["10.0.0.0/8", "::1", "intranet.example.com"];
    assert_eq!(options.allow_private, AllowPrivate::these(allowed).unwrap());
    assert_eq!(settings(&read.to_toml()), read, "{}", read.to_toml());
}

#[test]
fn private_addresses_are_all_none_or_some_in_the_file_and_the_environment() {
    let some = AllowPrivate::these(["10.0.0.0/8", "a.test"]).unwrap();
    for (file, variable, expected) in [
        ("true", "true", AllowPrivate::All),
        ("false", "false", AllowPrivate::None),
        ("[]", "", AllowPrivate::None),
        ("['10.0.0.0/8', 'a.test']", "10.0.0.0/8, a.test", some),
    ] {
        let read = settings(&format!("[fetch]\nallow_private = {file}")).fetch;
        let given = from_environment(&[("LARDER_FETCH__ALLOW_PRIVATE", variable)]);
        let address = "192.168.0.1".parse().unwrap();
        assert_eq!(
            read.allow_private.allows("h", address),
            expected == AllowPrivate::All
        );
        if file != "[]" {
            assert_eq!(
                (&read.allow_private, &given.settings.fetch.allow_private),
                (&expected, &expected)
            );
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_is_expected() {
    const SHAPE: &str = "expected true, false, or networks, addresses and hosts, such as [\"10.0.0.0/8\", \"intranet.example.com\"]";
    for (line, message) in [
        (
            "max_bytes = 0",
            "`fetch.max_bytes` is 0 in larder.toml:2: expected 1B to 1000000000B".to_owned(),
        ),
        (
            "max_redirects = 51",
            "`fetch.max_redirects` is 51 in larder.toml:2: expected a whole number from 0 to 50"
                .to_owned(),
        ),
        (
            "timeout = 0",
            "`fetch.timeout` is 0 in larder.toml:2: expected at least 1ms".to_owned(),
        ),
        (
            "connect_timeout = 'soon'",
            "`fetch.connect_timeout` is \"soon\" in larder.toml:2: ".to_owned(),
        ),
        (
            "fresh_for = -1",
            "`fetch.fresh_for` is -1 in larder.toml:2: ".to_owned(),
        ),
        (
            "allow_private = 'yes'",
            format!("`fetch.allow_private` is \"yes\" in larder.toml:2: {SHAPE}"),
        ),
        (
            "allow_private = [1]",
            format!("`fetch.allow_private` is an array in larder.toml:2: {SHAPE}"),
        ),
        (
            "allow_private = ['10.0.0.0/33']",
            format!(
                "`fetch.allow_private` is an array in larder.toml:2: \"10.0.0.0/33\" has no length of 0 to 32 after its slash; {SHAPE}"
            ),
        ),
        (
            "allow_privat = true",
            "unknown key `fetch.allow_privat` in larder.toml:2: did you mean `allow_private`?"
                .to_owned(),
        ),
    ] {
        let error = error(&format!("[fetch]\n{line}"));
        assert!(error.starts_with(&message), "{line}\n{error}\n{message}");
    }
    let error = error_from_environment(&[("LARDER_FETCH__ALLOW_PRIVATE", "10.0.0.0/8,*")]);
    assert_eq!(
        error,
        format!(
            "LARDER_FETCH__ALLOW_PRIVATE is \"10.0.0.0/8,*\": \"*\" is no network (10.0.0.0/8), no address, and no name of a host; {SHAPE}"
        )
    );
}
