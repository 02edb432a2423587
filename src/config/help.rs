//! The text of `--help`.

/// The text that `--help` prints.
pub const HELP: &str = "\
psystrike forwards Prometheus's scrapes to pods that it cannot reach: for jobs with
proxy_url: http://PSYSTRIKE:8080, and at /pods/{host}/{port}/{path} for jobs that rewrite paths.

Usage: psystrike [OPTIONS]

Where it listens, and what it runs on
  --listen ADDR              address to listen on; may repeat; with port 0 the log says which
                             [default: [::]:8080, or 0.0.0.0:8080 without IPv6]
  --workers N|auto           event loops, one thread each; auto: one for each core
                             that the cgroup grants; one is enough for thousands of pods
                             [default: 1]

Where it may connect
  --allow CIDR               pod addresses that may be reached; may repeat; replaces the
                             default; loopback and the like need an entry of their own [default:
                             10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7]
  --deny CIDR                taken out again; wins over --allow; may repeat [default: none]
  --allow-ports LIST         pod ports that may be reached, as in 8080,9090-9999
                             [default: 1-65535]
  --allow-connect            open tunnels (CONNECT) to these destinations, for targets with
                             https and a proxy_url
  --connect-ports LIST       ports that tunnels may reach, among those of --allow-ports
                             [default: all of them]
  --allow-names SUFFIXES     pod names that may be resolved: these and those below them, as in
                             svc,example.com; --allow holds for their addresses [default: any]

How long things may take (500ms, 3s, 2m, 1h)
  --timeout D                a scrape that names no limit of its own, to its last byte, whatever
                             --timeout-max says [default: 30s]
  --timeout-max D            the most that a scrape's own limit may ask for [default: 2m]
  --connect-timeout D        connecting to a pod [default: 3s]
  --header-timeout D         a request's head, from its first byte on, and the silence of a new
                             client [default: 10s]
  --client-idle-timeout D    a client between two requests; Prometheus closes after 5 minutes:
                             stay above that [default: 6m]
  --upstream-idle-timeout D  a pod connection that is kept [default: 3m]
  --tunnel-idle-timeout D    a tunnel in which no byte moves [default: 6m]
  --resolve-ttl D            how long the addresses of a name are used [default: 5s]

How much there may be (the log says what the defaults come to)
  --clients-max N            client connections; at the limit the longest-idle one is closed; if
                             none is idle, a new one waits up to 1.2s, then gets 503
                             [default: as many as half of the open files and a quarter of the
                             cgroup's memory allow, at most 16384]
  --upstreams-idle-max N     pooled pod connections, divided among the workers, at least 1 each;
                             0 pools none; at the limit the least recently used is closed
                             [default: likewise]
  --buffers-max SIZE         bytes held for clients and pods (512KiB, 8MiB, 1GiB), beyond 4 KiB
                             for each client; at the limit reading pauses, and then the session
                             that has stalled longest is ended [default: 64MiB, at most
                             a quarter of the cgroup's memory limit]

How it ends, and what it says
  --shutdown-delay D         after SIGTERM, serve on so long with /readyz failing [default: 0s]
  --shutdown-timeout D       then finish what runs, at most so long [default: 30s]
  --log-level L              off, error, warn, info, debug or trace; --access-log is apart
                             [default: info]
  --access-log               log a line for each scrape
  --healthcheck [URL]        ask a page of one that runs, and exit: with 0 if it answers 200,
                             else with 1 [default: /healthz, where --listen says]
  --help                     print this
  --version                  print version and revision

Every option but the last three can be given as a variable: --connect-timeout is
PSYSTRIKE_CONNECT_TIMEOUT; lists are comma-separated; the option wins; an empty variable counts
for nothing, and a warning in the log names those that are no option's. SIGTERM and SIGINT end
it, a second one at once. The exit status is 0 then, 2 for a wrong option, 1 for what goes wrong
later, and 143 after a second signal.
";
