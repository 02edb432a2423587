//! The claims of the migration page about other programs: a real nginx with the page's two lines accepts the same paths
//! as psystrike, and differs where the page says so; a real Prometheus runs the job that replaces PushProx's.

mod support;

use std::{net::SocketAddr, time::Duration};

use support::{
    Scratch,
    http::{Broken, Client, Response},
    nginx::Nginx,
    pods::{Pod, Then},
    prometheus::{Prometheus, Release},
    psystrike::Psystrike,
    read, require_programs,
};

/// The blocks of the page in a language.
fn blocks(language: &str) -> Vec<String> {
    let (page, fence) = (read("deploy/migration.md"), format!("```{language}\n"));
    let blocks = page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

/// Starts an nginx with the page's lines.
fn start_nginx(scratch: &Scratch) -> Nginx {
    Nginx::start(scratch, "", &blocks("nginx")[0])
}

/// Responds with the request target.
fn echoing(ip: &str) -> Pod {
    Pod::serve(ip, |head, client| {
        let target = head.target();
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()))?;
        Ok(Then::Close)
    })
}

fn get(forwarder: SocketAddr, target: &str) -> Result<Response, Broken> {
    let mut client = Client::connect(forwarder);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: forwarder\r\n\r\n"));
    client.response()
}

#[test]
fn nginx_accepts_the_same_paths() {
    if !require_programs(&["nginx"]) {
        return;
    }
    let scratch = Scratch::new("migration-nginx");
    let nginx = start_nginx(&scratch);
    let psystrike = Psystrike::start(&["--allow", "127.12.0.0/16", "--allow", "::1/128"]);
    let (v4, v6, loopback) = (echoing("127.12.0.1"), echoing("::1"), echoing("127.0.0.1"));
    let v4_pod = format!("/pods/{}/{}", v4.address().ip(), v4.address().port());
    let v6_pod = |ip: &str| format!("/pods/{ip}/{}", v6.address().port());
    let loopback_pod = format!("/pods/127.0.0.1/{}", loopback.address().port());

    let answer = |forwarder, target: &str| {
        let answer = get(forwarder, target).unwrap_or_else(|broken| panic!("{target}: {broken:?}"));
        (answer.status(), answer.text())
    };
    // The target, and the result of nginx and of psystrike: 200 and the target that the pod received, or another
    // status.
    for (target, by_nginx, by_psystrike) in [
        (format!("{v4_pod}/metrics"), Ok("/metrics"), Ok("/metrics")),
        (format!("{v4_pod}/a/b?c=d&e=f%20g"), Ok("/a/b?c=d&e=f%20g"), Ok("/a/b?c=d&e=f%20g")),
        (
            format!("{v4_pod}/stats%3Fformat=prometheus"),
            Ok("/stats?format=prometheus"),
            Ok("/stats?format=prometheus"),
        ),
        (format!("{v4_pod}/"), Ok("/"), Ok("/")),
        (format!("{}/metrics", v6_pod("[::1]")), Ok("/metrics"), Ok("/metrics")),
        (format!("{}/metrics", v6_pod("%5B::1%5D")), Ok("/metrics"), Ok("/metrics")),
        // Where they differ.
        (v4_pod.clone(), Err(404), Ok("/metrics")),
        (format!("{v4_pod}/a%2Fb"), Ok("/a/b"), Ok("/a%2Fb")),
        (format!("{v4_pod}/a//b"), Ok("/a/b"), Ok("/a//b")),
        (format!("{loopback_pod}/metrics"), Ok("/metrics"), Err(403)),
    ] {
        for (who, forwarder, expected) in
            [("nginx", nginx.address, by_nginx), ("psystrike", psystrike.address(), by_psystrike)]
        {
            let (status, text) = answer(forwarder, &target);
            match expected {
                Ok(asked) => assert_eq!((status, &*text), (200, asked), "{who}: {target}"),
                Err(refused) => assert_eq!(status, refused, "{who}: {target}: {text}"),
            }
        }
    }
}

#[test]
fn a_broken_response_is_broken_with_both() {
    if !require_programs(&["nginx"]) {
        return;
    }
    let scratch = Scratch::new("migration-broken");
    let nginx = start_nginx(&scratch);
    let psystrike = Psystrike::start(&["--allow", "127.12.0.0/16"]);
    let pod = Pod::answering("127.12.0.2", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", Then::Close);
    let target = Psystrike::target(pod.address(), "/metrics");
    for forwarder in [nginx.address, psystrike.address()] {
        assert!(get(forwarder, &target).is_err(), "{forwarder} made the response look complete");
    }
}

#[test]
fn the_job_that_replaces_pushproxs_runs() {
    if !require_programs(&["prometheus"]) {
        return;
    }
    let page = "node_up 1\n";
    let fields = "Content-Type: text/plain; version=0.0.4\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{page}", page.len());
    let node = Pod::answering("127.0.0.1", answer, Then::Keep);
    let psystrike = Psystrike::start(&["--allow", "127.0.0.1"]);
    let jobs: Vec<_> = blocks("yaml").into_iter().filter(|block| block.contains("job_name:")).collect();
    let [before, by_name, by_address] = &jobs[..] else { panic!("the job before, and two after") };
    let [pushprox, ours] = ["http://pushprox.example:8080/", "http://psystrike.example:31000"];
    assert_eq!(before.replace(pushprox, ours), *by_name, "the jobs differ in more than the proxy");
    let own = psystrike.address().to_string();
    let [name, address] = [format!("localhost:{}", node.address().port()), node.address().to_string()];
    let with = |job: &str, replacements: [(&str, &str); 2]| {
        replacements.into_iter().fold(job.to_owned(), |job, (named, given)| {
            assert!(job.contains(named), "no {named} in {job}");
            job.replace(named, given)
        })
    };
    let by_name = with(by_name, [("node-1.example:9100", &name), ("psystrike.example:31000", &own)]);
    let by_address = with(by_address, [("10.1.2.3:9100", &address), ("psystrike.example:31000", &own)]);
    let by_name = by_name.replace("job_name: node", "job_name: by-name");
    let scratch = Scratch::new("migration-pushprox");
    scratch.write(
        "prometheus.yml",
        &format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n{by_name}{by_address}"
        ),
    );
    let prometheus = Prometheus::start(Release::Installed, &scratch);
    let series = format!(
        "node_up{{job='node', instance='node-1.example:9100'}} or node_up{{job='by-name', instance='{name}'}}"
    );
    let in_time =
        prometheus.wait_until(Duration::from_secs(30), |prometheus| prometheus.query(&series).len() == 2);
    assert!(in_time, "{:#?}\n{}", prometheus.targets(), prometheus.stderr());
}
