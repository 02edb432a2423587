//! Bodies that are forwarded unread: what may follow them and what may be within them.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;

use super::{
    SCRAPE, assert_answer,
    bodies::{PIPE_SEEDS, assert_same, body, long_answer, scrape, scraped_long, sim_with_pipes, stream},
    close_of, end_of,
    kernel::Close,
};

#[test]
fn a_long_response_on_a_persistent_connection_is_peeked_at_and_spliced() {
    let mut seen = [0; 3];
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        assert_eq!(sim.net().peeks, 0, "a response on a new connection is not peeked at");
        for (at, bytes) in [32_768, 33_900, 65_536, 300_000, 1_000_000, 40_000].into_iter().enumerate() {
            let answer = long_answer(&format!("scrape {at}"), bytes);
            assert_eq!(scrape(&mut sim, client, &answer), pod, "the connection is reused");
        }
        assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![pod], 7));
        let net = sim.net();
        assert_eq!(net.peeks, 6, "one peek for each response after a long one");
        [net.peeks, net.peeks_passed_on, net.poured]
            .iter()
            .zip(&mut seen)
            .for_each(|(seen, sum)| *sum += seen);
    }
    assert!(seen.iter().all(|&seen| seen > 0), "peeks, peeks then spliced, bytes spliced: {seen:?}");
}

/// The result of a response.
#[derive(Debug, PartialEq, Eq)]
struct CameOf {
    got: String,
    client: Option<Close>,
    client_ended: bool,
    pod_is_kept: bool,
    outcomes: Vec<u64>,
}

/// A client sends a request, and the pod responds in these parts, and then closes its side if it `ends`; on a new
/// connection, or on one that was pooled after a long response.
fn came_of(seed: u64, is_kept: bool, ask: &[u8], parts: &[&[u8]], ends: bool) -> CameOf {
    let mut sim = sim_with_pipes(seed);
    let client = if is_kept { scraped_long(&mut sim).0 } else { sim.client() };
    let before = sim.counted();
    sim.send(client, ask);
    let [pod] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
    sim.take(pod);
    let mut got = String::new();
    for part in parts {
        // If it is closed early, the rest is lost.
        if sim.is_held(pod) {
            got += &stream(&mut sim, pod, part, client);
        }
    }
    if ends && sim.is_held(pod) {
        sim.net().kernel.peer_end(pod);
        sim.settle();
    }
    got += &sim.take(client);
    let outcomes = sim.counted().iter().zip(before).map(|(now, before)| now - before).collect();
    if got.starts_with("HTTP/1.1 502 ") {
        got.truncate(got.find("\r\n").expect("a line")); // the body contains the duration
    }
    let (head, rest) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
    // A Date that psystrike adds differs.
    let lines = head.split("\r\n").filter(|line| !line.starts_with("Date: ") || *line == "Date: now");
    let got = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n" + rest;
    let client_ended = sim.net().kernel.conns[client].worker_ended;
    CameOf { got, client: close_of(&sim, client), client_ended, pod_is_kept: sim.is_held(pod), outcomes }
}

#[test]
fn any_response_after_a_long_one_is_read_as_on_a_new_connection() {
    const HEAD: &[u8] = b"HEAD /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\n\r\n";
    const OLD: &[u8] = b"GET /pods/10.0.0.1/80/m HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    const CLOSES: &[u8] = b"GET /pods/10.0.0.1/80/m HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n";
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\nDate: now\r\n{fields}\r\n");
    let long = |bytes| long_answer("second", bytes);
    let chunk = |bytes| format!("{bytes:x}\r\n{}\r\n", body("second", bytes));
    let chunked = |chunks: &str| head("Transfer-Encoding: chunked\r\n") + chunks;
    // Returns a response whose head has this many bytes, and is forwarded unchanged.
    let head_of = |bytes: usize, length: usize| {
        let start = head(&format!("Content-Length: {length}\r\nX: \r\n"));
        let filler = "f".repeat(bytes - start.len());
        let head = start.replace("X: ", &format!("X: {filler}"));
        assert_eq!(head.len(), bytes);
        head + &body("second", length)
    };
    let answers = [
        ("long", long(40_000)),
        ("long enough", long(32_768)),
        ("too short by a byte", long(32_767)),
        ("long enough, except for the peeked part", long(33_000)),
        ("long after the peeked part", long(34_000)),
        ("short", long(5)),
        ("as long as the peeked part", long(1024 - long(100).len() + 100)),
        ("empty", long(0)),
        ("no body", "HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n".into()),
        ("not modified", "HTTP/1.1 304 Same\r\nDate: now\r\nContent-Length: 40000\r\n\r\n".into()),
        ("no date", long(40_000).replace("Date: now\r\n", "")),
        ("keeps", long(40_000).replace("Date: now\r\n", "Date: now\r\nConnection: keep-alive\r\n")),
        ("closes", long(40_000).replace("Date: now\r\n", "Date: now\r\nConnection: close\r\n")),
        ("HTTP/1.0", long(40_000).replace("HTTP/1.1", "HTTP/1.0")),
        (
            "redirect",
            long(40_000).replace("200 OK", "302 Found").replace("now\r\n", "now\r\nLocation: /n\r\n"),
        ),
        ("chunked, short", chunked("3\r\nup\n\r\n0\r\n\r\n")),
        ("chunked, long", chunked(&(chunk(40_000) + &chunk(33_000) + "0\r\nA: b\r\n\r\n"))),
        ("chunked, a short one and a long one", chunked(&(chunk(10) + &chunk(50_000) + "0\r\n\r\n"))),
        ("chunked, malformed behind a long one", chunked(&(chunk(40_000) + "nonsense\r\n"))),
        ("chunked, a long one that is longer", chunked(&chunk(40_000).replace("9c40", "9c3f"))),
        ("chunked, malformed at once", chunked("nonsense\r\n")),
        ("interim", "HTTP/1.1 103 Hm\r\nLink: </>\r\n\r\n".to_owned() + &long(40_000)),
        ("two interim", "HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hm\r\n\r\n".to_owned() + &long(40_000)),
        (
            "a long interim",
            format!("HTTP/1.1 103 Hm\r\nLink: {}\r\n\r\n", "l".repeat(20_000)) + &long(40_000),
        ),
        ("a head one byte shorter than a peek", head_of(1023, 40_000)),
        ("a head as long as a peek", head_of(1024, 40_000)),
        ("a head one byte longer than a peek", head_of(1025, 40_000)),
        ("a head as long as two peeks", head_of(2048, 40_000)),
        ("a head of 60 KB", head_of(60_000, 40_000)),
        ("until close", head("") + &body("second", 200_000)),
        ("until close, short", head("") + "up\n"),
        ("malformed", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".into()),
        ("another protocol", "HTTP/1.1 101 Go\r\n\r\n".into()),
        ("two lengths", long(40_000).replace("Date: now\r\n", "Content-Length: 1\r\n")),
        ("bytes behind a long one", long(40_000) + "HTTP/1.1 200 OK\r\n\r\n"),
        ("a byte after a long one", long(40_000) + "x"),
        ("bytes behind a short one", long(5) + "HTTP/1.1 200 OK\r\n\r\n"),
        ("bytes after one that fills a peek", long(1024 - long(100).len() + 100) + "x"),
    ];
    for (name, answer) in &answers {
        for (ask, asks) in [(SCRAPE, "GET"), (HEAD, "HEAD"), (OLD, "HTTP/1.0"), (CLOSES, "closes")] {
            let head_end = answer.find("\r\n\r\n").expect("a head") + 4;
            let answer = match asks {
                "HEAD" if !name.contains("interim") && !name.contains("behind") => &answer[..head_end],
                _ => answer.as_str(),
            };
            let bytes = answer.as_bytes();
            let ends = name.contains("until close");
            let at_most = |at: usize| at.min(bytes.len());
            let all = [0, 1, head_end - 1, head_end, head_end + 1, 1023, 1024, 1025, bytes.len() - 1];
            let cuts = if asks == "GET" { &all[..] } else { &[0, head_end, 1024] };
            for (at, &cut) in cuts.iter().enumerate() {
                let parts = [&bytes[..at_most(cut)], &bytes[at_most(cut)..]];
                let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                let seed = at as u64;
                let fresh = came_of(seed, false, ask, &parts, ends);
                let kept = came_of(seed, true, ask, &parts, ends);
                let cut = format!("{name}, {asks}, cut at {cut}");
                if fresh.outcomes[Outcome::MalformedResponseBody as usize] > 0 {
                    // Whether its head was forwarded by then, and how much of the body, depends on how it was read.
                    let is_sound = kept.got.starts_with("HTTP/1.1 502 ") || answer.starts_with(&kept.got);
                    assert!(is_sound || asks != "GET", "{cut}: {}", kept.got);
                    assert_eq!((kept.pod_is_kept, kept.outcomes), (false, fresh.outcomes), "{cut}");
                    continue;
                }
                assert_same(&cut, &kept.got, &fresh.got);
                let rest = |of: CameOf| CameOf { got: String::new(), ..of };
                assert_eq!(rest(kept), rest(fresh), "{cut}");
            }
        }
    }
}

#[test]
fn a_slow_long_response_is_complete() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        let answer = long_answer("second", 33_000);
        sim.send(client, SCRAPE);
        let mut got = String::new();
        let step = [1, 3, 100][seed as usize % 3];
        for part in answer.as_bytes().chunks(step) {
            sim.send(pod, part);
            if seed.is_multiple_of(4) {
                got += &sim.take(client); // otherwise it reads everything at the end
            }
        }
        got += &sim.take(client);
        assert_same(&format!("seed {seed}"), &got, &answer);
        assert_eq!(sim.pods(), [pod]);
    }
}

#[test]
fn bytes_after_a_long_body_close_the_connection_and_are_dropped() {
    for surplus in ["x", "\r\n", ANSWER_TEXT, &long_answer("poison", 50_000)] {
        // They arrive with the response; when it is complete, but before a turn has noticed; when the connection is
        // idle; or in portions, of which the first ends with them.
        for how in 0..4 {
            for seed in PIPE_SEEDS {
                let mut sim = sim_with_pipes(seed);
                let (client, pod) = scraped_long(&mut sim);
                let answer = long_answer("second", 40_000);
                sim.send(client, SCRAPE);
                sim.take(pod);
                let got = match how {
                    0 => {
                        let all = answer.clone() + surplus;
                        sim.net().kernel.peer_send(pod, all.as_bytes());
                        sim.settle();
                        sim.take(client)
                    }
                    1 => {
                        sim.net().kernel.peer_send(pod, answer.as_bytes());
                        sim.net().behind_peek = Some(|kernel, pod| {
                            kernel.peer_send(pod, b"surplus");
                        });
                        sim.settle();
                        sim.take(client)
                    }
                    2 => {
                        let got = stream(&mut sim, pod, answer.as_bytes(), client);
                        sim.net().kernel.peer_send(pod, surplus.as_bytes());
                        // The next request arrives with the same events.
                        sim.send(client, SCRAPE);
                        got
                    }
                    _ => {
                        let (first, second) = answer.split_at(answer.len() - 10_000);
                        let got = stream(&mut sim, pod, first.as_bytes(), client);
                        got + &stream(&mut sim, pod, (second.to_owned() + surplus).as_bytes(), client)
                    }
                };
                assert_same(&format!("seed {seed}"), &got, &answer);
                assert!(
                    !sim.is_held(pod),
                    "{surplus:.20?} in way {how} with seed {seed}: the connection is pooled"
                );
                if how != 2 {
                    sim.send(client, SCRAPE);
                }
                let [fresh] = sim.pods()[..] else { panic!("{:?}", sim.pods()) };
                assert_answer(&mut sim, client, fresh);
            }
        }
    }
}

const ANSWER_TEXT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlies";

#[test]
fn a_pod_that_disconnects_within_a_long_body_leaves_it_visibly_broken() {
    let chunk = format!(
        "HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n{}",
        body("chunk", 40_000)
    );
    let until_close = format!("HTTP/1.1 200 OK\r\nDate: now\r\n\r\n{}", body("until close", 40_000));
    for (answer, expected) in [
        (long_answer("length", 40_000), Close::Fin),
        (chunk, Close::Fin),
        (until_close, Close::Reset), // an orderly end would make it look complete
    ] {
        for how in 0..4 {
            for said in [0, 1, 200, 1024, 35_000, 39_000] {
                for seed in PIPE_SEEDS.step_by(5) {
                    let is_end = expected == Close::Reset && how == 0;
                    if is_end {
                        continue; // a regular end of this body
                    }
                    let mut sim = sim_with_pipes(seed);
                    let (client, pod) = scraped_long(&mut sim);
                    sim.send(client, SCRAPE);
                    sim.take(pod);
                    let head = answer.find("\r\n\r\n").expect("a head") + 4;
                    let said = &answer[..(head + said).min(answer.len() - 1)];
                    let mut got = String::new();
                    if how == 3 {
                        // Between the peek and the next call.
                        sim.net().kernel.peer_send(pod, said.as_bytes());
                        sim.net().behind_peek = Some(|kernel, pod| kernel.peer_reset(pod, true));
                    } else {
                        got += &stream(&mut sim, pod, said.as_bytes(), client);
                    }
                    match how {
                        0 => sim.net().kernel.peer_end(pod),
                        1 => sim.net().kernel.peer_reset(pod, false),
                        2 => sim.net().kernel.peer_reset(pod, true),
                        _ => {}
                    }
                    sim.settle();
                    got += &sim.take(client);
                    let case = format!("{said:.60?} ({} bytes), how {how}, seed {seed}", said.len());
                    // A reset may overtake earlier bytes.
                    let (_, got) = got.split_once("\r\n\r\n").unwrap_or(("", ""));
                    assert!(said[head..].starts_with(got), "{case}");
                    let shows = expected == Close::Fin && how != 3;
                    assert!(!shows || said[head..].len() == got.len(), "{case}");
                    assert_eq!(end_of(&mut sim, client), Some(expected), "{case}");
                    assert_eq!((sim.pods(), sim.count(Outcome::ResponseTruncated)), (vec![], 1), "{case}");
                    // No bytes of it remain to affect others.
                    let client = sim.client();
                    scrape(&mut sim, client, &long_answer("after", 40_000));
                }
            }
        }
    }
}

#[test]
fn a_long_body_may_end_together_with_its_pods_connection() {
    for seed in PIPE_SEEDS {
        for ends in [false, true] {
            let mut sim = sim_with_pipes(seed);
            let (client, pod) = scraped_long(&mut sim);
            let answer = if ends {
                long_answer("until close", 50_000).replace("Content-Length: 50000", "X: y")
            } else {
                long_answer("length", 50_000)
            };
            sim.send(client, SCRAPE);
            sim.net().kernel.peer_send(pod, answer.as_bytes());
            sim.net().kernel.peer_end(pod);
            sim.turn();
            sim.settle();
            let got = sim.take(client);
            assert_same(&format!("seed {seed}"), &got.replace("Connection: close\r\n", ""), &answer);
            assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![], 2));
            assert_eq!(sim.is_held(client), !ends || sim.net().kernel.conns[client].worker_ended);
        }
    }
}

#[test]
fn a_client_that_disconnects_within_a_long_body_leaves_no_bytes() {
    for seed in PIPE_SEEDS {
        for how in 0..4 {
            let mut sim = sim_with_pipes(seed);
            let (client, pod) = scraped_long(&mut sim);
            let other = sim.client();
            sim.send(client, SCRAPE);
            let answer = long_answer("second", 900_000);
            // More than the client reads: the rest waits for it.
            sim.net().kernel.peer_send(pod, &answer.as_bytes()[..60_000]);
            if seed.is_multiple_of(3) {
                sim.settle();
                // So much that not all of the rest is held for the client.
                sim.net().kernel.peer_send(pod, &answer.as_bytes()[60_000..]);
                sim.settle();
            }
            let gone = ["end", "close", "reset", "reset, unseen"][how];
            match how {
                0 => sim.net().kernel.peer_end(client),
                1 => sim.net().kernel.peer_close(client),
                2 => sim.net().kernel.peer_reset(client, true),
                _ => {
                    // The splice finds the reset before an event reports it.
                    sim.net().kernel.peer_reset(client, false);
                    sim.net().kernel.conns[client].woken = false;
                }
            }
            sim.settle();
            sim.settle();
            if how == 3 && sim.is_held(client) {
                // There was nothing to splice.
                sim.net().kernel.conns[client].woken = true;
                sim.settle();
            }
            assert!(!sim.is_held(pod) && !sim.is_held(client), "{gone}, seed {seed}");
            assert_eq!(sim.count(Outcome::ClientClosedRequest), 1, "{gone}, seed {seed}");
            let pod = scrape(&mut sim, other, &long_answer("other", 100_000));
            assert_eq!(scrape(&mut sim, other, &long_answer("another", 100_000)), pod);
        }
    }
}

#[test]
fn a_client_that_stalls_within_a_long_body_gets_the_rest_later() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        sim.send(client, SCRAPE);
        sim.take(pod);
        let answer = long_answer("second", 900_000);
        let mut left = answer.as_bytes();
        // The client reads nothing until no byte moves, then some bytes, and so on.
        let mut kept_max = 528 * 1024;
        let mut got = Vec::new();
        for round in 0.. {
            loop {
                let sent = sim.net().kernel.peer_send(pod, left);
                left = &left[sent..];
                sim.settle();
                if sent == 0 {
                    break;
                }
            }
            let net = sim.net();
            let (read, written) =
                (net.kernel.conns[pod].to_worker.taken, net.kernel.conns[client].from_worker.pushed);
            let kept = read - written;
            assert!(kept <= kept_max, "{kept} bytes are held for it, of at most {kept_max}");
            if kept <= 64 * 1024 {
                kept_max = 64 * 1024; // for a slow client, at most one read is held
            }
            drop(net);
            let turns = sim.net().turn;
            sim.settle();
            assert_eq!(sim.net().turn, turns, "a turn ran although the client read nothing");
            let most = [1, 30_000, 64 * 1024, 5][round % 4];
            let taken = sim.net().kernel.peer_take(client, most);
            sim.settle();
            if taken.is_empty() {
                break;
            }
            got.extend_from_slice(&taken);
        }
        assert_same(&format!("seed {seed}"), &String::from_utf8(got).expect("text"), &answer);
        assert_eq!((sim.pods(), sim.count(Outcome::Forwarded)), (vec![pod], 2));
        scrape(&mut sim, client, &long_answer("third", 50_000));
    }
}

#[test]
fn a_client_that_stalls_within_a_long_body_for_too_long_is_closed() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        let (client, pod) = scraped_long(&mut sim);
        sim.send(client, SCRAPE);
        let answer = long_answer("second", 900_000);
        let sent = sim.net().kernel.peer_send(pod, answer.as_bytes());
        sim.settle();
        sim.net().kernel.peer_send(pod, &answer.as_bytes()[sent..]);
        sim.settle();
        sim.pass(Duration::from_millis(2900));
        assert!(sim.is_held(client) && sim.is_held(pod), "closed before the deadline");
        sim.pass(Duration::from_millis(200));
        assert!(!sim.is_held(client) && !sim.is_held(pod));
        assert_eq!(sim.count(Outcome::ClientTimeout), 1);
        // A pod that stalls has another outcome.
        let client = sim.client();
        sim.send(client, SCRAPE);
        let pod = sim.pods()[0];
        sim.send(pod, &answer.as_bytes()[..40_000]);
        sim.take(client);
        sim.pass(Duration::from_millis(3100));
        assert!(!sim.is_held(pod));
        assert_eq!(end_of(&mut sim, client), Some(Close::Fin));
        assert_eq!((sim.count(Outcome::ResponseBodyTimeout), sim.count(Outcome::ClientTimeout)), (1, 1));
    }
}
