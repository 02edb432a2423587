//! Long bodies of several clients, and kernels that refuse pipes.

use std::time::Duration;

use psystrike::proxy::outcome::Outcome;

use super::{
    PAGE, SCRAPE, assert_starts,
    bodies::{PIPE_SEEDS, assert_same, long_answer, scrape, scraped_long, sim_with_pipes, stream},
    bytes::Random,
    kernel::{ConnId, Link},
    net::{Optional, Owner, Refusal},
    sim,
    sim::{GATHER, Sim},
};

/// The kernel has all of a long response, and room for it at the client: only the worker itself ends its run.
#[test]
fn long_responses_take_turns_and_short_ones_run_first() {
    const MIB: usize = 1 << 20;
    const BODY: usize = 24 * MIB;
    let mut sim = sim();
    sim.net().rooms = [64 * MIB; 2];
    let begin = |sim: &mut Sim| {
        let client = sim.net().add_conn(Owner::Test, None, Link::Up, [64 * MIB; 2]);
        sim.admit(0, client);
        sim.net().kernel.peer_send(client, SCRAPE);
        let pods = sim.pods().len();
        (0..6).for_each(|_| sim.turn());
        let pod = sim.pods()[pods];
        assert!(!sim.net().kernel.peer_take(pod, usize::MAX).is_empty(), "the pod received the request");
        sim.net().kernel.peer_send(pod, long_answer("bulk", BODY).as_bytes());
        client
    };
    let sent = |sim: &Sim, client: ConnId| sim.net().kernel.conns[client].from_worker.pushed;
    // A single response is limited per turn, and new events are fetched before the next.
    let first = begin(&mut sim);
    let mut turns = 0;
    while sent(&sim, first) < BODY / 4 {
        let before = sent(&sim, first);
        sim.turn();
        let moved = sent(&sim, first) - before;
        assert!(moved <= 2 * MIB, "{moved} bytes in a turn");
        turns += 1;
    }
    assert!(turns >= 4, "{turns}");
    // Several responses take turns at similar progress.
    let [second, third] = [begin(&mut sim), begin(&mut sim)];
    let all = [first, second, third];
    for _ in 0..6 {
        let before = all.map(|client| sent(&sim, client));
        let page = sim.client();
        sim.net().kernel.peer_send(page, PAGE);
        sim.turn();
        let answer = sim.net().kernel.peer_take(page, usize::MAX);
        assert_starts(&String::from_utf8_lossy(&answer), "HTTP/1.1 200 OK\r\n");
        let moved: Vec<_> =
            all.iter().zip(before).map(|(&client, before)| sent(&sim, client) - before).collect();
        assert!(moved.iter().sum::<usize>() <= 3 * MIB, "{moved:?}");
        assert!(moved.iter().all(|&moved| moved <= MIB + MIB / 8), "{moved:?}");
    }
    sim.settle();
    for client in all {
        let taken = sim.take(client);
        assert_same("a long answer", &taken, &long_answer("bulk", BODY));
    }
}

#[test]
fn without_a_descriptor_for_a_pipe_a_long_response_is_copied() {
    for from in 0..3 {
        let mut sim = sim_with_pipes(1);
        let client = sim.client();
        sim.net().fds_max = if from == 0 { 2 } else { usize::MAX };
        for at in 0..6 {
            if at == from {
                // An earlier pipe is kept and still used.
                sim.net().fds_max = 2;
            }
            let pod = scrape(&mut sim, client, &long_answer(&format!("scrape {at}"), 200_000));
            assert_eq!(sim.pods(), [pod]);
        }
        assert_eq!(sim.count(Outcome::Forwarded), 6);
        assert_eq!(sim.net().poured > 0, from > 0);
        let poured = sim.net().poured;
        // As soon as a descriptor is free again, there is a pipe again.
        sim.net().fds_max = usize::MAX;
        scrape(&mut sim, client, &long_answer("at last", 200_000));
        assert!(sim.net().poured > poured);
    }
}

#[test]
fn if_the_kernel_refuses_pipes_long_responses_are_copied() {
    for seed in PIPE_SEEDS {
        for call in [Optional::Pipe, Optional::Fill, Optional::Look, Optional::Pour] {
            for (nth, error) in Refusal::ERRORS.into_iter().enumerate() {
                let mut sim = sim_with_pipes(seed);
                let after = if call == Optional::Pipe { 0 } else { nth };
                sim.net().chaos.refuses = Some(Refusal { call, error, after });
                let client = sim.client();
                for at in 0..8 {
                    scrape(&mut sim, client, &long_answer(&format!("scrape {at}"), 200_000));
                }
                let case = format!("{call:?}: {error} after {after}, seed {seed}");
                assert!(!sim.shared.splices(), "{case}");
                assert_eq!(sim.count(Outcome::Forwarded), 8, "{case}");
                let poured = sim.net().poured;
                // The refusal is final.
                sim.net().chaos.refuses = None;
                scrape(&mut sim, client, &long_answer("at last", 200_000));
                assert_eq!(sim.net().poured, poured, "{case}");
            }
        }
    }
}

#[test]
fn a_pod_that_fails_within_a_long_body_affects_no_other() {
    let mut sim = sim_with_pipes(1);
    let (client, pod) = scraped_long(&mut sim);
    sim.send(client, SCRAPE);
    sim.send(pod, &long_answer("second", 900_000).as_bytes()[..40_000]);
    sim.take(client);
    sim.net().kernel.peer_reset(pod, true);
    sim.settle();
    assert_eq!((sim.count(Outcome::ResponseTruncated), sim.shared.splices()), (1, true));
}

#[test]
fn long_bodies_of_two_clients_in_turn_do_not_mix() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        sim.net().rooms = [20_000, 4096];
        let clients = [(); 2].map(|()| sim.client());
        for round in 0..3 {
            sim.pass(Duration::from_millis(1));
            clients.iter().for_each(|&client| sim.send(client, SCRAPE));
            let pods: [ConnId; 2] = sim.pods().try_into().expect("two connections");
            let answers = [0, 1].map(|pod| long_answer(&format!("round {round} pod {pod}"), 150_000));
            pods.iter().for_each(|&pod| drop(sim.take(pod)));
            let mut left = [answers[0].as_bytes(), answers[1].as_bytes()];
            let mut got = [String::new(), String::new()];
            let mut random = Random::new(seed);
            while !left.concat().is_empty() {
                let at = random.below(2);
                let most = random.pick(&[1, 1000, 7000, 20_000]).min(left[at].len());
                let sent = sim.net().kernel.peer_send(pods[at], &left[at][..most]);
                left[at] = &left[at][sent..];
                if random.one_in(2) {
                    sim.settle();
                }
                if random.one_in(3) {
                    let at = random.below(2);
                    got[at] += &sim.take(clients[at]);
                }
            }
            sim.settle();
            sim.pass(GATHER);
            while clients.iter().any(|&client| !sim.net().kernel.conns[client].from_worker.is_empty()) {
                (0..2).for_each(|at| got[at] += &sim.take(clients[at]));
            }
            // Which connection got which request is unknown here.
            got.sort_by_key(|got| !got.contains("pod 0"));
            got.iter()
                .zip(&answers)
                .for_each(|(got, answer)| assert_same(&format!("seed {seed}"), got, answer));
        }
        assert_eq!((sim.pods().len(), sim.count(Outcome::Forwarded)), (2, 6));
    }
}

#[test]
fn a_pod_with_a_long_early_response_is_not_pooled() {
    for seed in PIPE_SEEDS {
        let mut sim = sim_with_pipes(seed);
        sim.net().rooms = [1 << 20, 1000];
        let (client, pod) = scraped_long(&mut sim);
        let long = format!("GET /pods/10.0.0.1/80/{} HTTP/1.1\r\nHost: p\r\n\r\n", "m".repeat(15_000));
        sim.send(client, long.as_bytes());
        let answer = long_answer("early", 200_000);
        let got = stream(&mut sim, pod, answer.as_bytes(), client);
        assert_same(&format!("seed {seed}"), &got, &answer);
        assert_eq!((sim.pods(), sim.is_held(client)), (vec![], true));
    }
}
