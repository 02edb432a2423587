//! Secrets, end to end: every way in which a real Prometheus can be configured to send one, the installed one and the
//! newest, and the reason that it shows if the secret is missing or wrong.

mod support;

use base64ct::{Base64, Encoding};
use support::{
    Scratch,
    jobs::{assert_jobs, job},
    pods::{Pod, Then},
    prometheus::Release,
    psystrike::Psystrike,
    require_programs,
    scrapes::with_length,
    servers::Servers,
    tls::make_certificate,
};

const SECRET: &str = "e6f1c0b9-7d52-4a8e";

#[test]
fn prometheus_sends_its_secret() {
    every_way(Release::Installed);
}

#[test]
fn the_newest_prometheus_sends_its_secret() {
    every_way(Release::Newest);
}

/// A pod whose page has a sample with its request's `Authorization` as a label.
fn pod() -> Pod {
    Pod::serve("127.27.0.2", |head, client| {
        let authorization = head.field("Authorization").unwrap_or_default();
        let page = format!("pod_received{{authorization=\"{authorization}\"}} 1\n");
        client.send(with_length(&page)).map(|()| Then::Keep)
    })
}

fn every_way(release: Release) {
    if !release.require(&["prometheus"]) || !require_programs(&["openssl", "python3"]) {
        return;
    }
    let scratch = Scratch::new(&format!("prometheus-access-{release:?}"));
    make_certificate(&scratch.path("cert.pem"), &scratch.path("key.pem"));
    let servers = Servers::start(&scratch, &[("tls", "127.27.0.1")]);
    let (tls, pod) = (servers.addresses[0].to_string(), pod());
    let token = scratch.write("token", &format!("prometheus:{SECRET}\n"));
    let secret = scratch.write("secret", SECRET);
    let arguments = ["--allow", "127.27.0.0/24", "--allow-connect", "--auth-token-file"];
    let psystrike = Psystrike::start(&[&arguments[..], &[token.to_str().expect("a path")]].concat());
    let through = psystrike.address();

    let path =
        |lines: String| format!("metrics_path: {}\n{lines}", Psystrike::target(pod.address(), "/metrics"));
    let bearer = format!("authorization: {{ credentials_file: {} }}", secret.display());
    let basic = |password| format!("basic_auth: {{ username: anyone, password: {password} }}");
    let proxy = |userinfo: &str| format!("proxy_url: http://{userinfo}{through}");
    let with_secret = format!("prometheus:{SECRET}@");
    let tunnel =
        |lines: String| format!("scheme: https\ntls_config: {{ insecure_skip_verify: true }}\n{lines}");
    let mut buffer = [0; 64];
    let pair = Base64::encode(b"u:e6f1c0b9-7d52-4a8e", &mut buffer).expect("it fits");
    let connect_header = |value: String| {
        format!("{}\nproxy_connect_header: {{ Proxy-Authorization: ['{value}'] }}", proxy(""))
    };
    let [pod_address, psystrike_address] = [pod.address(), through].map(|address| address.to_string());
    let (to_pod, to_psystrike) = (|| pod_address.clone(), || psystrike_address.clone());
    const FAILED: &str = "authentication failed: unknown secret";
    let of_pod = "authorization: { credentials: of-the-pod }";
    let jobs = [
        job("bearer", path(bearer.clone()), to_psystrike(), ""),
        job("basic", path(basic(SECRET)), to_psystrike(), ""),
        job("bearer-proxy", format!("{bearer}\n{}", proxy("")), to_pod(), ""),
        job("userinfo", proxy(&with_secret), to_pod(), ""),
        job("userinfo-and-pod", format!("{of_pod}\n{}", proxy(&with_secret)), to_pod(), ""),
        job("tunnel", tunnel(proxy(&with_secret)), tls.clone(), ""),
        job("connect-bearer", tunnel(connect_header(format!("Bearer {SECRET}"))), tls.clone(), ""),
        job("connect-basic", tunnel(connect_header(format!("Basic {pair}"))), tls.clone(), ""),
        job("missing", path(String::new()), to_psystrike(), "HTTP status 401 authentication required"),
        job("wrong", path(basic("wrong")), to_psystrike(), FAILED),
        job("missing-proxy", proxy(""), to_pod(), "HTTP status 407 proxy authentication required"),
        job(
            "wrong-proxy",
            proxy("u:wrong@"),
            to_pod(),
            "HTTP status 407 proxy authentication failed: unknown secret",
        ),
        job("missing-tunnel", tunnel(proxy("")), tls.clone(), "proxy authentication required"),
        job(
            "wrong-tunnel",
            tunnel(proxy("u:wrong@")),
            tls.clone(),
            "proxy authentication failed: unknown secret",
        ),
        // A secret for psystrike by `authorization` is sent to the pod, inside the tunnel.
        job(
            "bearer-tunnel",
            tunnel(format!("{bearer}\n{}", proxy(""))),
            tls.clone(),
            "proxy authentication required",
        ),
    ];
    let prometheus = assert_jobs(release, &scratch, &jobs);
    // The pod receives its own credentials, and never psystrike's.
    for (job, expected) in [
        ("bearer", ""),
        ("basic", ""),
        ("bearer-proxy", ""),
        ("userinfo", ""),
        ("userinfo-and-pod", "Bearer of-the-pod"),
    ] {
        let values = prometheus.label_values("authorization", &format!("pod_received{{job='{job}'}}"));
        let expected: Vec<_> = [expected].into_iter().filter(|value| !value.is_empty()).collect();
        assert_eq!(values, expected, "{job}");
    }
    let seen = format!("{:?}", pod.heads());
    assert!(!seen.contains(SECRET) && !seen.contains(pair) && !seen.contains("Proxy-"), "{seen}");
    assert!(!psystrike.stderr().contains(SECRET), "{}", psystrike.stderr());
}
