//! The command line of the real binary: the effect of every option, as an argument and as an environment variable; the
//! messages about invalid values; and that a process that cannot start exits at once.

mod support;

use std::{
    ffi::OsString,
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::ffi::OsStringExt,
    process::Command,
    thread,
    time::Duration,
};

use ::psystrike::config::options::{Fallback, Opt};
use support::{
    LIMIT,
    http::{Client, End},
    pods::{Pod, Then, Unanswering},
    poll,
    program::{Program, Signal},
    psystrike::{self, Ended, Psystrike, run},
    require_working,
};

/// An option that takes a value.
struct Setting {
    option: &'static str,
    value: &'static str,
    /// The value of the variable when the option overrides it.
    other: &'static str,
    /// Other arguments that are needed to observe it.
    with: &'static [&'static str],
    /// Whether `value` is in effect.
    in_force: fn(&Psystrike) -> bool,
}

const LOOPBACK: &[&str] = &["--allow", "127.0.0.0/8"];

const SETTINGS: &[Setting] = &[
    Setting {
        option: "--listen",
        value: "127.21.0.1:0",
        other: "127.21.0.2:0",
        with: &[],
        in_force: |psystrike| psystrike.address().ip() == IpAddr::from([127, 21, 0, 1]),
    },
    Setting {
        option: "--workers",
        value: "3",
        other: "2",
        with: &[],
        in_force: |psystrike| poll("worker threads", || workers(psystrike), |workers| *workers == 3) == 3,
    },
    Setting {
        option: "--allow-clients",
        value: "127.0.0.1",
        other: "127.0.0.2",
        with: &[],
        in_force: |psystrike| psystrike.get("/healthz").status() == 200,
    },
    Setting {
        option: "--allow",
        value: "127.0.0.0/8",
        other: "127.0.0.9/32",
        with: &[],
        in_force: |psystrike| scrape(psystrike, "127.21.1.1") == (200, "OK".into()),
    },
    Setting {
        option: "--deny",
        value: "127.21.0.0/16",
        other: "127.22.0.0/16",
        with: LOOPBACK,
        in_force: |psystrike| {
            scrape(psystrike, "127.21.1.1") == (403, "destination not allowed".into())
                && scrape(psystrike, "127.22.1.1").0 == 200
        },
    },
    Setting {
        option: "--allow-ports",
        value: "1-1023",
        other: "1-65535",
        with: LOOPBACK,
        in_force: |psystrike| scrape(psystrike, "127.21.1.1") == (403, "destination port not allowed".into()),
    },
    Setting {
        option: "--allow-names",
        value: "localhost,svc",
        other: "invalid",
        with: LOOPBACK,
        in_force: |psystrike| psystrike.get("/pods/a.invalid/80/m").reason() == "name not allowed",
    },
    Setting {
        option: "--resolve-ttl",
        value: "0s",
        other: "1h",
        with: &["--log-level", "debug"],
        in_force: |psystrike| {
            let refused = || psystrike.get("/pods/localhost/80/m").reason();
            [refused(), refused()].iter().all(|reason| reason == "name resolves to no allowed address")
                && psystrike.wait_for_lines("looking up a name\" name=localhost", 2).len() == 2
        },
    },
    Setting {
        option: "--timeout",
        value: "170ms",
        other: "9s",
        with: LOOPBACK,
        in_force: |psystrike| scrape_silent(psystrike, "") == "no response from the pod within 170ms",
    },
    Setting {
        option: "--timeout-max",
        value: "180ms",
        other: "9s",
        with: LOOPBACK,
        in_force: |psystrike| {
            scrape_silent(psystrike, "X-Prometheus-Scrape-Timeout-Seconds: 5\r\n")
                == "no response from the pod within 180ms"
        },
    },
    Setting {
        option: "--connect-timeout",
        value: "190ms",
        other: "9s",
        with: LOOPBACK,
        in_force: |psystrike| {
            let pod = Unanswering::on("127.21.1.2");
            let answer = psystrike.get(&Psystrike::target(pod.address(), ""));
            answer.reason() == "pod did not accept the connection within 190ms"
        },
    },
    Setting {
        option: "--header-timeout",
        value: "160ms",
        other: "9s",
        with: &[],
        in_force: |psystrike| {
            let mut client = psystrike.client();
            client.send("GET / HT");
            let answer = client.response().expect("a response with the reason");
            (answer.status(), answer.reason().as_str()) == (408, "request headers not received within 160ms")
        },
    },
    Setting {
        option: "--client-idle-timeout",
        value: "150ms",
        other: "1h",
        with: &[],
        in_force: |psystrike| {
            let mut client = psystrike.client();
            client.get("/healthz");
            client.rest(Duration::from_secs(2)) == (Vec::new(), End::Eof)
        },
    },
    Setting {
        option: "--upstream-idle-timeout",
        value: "150ms",
        other: "1h",
        with: LOOPBACK,
        in_force: |psystrike| {
            let pod = Pod::answering("127.21.1.3", ANSWER, Then::Keep);
            psystrike.get(&Psystrike::target(pod.address(), ""));
            pod.wait_for("the end of its pooled connection", |seen| seen.ended == 1).accepted == 1
        },
    },
    Setting {
        option: "--clients-max",
        value: "17",
        other: "18",
        with: &[],
        in_force: |psystrike| psystrike.metric("psystrike_client_connections_max") == 17.0,
    },
    Setting {
        option: "--upstreams-idle-max",
        value: "0",
        other: "18",
        with: &[],
        in_force: |psystrike| psystrike.metric("psystrike_pod_connections_idle_max") == 0.0,
    },
    Setting {
        option: "--shutdown-delay",
        value: "167h",
        other: "0s",
        with: &[],
        in_force: |psystrike| {
            psystrike.signal(Signal::TERM);
            psystrike.wait_for_line("serving for another").ends_with(" 601200s\"")
        },
    },
    Setting {
        option: "--shutdown-timeout",
        value: "11ms",
        other: "2s",
        with: &[],
        in_force: |psystrike| {
            psystrike.signal(Signal::TERM);
            psystrike.wait_for_line("waiting up to").contains(" 11ms ")
        },
    },
];

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nup 1\n";

fn workers(psystrike: &Psystrike) -> usize {
    psystrike.process().threads().iter().filter(|name| name.starts_with("worker-")).count()
}

/// The status and the reason phrase of a scrape of a pod that answers.
fn scrape(psystrike: &Psystrike, pod: &str) -> (u16, String) {
    let pod = Pod::answering(pod, ANSWER, Then::Keep);
    let answer = psystrike.get(&Psystrike::target(pod.address(), "/metrics"));
    (answer.status(), answer.reason())
}

/// Returns the reason phrase of a scrape of a pod that accepts the connection and never responds.
fn scrape_silent(psystrike: &Psystrike, field: &str) -> String {
    let pod = Pod::serve("127.21.1.4", |_, client| {
        client.take_rest(LIMIT);
        Ok(Then::Close)
    });
    let mut client = psystrike.client();
    let target = Psystrike::target(pod.address(), "/metrics");
    client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{field}\r\n"));
    let answer = client.response().expect("a whole answer");
    assert_eq!(answer.status(), 504);
    answer.reason()
}

/// Returns the environment variable of an option.
fn variable(option: &str) -> String {
    format!("PSYSTRIKE_{}", option.trim_start_matches("--").replace('-', "_").to_uppercase())
}

#[test]
fn every_option_has_its_effect_as_an_argument_and_as_a_variable() {
    thread::scope(|scope| SETTINGS.iter().for_each(|setting| drop(scope.spawn(|| check_setting(setting)))));
}

fn check_setting(&Setting { option, value, other, with, in_force }: &Setting) {
    let joined = format!("{option}={value}");
    let variable = variable(option);
    for (arguments, variables) in [
        (&[option, value][..], &[][..]),
        (&[&joined], &[(variable.as_str(), other)]),
        (&[], &[(variable.as_str(), value)]),
    ] {
        let psystrike = Psystrike::start_with_env(&[with, arguments].concat(), variables);
        assert!(in_force(&psystrike), "{arguments:?} with {variables:?}; {}", psystrike.stderr());
    }
}

#[test]
fn the_access_log_is_enabled_by_a_flag_or_a_variable() {
    for (arguments, value, expected) in [
        (&["--access-log"][..], "", true),
        (&["--access-log"], "false", true),
        (&[], "true", true),
        (&[], "1", true),
        (&[], "false", false),
        (&[], "0", false),
        (&[], "", false),
    ] {
        let mut psystrike = Psystrike::start_with_env(arguments, &[("PSYSTRIKE_ACCESS_LOG", value)]);
        psystrike.get("/pods/127.21.9.9/80/metrics");
        psystrike.terminate(LIMIT);
        let logged = psystrike.stderr().contains("msg=scrape ");
        assert_eq!(logged, expected, "{arguments:?} with {value:?}; {}", psystrike.stderr());
    }
}

#[test]
fn the_log_level_selects_the_lines() {
    let dead = "127.21.2.1:1".parse().expect("an address");
    for (level, info, warn) in
        [("off", false, false), ("error", false, false), ("WARN", false, true), ("debug", true, true)]
    {
        for (arguments, value) in [(&["--log-level", level][..], "off"), (&[], level)] {
            let mut command = psystrike::command();
            command.args(["--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8"]).args(arguments);
            let mut program = Program::start(command.env("PSYSTRIKE_LOG_LEVEL", value));
            let address = program.process().wait_for_listeners(1)[0];
            assert_eq!(Client::connect(address).get(&Psystrike::target(dead, "/")).status(), 502);
            program.signal(Signal::TERM);
            assert!(program.wait(LIMIT).success());
            let log = program.stderr();
            let found = (log.contains(" level=info "), log.contains(" level=warn "));
            assert_eq!(found, (info, warn), "{arguments:?} with {value:?}: {log}");
        }
    }
}

#[test]
fn lists_are_repeated_options_or_comma_separated_variables() {
    let pods: Vec<Pod> =
        ["127.21.3.1", "127.21.3.2", "127.21.3.3"].map(|ip| Pod::answering(ip, ANSWER, Then::Keep)).into();
    let statuses = |psystrike: &Psystrike| -> Vec<u16> {
        pods.iter().map(|pod| psystrike.get(&Psystrike::target(pod.address(), "/")).status()).collect()
    };
    let [first, second, third] = [0, 1, 2].map(|at| pods[at].address().port().to_string());
    let two_ports = format!("{first}, {third}-{third}");
    for (arguments, variables, expected) in [
        (&["--allow", "127.21.3.1", "--allow=127.21.3.2/32"][..], &[][..], [200, 200, 403]),
        (&["--allow", "127.21.3.1,127.21.3.2"], &[], [200, 200, 403]),
        (&[], &[("PSYSTRIKE_ALLOW", "127.21.3.1, 127.21.3.3")], [200, 403, 200]),
        (&["--allow", "127.21.3.2"], &[("PSYSTRIKE_ALLOW", "127.21.3.1")], [403, 200, 403]),
        (&["--allow", "127.21.3.0/24", "--deny", "127.21.3.1", "--deny", "127.21.3.2"], &[], [403, 403, 200]),
        (&["--allow", "127.21.3.0/24"], &[("PSYSTRIKE_DENY", "127.21.3.2,127.21.3.3")], [200, 403, 403]),
        (&["--allow", "127.21.3.0/24"], &[("PSYSTRIKE_ALLOW_PORTS", &two_ports)], [200, 403, 200]),
        (&["--allow", "127.21.3.0/24", "--allow-ports", &second], &[], [403, 200, 403]),
        (&[], &[], [403, 403, 403]),
    ] {
        let psystrike = Psystrike::start_with_env(arguments, variables);
        assert_eq!(statuses(&psystrike), expected, "{arguments:?} with {variables:?}");
    }

    let mut two = psystrike::command();
    let program = Program::start(two.env("PSYSTRIKE_LISTEN", "127.21.3.4:0,127.21.3.5:0"));
    let mut ips: Vec<_> = program.process().wait_for_listeners(2).iter().map(SocketAddr::ip).collect();
    ips.sort();
    assert_eq!(ips, [IpAddr::from([127, 21, 3, 4]), IpAddr::from([127, 21, 3, 5])]);
}

#[test]
fn empty_and_foreign_variables_are_ignored() {
    let options = SETTINGS.iter().map(|setting| setting.option).chain(["--log-level", "--access-log"]);
    let empty: Vec<String> = options.filter(|option| *option != "--listen").map(variable).collect();
    let empty = empty.iter().map(|name| (name.as_str(), ""));
    // Kubernetes sets these in every pod of a namespace with a Service named psystrike.
    let kubernetes = [
        ("PSYSTRIKE_PORT", "tcp://10.0.0.11:8080"),
        ("PSYSTRIKE_PORT_8080_TCP", "tcp://10.0.0.11:8080"),
        ("PSYSTRIKE_PORT_8080_TCP_ADDR", "10.0.0.11"),
        ("PSYSTRIKE_PORT_8080_TCP_PORT", "8080"),
        ("PSYSTRIKE_PORT_8080_TCP_PROTO", "tcp"),
        ("PSYSTRIKE_SERVICE_HOST", "10.0.0.11"),
        ("PSYSTRIKE_SERVICE_PORT", "8080"),
        ("PSYSTRIKE_SERVICE_PORT_METRICS", "8080"),
    ];
    let variables: Vec<_> = empty.chain(kubernetes).collect();
    let psystrike = Psystrike::start_with_env(&[], &variables);
    assert_eq!(psystrike.get("/readyz").status(), 200);
    psystrike.wait_for_line("allowed destinations");
    assert!(!psystrike.stderr().contains("level=warn"), "{}", psystrike.stderr());

    let Ended { status, stderr, .. } =
        run(&["--listen", "nonsense"], &[("PSYSTRIKE_LISTEN", ""), ("PSYSTRIKE_PORT", "x")]);
    assert_eq!(status.code(), Some(2), "{stderr}");
}

#[test]
fn a_misspelled_variable_is_logged() {
    let misspelled = ["PSYSTRIKE_ALOW", "PSYSTRIKE_DENNY", "PSYSTRIKE_ALLOW_PORT", "PSYSTRIKE_HEALTHCHECK"];
    let variables = misspelled.map(|name| (name, "8080"));
    let variables = [&variables[..], &[("PSYSTRIKE_DENY", "10.0.0.1")]].concat();
    let psystrike = Psystrike::start_with_env(&[], &variables);
    psystrike.wait_for_line("allowed destinations"); // this line is logged after it
    let said = psystrike.stderr();
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("level=warn")).collect();
    assert_eq!(warnings.len(), misspelled.len(), "{said}");
    for name in misspelled {
        assert!(
            warnings
                .iter()
                .any(|line| line.contains(&format!("ignoring unknown environment variable {name}; "))),
            "{said}"
        );
    }
}

#[test]
fn help_has_every_option_with_its_default() {
    for name in ["--help", "-h"] {
        let Ended { status, stdout, stderr } = run(&[name], &[]);
        assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
        for option in Opt::ALL {
            let short = option.short().map(|short| format!("{short}, ")).unwrap_or_default();
            let name = format!("\n  {short}{} {}", option.name(), option.kind().placeholder());
            let (_, after) =
                stdout.split_once(name.trim_end()).unwrap_or_else(|| panic!("no {name:?} in {stdout}"));
            let about = after.split("\n  -").next().unwrap_or_default();
            let about = about.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Fallback::Value(default) = option.default() {
                let default = format!("[default: {}]", default.replace(',', ", "));
                assert!(about.contains(&default), "{name:?}: no {default:?} in {about:?}");
            }
        }
        assert!(stdout.contains("PSYSTRIKE_CONNECT_TIMEOUT"), "variables are mentioned");
    }
}

#[test]
fn version_gives_version_and_revision() {
    let Ended { status, stdout, stderr } = run(&["--version"], &[]);
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    let revision = stdout.strip_prefix(concat!("psystrike ", env!("CARGO_PKG_VERSION"), " ("));
    let revision = revision.and_then(|rest| rest.strip_suffix(")\n")).unwrap_or_else(|| panic!("{stdout:?}"));
    assert!(!revision.is_empty() && !revision.contains(char::is_whitespace), "{stdout:?}");
}

#[test]
fn help_and_version_never_panic_without_a_reader() {
    for option in ["--help", "--version"] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full exists");
        let output = psystrike::command().arg(option).stdout(full).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code <= 2), "{option}: {}: {stderr}", output.status);
        assert!(!stderr.contains("panic"), "{option}: {stderr}");
    }
    let full = File::options().write(true).open("/dev/full").expect("/dev/full exists");
    let status = psystrike::command().arg("--nonsense").stderr(full).status().expect("it starts");
    assert_eq!(status.code(), Some(2), "a usage error that cannot be printed");
}

#[test]
fn an_idle_timeout_that_is_too_short_is_warned_of_once() {
    let mut psystrike = Psystrike::start_with_env(&[], &[("PSYSTRIKE_CLIENT_IDLE_TIMEOUT", "1m")]);
    assert!(psystrike.terminate(LIMIT).success());
    let log = psystrike.stderr();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains(" level=warn ")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains(" msg=\"PSYSTRIKE_CLIENT_IDLE_TIMEOUT 60s: Prometheus keeps "), "{log}");
}

#[test]
fn a_usage_error_is_one_line_and_ends_the_process() {
    for (arguments, variables, expected) in [
        (&["--timeout", "9"][..], &[][..], &["--timeout", "\"9\"", "500ms"][..]),
        (&["--timeout=-1s"], &[], &["--timeout", "\"-1s\"", "500ms"]),
        (&["--timeout", "0s"], &[], &["--timeout", "\"0s\"", "above zero"]),
        (&["--timeout-max", "1.5s"], &[], &["--timeout-max", "\"1.5s\"", "500ms"]),
        (&["--connect-timeout", "1d"], &[], &["--connect-timeout", "\"1d\"", "500ms"]),
        (&["--header-timeout", "0ms"], &[], &["--header-timeout", "\"0ms\"", "above zero"]),
        (&["--client-idle-timeout", "soon"], &[], &["--client-idle-timeout", "\"soon\"", "500ms"]),
        (&["--upstream-idle-timeout", "999999h"], &[], &["--upstream-idle-timeout", "168h"]),
        (&["--shutdown-delay", " 1s"], &[], &["--shutdown-delay", "\" 1s\"", "500ms"]),
        (&["--shutdown-timeout", "1 s"], &[], &["--shutdown-timeout", "\"1 s\"", "500ms"]),
        (&["--timeout"], &[], &["--timeout", "value"]),
        (&["--timeout="], &[], &["--timeout", "value"]),
        (&["--timeout", "1s", "--timeout", "2s"], &[], &["--timeout", "more than once"]),
        (&["--timeout", "--access-log"], &[], &["--timeout", "\"--access-log\"", "500ms"]),
        (&[], &[("PSYSTRIKE_TIMEOUT", "x")], &["PSYSTRIKE_TIMEOUT", "\"x\"", "500ms"]),
        (&["--listen", "8080"], &[], &["--listen", "\"8080\"", "0.0.0.0:8080"]),
        (&["--listen", "localhost:8080"], &[], &["--listen", "\"localhost:8080\"", "[::]:8080"]),
        (&["--listen", "127.0.0.1:65536"], &[], &["--listen", "\"127.0.0.1:65536\"", "[::]:8080"]),
        (&["--listen", "127.0.0.1:0,,"], &[], &["--listen", "\"\"", "[::]:8080"]),
        (&["--allow", "10.0.0.1/8"], &[], &["--allow", "\"10.0.0.1/8\"", "10.0.0.0/8"]),
        (&["--allow", "10.0.0.0/33"], &[], &["--allow", "\"10.0.0.0/33\"", "10.0.0.0/8"]),
        (&["--allow", "::ffff:10.0.0.0/104"], &[], &["--allow", "IPv4"]),
        (&[], &[("PSYSTRIKE_ALLOW", ",")], &["PSYSTRIKE_ALLOW", "\"\"", "10.0.0.0/8"]),
        (&["--deny", "pods"], &[], &["--deny", "\"pods\"", "10.0.0.0/8"]),
        (&["--allow-ports", "0"], &[], &["--allow-ports", "\"0\"", "1 to 65535"]),
        (&["--allow-ports", "9-8"], &[], &["--allow-ports", "\"9-8\"", "1 to 65535"]),
        (&["--allow-ports", "http"], &[], &["--allow-ports", "\"http\"", "1 to 65535"]),
        (&["--workers", "0"], &[], &["--workers", "\"0\"", "1 to 256", "auto"]),
        (&["--workers", "257"], &[], &["--workers", "\"257\"", "1 to 256", "auto"]),
        (&[], &[("PSYSTRIKE_WORKERS", "many")], &["PSYSTRIKE_WORKERS", "\"many\"", "auto"]),
        (&["--clients-max", "0"], &[], &["--clients-max", "\"0\"", "1 to 1000000"]),
        (&["--clients-max", "+1"], &[], &["--clients-max", "\"+1\"", "1 to 1000000"]),
        (&["--upstreams-idle-max", "-1"], &[], &["--upstreams-idle-max", "\"-1\"", "0 to 1000000"]),
        (&["--log-level", "loud"], &[], &["--log-level", "\"loud\"", "debug"]),
        (&[], &[("PSYSTRIKE_ACCESS_LOG", "yes")], &["PSYSTRIKE_ACCESS_LOG", "\"yes\"", "true"]),
        (&["--access-log=yes"], &[], &["--access-log=yes"]),
        (&["--nonsense"], &[], &["--nonsense", "unknown"]),
        (&["-v"], &[], &["-v", "unknown"]),
        (&["10.0.0.1:80"], &[], &["10.0.0.1:80", "unexpected argument"]),
        (&["--timout=1s"], &[], &["--timout=1s", "did you mean --timeout?"]),
        (&["--timeout=3m"], &[], &["--timeout 180s is longer than --timeout-max 120s"]),
        (&["--connect-timeout=3m"], &[], &["--connect-timeout 180s is longer than --timeout-max 120s"]),
        (&["--timeout-max\n", "1s"], &[], &["--timeout-max", "unknown"]),
        (&["--listen", "x\ny"], &[], &["--listen", "[::]:8080"]),
    ] {
        let ended = run(arguments, variables);
        check_usage_error(&ended, expected, &format!("{arguments:?} with {variables:?}"));
    }
    let not_text = || OsString::from_vec(b"\xff1s".to_vec());
    check_usage_error(
        &run(&["--timeout".into(), not_text()], &[]),
        &["--timeout"],
        "a value that is not valid UTF-8",
    );
    check_usage_error(&run(&[not_text()], &[]), &["1s"], "an argument that is no text");
    let output = psystrike::command().env("PSYSTRIKE_TIMEOUT", not_text()).output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let ended = Ended { status: output.status, stdout: String::new(), stderr };
    check_usage_error(&ended, &["PSYSTRIKE_TIMEOUT"], "a variable that is no text");
}

fn check_usage_error(Ended { status, stdout, stderr }: &Ended, expected: &[&str], of: &str) {
    assert_eq!(status.code(), Some(2), "{of}: {stderr}");
    assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{of}: {stderr}");
    assert!(stderr.starts_with("ts=") && stderr.contains(" level=error msg="), "{stderr}");
    let stderr = stderr.replace("\\\"", "\"").replace("\\\\", "\\");
    for part in expected {
        assert!(stderr.contains(part), "{of}: {stderr:?} lacks {part:?}");
    }
}

#[test]
fn an_address_that_cannot_be_bound_ends_the_process() {
    let taken = TcpListener::bind("127.21.4.1:0").expect("a free port");
    let single = Psystrike::start(&["--listen", "127.21.4.2:0"]);
    let shared = Psystrike::start(&["--listen", "127.21.4.3:0", "--workers", "2"]);
    let all = Psystrike::start(&["--listen", "0.0.0.0:0"]);
    let within_all = SocketAddr::new([127, 21, 4, 4].into(), all.address().port());
    // An address for documentation (RFC 5737): no machine has it, and binding it sends nothing.
    let not_ours = "192.0.2.1:0".parse().expect("an address");
    for (address, reason) in [
        (taken.local_addr().expect("the listener is bound"), "in use"),
        (single.address(), "in use"),
        (shared.address(), "in use"),
        (within_all, "in use"),
        (not_ours, "assign"),
    ] {
        for workers in ["1", "2"] {
            // The first address can be bound: it must be released.
            let arguments =
                ["--listen", "127.21.4.5:0", "--listen", &address.to_string(), "--workers", workers];
            let Ended { status, stderr, .. } = run(&arguments, &[]);
            assert_eq!(status.code(), Some(1), "{arguments:?}: {stderr}");
            let last = stderr.lines().last().unwrap_or_default();
            for part in [&format!("--listen {address}"), reason] {
                assert!(last.contains(part), "{arguments:?}: {last:?} lacks {part:?}");
            }
        }
    }
    for psystrike in [&single, &shared, &all] {
        assert_eq!(psystrike.get("/healthz").status(), 200, "whoever was there first serves on");
    }
}

#[test]
fn port_0_becomes_one_port_for_all_workers() {
    let psystrike = Psystrike::start(&[
        "--listen=127.21.5.1:0",
        "--listen=127.21.5.2:0",
        "--listen=[::1]:0",
        "--workers=3",
    ]);
    let addresses = psystrike.addresses();
    let mut expected: Vec<_> = addresses.iter().flat_map(|address| [*address; 3]).collect();
    expected.sort();
    let mut bound = psystrike.process().wait_for_listeners(9);
    bound.sort();
    assert_eq!(bound, expected, "one socket for each worker and address");
    for &address in addresses {
        // Enough connections for the kernel to give every worker some.
        let mut clients: Vec<_> = (0..24).map(|_| Client::connect(address)).collect();
        assert!(clients.iter_mut().all(|client| client.get("/healthz").status() == 200));
    }
}

#[test]
fn auto_is_a_worker_for_each_available_core() {
    let granted = thread::available_parallelism().expect("the parallelism is known").get();
    let psystrike = Psystrike::start(&["--workers", "auto"]);
    poll("its worker threads", || workers(&psystrike), |workers| *workers == granted.min(256));
}

#[test]
fn listening_on_all_ipv6_addresses_accepts_ipv4_too() {
    for workers in ["1", "2"] {
        let psystrike = Psystrike::start(&["--listen", "[::]:0", "--workers", workers]);
        let port = psystrike.address().port();
        for ip in ["127.0.0.1", "127.21.6.1", "::1"] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(Client::connect((ip, port).into()).get("/healthz").status(), 200, "{ip}");
        }
    }
}

#[test]
fn the_default_address_is_port_8080_of_all_addresses() {
    // In its own network namespace, where no other process can use the port.
    if !require_working(&["unshare", "--user", "--map-root-user", "--net", "true"]) {
        return;
    }
    let mut unshare = Command::new("unshare");
    let program = Program::start(unshare.args(["--user", "--map-root-user", "--net", psystrike::BINARY]));
    program.wait_for_line("address=[::]:8080", LIMIT);
    assert_eq!(program.process().wait_for_listeners(1), ["[::]:8080".parse().expect("an address")]);
}
