//! `[commands.NAME]`: what jobs may run.

use super::*;
use larder::command::Commands;

const REPORT: &str = "[commands.nightly-report]\nargv = [\"python3\", \"report.py\"]\n";

#[test]
fn a_command_is_its_arguments_and_how_it_runs() {
    let given = Given::file(format!(
        "{REPORT}timeout = \"10m\"\nfresh_for = 3600\nstale_for = \"2d\"\nmax_output = \"2MiB\"\n[commands.\"say hi\"]\nargv = [\"hi\"]\n"
    ));
    let settings = given.load(&[]).unwrap().settings;
    let report = &settings.commands["nightly-report"];
    assert_eq!(report.argv, ["python3", "report.py"]);
    assert_eq!(report.timeout, Some(Duration::from_secs(600)));
    assert_eq!(report.fresh_for, Some(Duration::from_secs(3_600)));
    assert_eq!(report.stale_for, Some(Duration::from_secs(2 * 86_400)));
    assert_eq!(report.max_output, 2 << 20);
    assert_eq!(report.directory, given.directory.path());
    let plain = &settings.commands["say hi"];
    assert_eq!(
        (plain.timeout, plain.fresh_for, plain.stale_for),
        (None, None, None)
    );
    assert_eq!(plain.max_output, 1 << 20);
    let commands = Commands::new(settings.commands());
    let report = commands.get("nightly-report").unwrap();
    assert_eq!(report.fresh_for(), Some(Duration::from_secs(3_600)));
    assert_eq!(report.stale_for(), Duration::from_secs(2 * 86_400));
    let plain = commands.get("say hi").unwrap();
    assert_eq!(
        (plain.fresh_for(), plain.stale_for()),
        (None, Duration::ZERO)
    );
    let unknown = commands.get("nightly").unwrap_err().to_string();
    assert!(
        unknown.contains("choose one of nightly-report, say hi"),
        "{unknown}"
    );
}

#[test]
fn what_is_shown_reads_back() {
    let text = format!("{REPORT}timeout = \"10m\"\nfresh_for = \"1h\"\nstale_for = \"1d\"\n");
    let shown = settings(&text).to_toml();
    let expected = "[commands.nightly-report]\nargv = [\"python3\", \"report.py\"]\ntimeout = \"10m\"\n\
                    fresh_for = \"1h\"\nstale_for = \"1d\"\nmax_output = \"1MiB\"\n";
    assert!(shown.ends_with(expected), "{shown}");
    let mut back = settings(&shown);
    let mut first = settings(&text);
    for settings in [&mut back, &mut first] {
        for command in settings.commands.values_mut() {
            command.directory = PathBuf::new();
        }
    }
    assert_eq!(back, first);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_is_expected() {
    const ARGV: &str = "expected the program and its arguments, such as [\"python3\", \"report.py\"]; there is no shell";
    for (text, message) in [
        (
            "[commands.a]\n",
            format!("command `a` in larder.toml:1 has no `argv`: {ARGV}"),
        ),
        (
            "[commands.a]\nargv = 'ls -l'",
            format!("`commands.a.argv` is \"ls -l\" in larder.toml:2: {ARGV}"),
        ),
        (
            "[commands.a]\nargv = []",
            format!("`commands.a.argv` is an array in larder.toml:2: {ARGV}"),
        ),
        (
            "[commands.a]\nargv = ['', 'x']",
            format!("`commands.a.argv` is an array in larder.toml:2: {ARGV}"),
        ),
        (
            "[commands.a]\nargv = ['ls', 1]",
            format!("`commands.a.argv` is an array in larder.toml:2: {ARGV}"),
        ),
        (
            "[commands.a]\nargv = ['ls', \"\\u0000\"]",
            "`commands.a.argv` is an array in larder.toml:2: no argument can hold a NUL".to_owned(),
        ),
        (
            "[commands.a]\nargv = ['ls']\ntimeout = 0",
            "`commands.a.timeout` is 0 in larder.toml:3: expected at least 1ms".to_owned(),
        ),
        (
            "[commands.a]\nargv = ['ls']\nfresh_for = '1 year'",
            "`commands.a.fresh_for` is \"1 year\" in larder.toml:3: ".to_owned(),
        ),
        (
            "[commands.a]\nargv = ['ls']\nfresh_for = '1h'\nstale_for = 0",
            "`commands.a.stale_for` is 0 in larder.toml:4: expected at least 1ms".to_owned(),
        ),
        (
            "[commands.a]\nargv = ['ls']\nstale_for = '1h'",
            "command `a` in larder.toml:1 has `stale_for` and no `fresh_for`: ".to_owned(),
        ),
        (
            "[commands.a]\nargv = ['ls']\nmax_output = 0",
            "`commands.a.max_output` is 0 in larder.toml:3: expected 1B to ".to_owned(),
        ),
        (
            "[commands.a]\nargs = ['ls']",
            "unknown key `commands.a.args` in larder.toml:2: did you mean `argv`?".to_owned(),
        ),
        (
            "[commands]\nargv = ['ls']",
            "`commands.argv` is an array in larder.toml:2: expected a section, [commands.argv]"
                .to_owned(),
        ),
        (
            "[command.a]\nargv = ['ls']",
            "unknown section `command` in larder.toml:1: did you mean `commands`?".to_owned(),
        ),
        (
            "[commands.\"\"]\nargv = ['ls']",
            "\"\" cannot name a command in larder.toml:1: expected 1 to 255 bytes".to_owned(),
        ),
    ] {
        let error = error(text);
        assert!(error.starts_with(&message), "{text}\n{error}\n{message}");
    }
}

#[test]
fn the_environment_changes_how_a_command_runs_and_never_what_runs() {
    let given = Given::file(REPORT);
    let env = [
        ("LARDER_COMMANDS__NIGHTLY_REPORT__TIMEOUT", "5s"),
        ("LARDER_COMMANDS__NIGHTLY_REPORT__MAX_OUTPUT", "1kB"),
    ];
    let report = &given.load(&env).unwrap().settings.commands["nightly-report"];
    assert_eq!(report.timeout, Some(Duration::from_secs(5)));
    assert_eq!(report.max_output, 1_000);

    let argv = given.load(&[("LARDER_COMMANDS__NIGHTLY_REPORT__ARGV", "[\"sh\"]")]);
    assert_eq!(
        argv.unwrap_err(),
        "LARDER_COMMANDS__NIGHTLY_REPORT__ARGV is \"[\\\"sh\\\"]\": the settings file alone says what may run: write it there"
    );
    for key in ["ARGV", "TIMEOUT"] {
        let name = format!("LARDER_COMMANDS__OTHER__{key}");
        assert_eq!(
            given.load(&[(&name, "1s")]).unwrap_err(),
            format!(
                "there is no command `other` in {name}: expected [commands.other] in the settings file, which alone says what may run"
            )
        );
    }
}

#[test]
fn what_a_command_is_told_of_its_job_is_no_misspelt_setting() {
    let told = [
        ("LARDER_JOB_ID", "x"),
        ("LARDER_JOB_ATTEMPT", "1"),
        ("LARDER_JOB_SCHEDULE", "x"),
        ("LARDER_JOB_TICK", "x"),
    ];
    assert_eq!(from_environment(&told).warnings, Vec::<String>::new());
    let other = from_environment(&[("LARDER_JOB_TIK", "1")]).warnings;
    assert_eq!(other.len(), 1, "{other:?}");
}
