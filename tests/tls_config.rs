//! The files of the options for TLS, read by the real binary: kinds of keys and formats, mistakes, and changes.
#![cfg(feature = "tls")]

mod support;

use std::{fs, os::unix::fs::symlink, process::Command};

use support::{
    Scratch, poll,
    program::Signal,
    psystrike::{Psystrike, run},
    require_programs,
};

/// A part of every private key that openssl writes in PEM.
const OF_A_KEY: &str = "PRIVATE KEY";

fn openssl(scratch: &Scratch, command: &str) {
    let output = Command::new("sh").args(["-c", command]).current_dir(scratch.path("")).output();
    let output = output.expect("sh runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `name.crt`, which is self-signed for `name.example`, and `name.key`, both by openssl's `kind` of key.
fn make(scratch: &Scratch, name: &str, kind: &str) {
    let subject = format!("-subj /CN={name} -addext subjectAltName=DNS:{name}.example");
    openssl(
        scratch,
        &format!("openssl req -x509 -nodes -newkey {kind} {subject} -keyout {name}.key -out {name}.crt"),
    );
}

const EC: &str = "ec -pkeyopt ec_paramgen_curve:prime256v1";

fn start_with(scratch: &Scratch, files: &[(&str, &str)], arguments: &[&str]) -> Psystrike {
    let given: Vec<String> = files.iter().map(|(option, file)| given(scratch, option, file)).collect();
    Psystrike::start(&[&given.iter().map(String::as_str).collect::<Vec<_>>(), arguments].concat())
}

fn given(scratch: &Scratch, option: &str, file: &str) -> String {
    format!("{option}={}", scratch.path(file).display())
}

fn copy(scratch: &Scratch, from: &str, to: &str) {
    fs::copy(scratch.path(from), scratch.path(to)).expect("copied");
}

/// Returns the option for a secret, with which `/metrics` is answered over plain HTTP beside `--tls-client-ca`.
fn secrets(scratch: &Scratch) -> String {
    format!("--auth-token-file={}", scratch.write("token", "of-a-secret-0123456789").display())
}

/// The options of a certificate and its key.
const CERTIFICATE: [(&str, &str); 2] = [("--tls-cert", "tls.crt"), ("--tls-key", "tls.key")];

#[test]
fn kinds_and_formats_of_keys_are_accepted() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-kinds");
    const CANNOT: Option<&str> = Some("the key cannot be used; expected RSA of at least 2048 bits");
    const ENCRYPTED: Option<&str> = Some("the key is encrypted; decrypt it with openssl pkey");
    const SEC1: &str = "openssl ec -in made.key -out tls.key";
    const PKCS1: &str = "openssl rsa -traditional -in made.key -out tls.key";
    const PKCS8: &str = "cp made.key tls.key";
    const WITH_PARAMETERS: &str =
        "(openssl ecparam -name prime256v1; openssl ec -in made.key; cat made.crt) >tls.key";
    for (kind, convert, expected) in [
        (EC, PKCS8, None),
        (EC, SEC1, None),
        (EC, WITH_PARAMETERS, None),
        (EC, "sed 's/$/\\r/' made.key >tls.key", None),
        (EC, "openssl pkcs8 -topk8 -passout pass:wombat -in made.key -out tls.key", ENCRYPTED),
        ("ec -pkeyopt ec_paramgen_curve:secp384r1", SEC1, None),
        ("ec -pkeyopt ec_paramgen_curve:secp521r1", PKCS8, CANNOT),
        ("rsa:2048", PKCS8, None),
        ("rsa:2048", PKCS1, None),
        ("rsa:2048", "openssl rsa -traditional -aes256 -passout pass:a -in made.key -out tls.key", ENCRYPTED),
        ("rsa:3072", PKCS1, None),
        ("rsa:1024", PKCS8, CANNOT),
        ("ed25519", PKCS8, None),
    ] {
        make(&scratch, "made", kind);
        openssl(&scratch, convert);
        copy(&scratch, "made.crt", "tls.crt");
        let Some(expected) = expected else {
            let psystrike = start_with(&scratch, &CERTIFICATE, &[]);
            psystrike.wait_for_line("read certificate for made.example, valid until 2");
            continue;
        };
        let error = error_of(&scratch, &CERTIFICATE);
        assert!(error.contains(expected), "{kind} {convert}: {error}");
    }
}

/// The message with which it ends at the start.
fn error_of(scratch: &Scratch, files: &[(&str, &str)]) -> String {
    let mut arguments: Vec<String> =
        files.iter().map(|(option, file)| given(scratch, option, file)).collect();
    arguments.push("--listen=127.0.0.1:0".to_owned());
    let ended = run(&arguments, &[]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(!ended.stderr.contains(OF_A_KEY), "{ended:?}");
    ended.stderr
}

#[test]
fn mistakes_name_option_and_file() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-mistakes");
    make(&scratch, "one", EC);
    make(&scratch, "two", EC);
    openssl(
        &scratch,
        "openssl req -new -key one.key -subj /CN=one -out one.csr &&
         openssl x509 -req -in one.csr -signkey one.key -out v1.crt",
    );
    let key = fs::read_to_string(scratch.path("one.key")).expect("a key");
    scratch.write("empty", "");
    scratch.write("cut.key", &key[..key.len() / 2]);
    scratch.write("bad.key", &key.replace("MI", "-!"));
    scratch.write("line.key", &key.replace('\n', " "));
    scratch.write("junk.crt", "-----BEGIN CERTIFICATE-----\nd29tYmF0\n-----END CERTIFICATE-----\n");
    scratch.write("long", &"#".repeat(1 << 21));
    let certificate = |certificate, key| [("--tls-cert", certificate), ("--tls-key", key)];
    const MISMATCH: &str = "the key does not belong to the (first) certificate";
    for (files, expected) in [
        (&certificate("missing", "one.key")[..], "missing: No such file or directory"),
        (&certificate("", "one.key"), "Is a directory"),
        (&certificate("v1.crt", "one.key"), "the certificate cannot be used; expected X.509 version 3"),
        (&certificate("one.crt", "two.key"), MISMATCH),
        (&certificate("one.key", "one.crt"), "no certificate in PEM"),
        (&certificate("one.key", "one.key"), "no certificate in PEM"),
        (&certificate("one.crt", "one.crt"), "no private key in PEM"),
        (&certificate("one.crt", "empty"), "no private key in PEM"),
        (&certificate("empty", "one.key"), "no certificate in PEM"),
        (&certificate("one.crt", "cut.key"), "the private key's PEM is damaged"),
        (&certificate("one.crt", "bad.key"), "the private key's PEM is damaged"),
        (&certificate("one.crt", "line.key"), "the private key's PEM is damaged"),
        (&certificate("line.key", "one.key"), "the certificate's PEM is damaged"),
        (&certificate("junk.crt", "one.key"), "invalid certificate"),
        (&certificate("long", "one.key"), "over 1048576 bytes"),
        (&[("--pod-tls-cert", "one.crt"), ("--pod-tls-key", "two.key")], MISMATCH),
        (&[("--pod-tls-ca", "empty")], "no certificate in PEM"),
        (&[("--pod-tls-ca", "one.key")], "no certificate in PEM"),
        (&[("--pod-tls-ca", "junk.crt")], "invalid certificate"),
    ] {
        let error = error_of(&scratch, files);
        let (option, _) = files[0];
        let file = scratch.path(files[0].1);
        for part in [option, file.to_str().expect("a path"), expected] {
            assert!(error.contains(part), "{files:?}: {error:?} lacks {part:?}");
        }
    }
}

#[test]
fn authorities_and_chains_are_read() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-chains");
    ["one", "two"].iter().for_each(|name| make(&scratch, name, EC));
    openssl(&scratch, "cp one.key tls.key; cat one.crt two.crt >tls.crt");
    let junk = "-----BEGIN CERTIFICATE-----\nd29tYmF0\n-----END CERTIFICATE-----\n";
    scratch.write("junk.crt", junk);
    openssl(&scratch, "(echo '# two CAs'; cat one.crt two.crt) >cas.crt; cat cas.crt junk.crt >most.crt");
    let files =
        [CERTIFICATE[0], CERTIFICATE[1], ("--tls-client-ca", "cas.crt"), ("--pod-tls-ca", "most.crt")];
    let psystrike = start_with(&scratch, &files, &[&secrets(&scratch)]);
    let line = psystrike.wait_for_lines("read 2 CA certificates", 2);
    assert!(line[0].contains("--tls-client-ca") && line[1].contains("--pod-tls-ca"), "{line:?}");
    let ignored = psystrike.wait_for_line("ignoring 1 certificate(s) that cannot be parsed");
    assert!(ignored.contains("--pod-tls-ca"), "{ignored}");
    assert_eq!(psystrike.metric("psystrike_authentication_enabled"), 1.0, "certificates are credentials");
    // The chain's second certificate expires first.
    openssl(
        &scratch,
        "openssl req -x509 -key two.key -days 1 -subj /CN=two -out two.crt; cat one.crt two.crt >tls.crt",
    );
    psystrike.signal(Signal::HUP);
    let expiry = |option: &str| psystrike.metric(&series("tls_certificate_expiry_timestamp_seconds", option));
    poll("the expiry", || expiry("--tls-client-ca") - expiry("--tls-cert"), |less| *less > 28.0 * 86_400.0);
}

fn series(name: &str, option: &str) -> String {
    format!("psystrike_{name}{{option=\"{option}\"}}")
}

#[test]
fn an_expired_certificate_is_used_with_a_warning() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-expired");
    make(&scratch, "tls", EC);
    scratch.write("v3", "keyUsage = digitalSignature\n");
    openssl(
        &scratch,
        "openssl req -new -key tls.key -subj /CN=tls -out tls.csr &&
         openssl x509 -req -in tls.csr -signkey tls.key -days -1 -extfile v3 -out tls.crt",
    );
    let psystrike = start_with(&scratch, &CERTIFICATE, &[]);
    psystrike.wait_for_line("the certificate expired at 2");
    psystrike.wait_for_line("read certificate for no name, valid until 2");
    assert!(psystrike.metric(&series("tls_certificate_expiry_timestamp_seconds", "--tls-cert")) > 1.7e9);
}

#[test]
fn plain_http_does_not_get_around_client_certificates() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-plain");
    make(&scratch, "ca", EC);
    let tokens = secrets(&scratch);
    // Without secrets, plain HTTP has no credentials, and is refused. 403: not an allowed destination.
    for (arguments, [pods, proxy, with_secret, metrics]) in [
        (vec!["--tls-self-signed"], [400, 400, 400, 400]),
        (vec!["--tls-self-signed", &tokens], [401, 407, 403, 200]),
    ] {
        let psystrike = start_with(&scratch, &[("--tls-client-ca", "ca.crt")], &arguments);
        let ask = |target: &str, fields: &str| {
            let mut client = psystrike.client();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: psystrike\r\n{fields}\r\n"));
            client.response().expect("a response").status()
        };
        let bearer = "Authorization: Bearer of-a-secret-0123456789\r\n";
        assert_eq!(ask("/pods/192.0.2.1/80/metrics", ""), pods);
        assert_eq!(ask("http://192.0.2.1:80/metrics", ""), proxy);
        assert_eq!(ask("/pods/192.0.2.1/80/metrics", bearer), with_secret);
        assert_eq!((ask("/healthz", ""), ask("/readyz", ""), ask("/metrics", "")), (200, 200, metrics));
    }
    let guarded = ["--tls-self-signed", "--auth-metrics", &tokens];
    let psystrike = start_with(&scratch, &[("--tls-client-ca", "ca.crt")], &guarded);
    assert_eq!((psystrike.get("/metrics").status(), psystrike.get("/healthz").status()), (401, 200));
}

/// As Kubernetes replaces the files of a Secret.
fn swap(scratch: &Scratch, to: &str) {
    symlink(to, scratch.path("..new")).expect("a link");
    fs::rename(scratch.path("..new"), scratch.path("..data")).expect("renamed");
}

#[test]
fn files_are_read_again_when_they_change() {
    if !require_programs(&["openssl"]) {
        return;
    }
    let scratch = Scratch::new("tls-reload");
    for name in ["one", "two"] {
        make(&scratch, name, EC);
        fs::create_dir(scratch.path(&format!("v-{name}"))).expect("a folder");
        copy(&scratch, &format!("{name}.crt"), &format!("v-{name}/tls.crt"));
        copy(&scratch, &format!("{name}.key"), &format!("v-{name}/tls.key"));
    }
    swap(&scratch, "v-one");
    let files = ["tls.crt", "tls.key"];
    files.iter().for_each(|file| symlink(format!("..data/{file}"), scratch.path(file)).expect("a link"));
    let pods = [("--pod-tls-cert", "tls.crt"), ("--pod-tls-key", "tls.key"), ("--pod-tls-ca", "tls.crt")];
    let files = [&CERTIFICATE[..], &pods, &[("--tls-client-ca", "tls.crt")]].concat();
    let psystrike = start_with(&scratch, &files, &[&secrets(&scratch)]);
    let read =
        |name: &str, count| psystrike.wait_for_lines(&format!("read certificate for {name}.example"), count);
    read("one", 2);
    let options = ["--tls-cert", "--pod-tls-cert", "--pod-tls-ca", "--tls-client-ca"];
    let is_read = |option: &str| psystrike.metric(&series("config_last_reload_successful", option)) == 1.0;
    swap(&scratch, "v-two");
    read("two", 2);
    psystrike.wait_for_lines("read 1 CA certificate", 4);
    assert!(options.iter().all(|option| is_read(option)));
    // A pair that is replaced one file at a time does not match meanwhile.
    copy(&scratch, "one.crt", "v-two/tls.crt");
    let failed = psystrike.wait_for_lines("cannot reload; the old content stays in effect", 2);
    assert!(failed.iter().all(|line| line.contains("the key does not belong")), "{failed:?}");
    assert!(!is_read("--tls-cert") && !is_read("--pod-tls-cert") && is_read("--pod-tls-ca"));
    copy(&scratch, "one.key", "v-two/tls.key");
    read("one", 4);
    poll("all files are read", || options.iter().all(|option| is_read(option)), |all| *all);
    assert!(!psystrike.stderr().contains(OF_A_KEY));
}

#[test]
fn a_certificate_is_made() {
    let psystrike = Psystrike::start(&["--tls-self-signed"]);
    let line = psystrike.wait_for_line("made a self-signed certificate for ");
    assert!(
        line.contains("localhost") && line.contains("127.0.0.1") && line.contains("valid until"),
        "{line}"
    );
    let expiry = psystrike.metric(&series("tls_certificate_expiry_timestamp_seconds", "--tls-self-signed"));
    assert!(expiry > 1.9e9, "{expiry}");
    let named = Psystrike::start(&[
        "--tls-self-signed",
        "--tls-name=a.example,b.example",
        "--tls-name=::1,d.example",
    ]);
    named.wait_for_line("certificate for a.example, b.example, ::1 and 1 more, valid until");
}
