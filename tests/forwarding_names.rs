//! Pods given by name, through the real binary's sockets and the system's resolver. `localhost` needs no DNS server.

mod support;

use std::{io::Read, net::Ipv4Addr, thread, time::Duration};

use support::{
    LIMIT, Scratch,
    dns::{Dns, DnsServer, with_resolv_conf},
    http::get,
    netns::in_new_namespace,
    pods::{Pod, Then},
    poll,
    process::Process,
    psystrike::Psystrike,
    require_working,
    scrapes::{PAGE, echo, with_length},
};

fn threads(process: Process) -> usize {
    process.threads().iter().filter(|name| *name == "resolver").count()
}

#[test]
fn a_pod_is_scraped_by_its_name_in_both_forms() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.1"]);
    let pod = echo("127.0.0.1");
    let port = pod.address().port();
    let mut client = psystrike.client();
    for (target, host) in [
        (format!("/pods/localhost/{port}/metrics?a"), format!("localhost:{port}")),
        (format!("http://LocalHost:{port}/metrics?a"), format!("LocalHost:{port}")),
        (format!("/pods/127.0.0.1/{port}/metrics?a"), format!("127.0.0.1:{port}")),
    ] {
        client.send(get(&target));
        let response = client.response().expect("a whole answer");
        assert_eq!((response.status(), response.text().as_str()), (200, "/metrics?a"), "{target}");
        let heads = pod.heads();
        let head = heads.last().expect("it came").text();
        assert!(head.contains(&format!("\r\nHost: {host}\r\n")), "{head}");
    }
    assert_eq!(pod.connections(), 1, "the pool is keyed by address");
}

#[test]
fn a_tunnel_opens_to_a_pod_by_its_name() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.1", "--allow-connect"]);
    let pod = echo("127.0.0.1");
    let target = format!("localhost:{}", pod.address().port());
    let mut client = psystrike.client();
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let mut established = [0; "HTTP/1.1 200 Connection established\r\n\r\n".len()];
    client.stream().read_exact(&mut established).expect("a response");
    assert!(established.starts_with(b"HTTP/1.1 200 "), "{}", established.escape_ascii());
    client.send(get("/in/a/tunnel"));
    assert_eq!(client.response().expect("the pod's answer").text(), "/in/a/tunnel");
    let refusing = Psystrike::start(&["--allow", "10.0.0.0/8", "--allow-connect"]);
    let mut client = refusing.client();
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let response = client.response().expect("a refusal");
    assert_eq!((response.status(), &*response.reason()), (403, "name resolves to no allowed address"));
    let own = format!("localhost:{}", psystrike.address().port());
    let mut client = psystrike.client();
    client.send(format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert_eq!(client.response().expect("a refusal").status(), 508);
}

#[test]
fn names_are_refused_like_their_addresses() {
    let psystrike = Psystrike::start(&["--allow", "10.0.0.0/8", "--allow", "0.0.0.0/0"]);
    for (target, status, reason) in [
        ("/pods/localhost/80/m", 403, "name resolves to no allowed address"),
        ("http://localhost/m", 403, "name resolves to no allowed address"),
        ("/pods/2130706433/80/m", 400, "pod host is neither an IP address nor a DNS name"),
        ("http://0x7f.1/m", 400, "pod host is neither an IP address nor a DNS name"),
    ] {
        let response = psystrike.get(target);
        assert_eq!((response.status(), response.reason().as_str()), (status, reason), "{target}");
    }
    let line = psystrike.wait_for_line("resolves to no allowed address");
    assert!(line.contains("/pods/localhost/80/m") || line.contains("http://localhost/m"), "{line}");
}

#[test]
fn threads_start_with_the_first_name_and_psystrikes_own_name_does_not_loop() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.1"]);
    let pod = Pod::answering("127.0.0.1", with_length(PAGE), Then::Keep);
    assert_eq!(psystrike.get(&Psystrike::target(pod.address(), "/m")).status(), 200);
    assert_eq!(threads(psystrike.process()), 0);
    let own = format!("http://localhost:{}", psystrike.address().port());
    assert_eq!(psystrike.get(&format!("{own}/healthz")).text(), "ok\n");
    assert_eq!(psystrike.get(&format!("{own}/pods/127.0.0.1/80/m")).status(), 508);
    assert_eq!(poll("resolver threads", || threads(psystrike.process()), |count| *count > 0), 1);
}

#[test]
fn many_clients_of_all_workers_get_the_answer_to_one_name() {
    let psystrike = Psystrike::start(&["--allow", "127.0.0.1", "--workers", "2", "--resolve-ttl", "0s"]);
    let pod = Pod::answering("127.0.0.1", with_length(PAGE), Then::Keep);
    let target = format!("/pods/localhost/{}/m", pod.address().port());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = psystrike.client();
                for _ in 0..20 {
                    client.send([get(&target), get(&target)].concat());
                    for _ in 0..2 {
                        let response = client.response().expect("a whole answer");
                        assert_eq!((response.status(), response.text().as_str()), (200, PAGE));
                    }
                }
            });
        }
    });
    assert!(threads(psystrike.process()) <= 4);
    let mut psystrike = psystrike;
    assert!(psystrike.terminate(LIMIT).success());
}

#[test]
fn names_come_from_dns_with_its_search_domains_failures_and_changes() {
    if !require_working(&["unshare", "--mount", "true"]) {
        return;
    }
    in_new_namespace(|| {
        let ip = |last| Ipv4Addr::new(10, 60, 0, last);
        let dns = DnsServer::start(
            "10.53.0.1",
            vec![
                ("web.ns.svc.cluster.local", Dns::Addresses(vec![ip(1), ip(2), Ipv4Addr::LOCALHOST])),
                ("slow.example", Dns::After(Duration::from_millis(400), vec![ip(2)])),
                ("metadata.example", Dns::Addresses(vec![Ipv4Addr::new(169, 254, 169, 254), ip(3)])),
                ("changing.example", Dns::InTurn(vec![vec![ip(2)], vec![Ipv4Addr::LOCALHOST]])),
                ("empty.example", Dns::Addresses(Vec::new())),
                ("failing.example", Dns::ServerFailure),
                ("silent.example", Dns::Silence),
                ("silent1.example", Dns::Silence),
                ("silent2.example", Dns::Silence),
                ("silent3.example", Dns::Silence),
                ("silent4.example", Dns::Silence),
            ],
        );
        let scratch = Scratch::new("names");
        let resolv = "nameserver 10.53.0.1\nsearch svc.cluster.local cluster.local\n\
                      options ndots:5 timeout:4 attempts:1\n";
        let wrapper = with_resolv_conf(&scratch, resolv);
        let arguments = ["--allow", "10.60.0.0/30", "--resolve-ttl", "0s"];
        let psystrike = Psystrike::start_under(&wrapper.each_ref().map(String::as_str), &arguments);
        let pod = echo("10.60.0.2");
        let port = pod.address().port();
        for (host, status, reason) in [
            ("web.ns", 200, "OK"), // 10.60.0.1 refuses
            ("web.ns.svc.cluster.local.", 200, "OK"),
            ("changing.example", 200, "OK"),
            ("changing.example", 403, "name resolves to no allowed address"),
            ("metadata.example", 502, "pod refused the connection"), // at 10.60.0.3
            ("gone.example", 502, "no such name"),
            ("empty.example", 502, "no such name"),
            ("failing.example", 502, "name lookup failed"),
            ("silent.example", 504, "name not resolved within 2s"),
        ] {
            let response = psystrike.get(&format!("/pods/{host}/{port}/m"));
            assert_eq!((response.status(), response.reason().as_str()), (status, reason), "{host}");
        }
        assert_eq!(dns.queries("web.ns.svc.cluster.local"), 2);
        assert_eq!(dns.queries("web.ns"), 0);

        // Lookups in progress are shared, and one whose client disconnects continues for others.
        let target = get(&format!("http://slow.example:{port}/m"));
        let mut gone = psystrike.client();
        gone.send(&target);
        poll("a query", || dns.queries("slow.example"), |count| *count > 0);
        let mut clients: Vec<_> = (0..16).map(|_| psystrike.client()).collect();
        clients.iter_mut().for_each(|client| client.send(&target));
        drop(gone);
        for client in &mut clients {
            assert_eq!(client.response().expect("a whole answer").status(), 200);
        }
        assert_eq!(dns.queries("slow.example"), 1);

        // Names whose servers do not respond leave a thread for names that resolved before.
        let mut silent: Vec<_> = (0..5).map(|_| psystrike.client()).collect();
        for (client, name) in silent.iter_mut().zip(["silent", "silent1", "silent2", "silent3", "silent4"]) {
            client.send(get(&format!("http://{name}.example:{port}/m")));
        }
        poll("queries", || dns.queries("silent1.example"), |count| *count > 0);
        for _ in 0..3 {
            assert_eq!(psystrike.get(&format!("/pods/web.ns/{port}/m")).status(), 200);
        }
        for client in &mut silent {
            let status = client.response().expect("a whole answer").status();
            assert!([502, 504].contains(&status), "{status}: the resolver gives up after 4s");
        }
    });
}
