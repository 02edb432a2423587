//! The table of options: name, kind of value, default, and description.
//!
//! Parsing, `--help`, the variables, the README's table and the chart's schema all follow from it.

use crate::proxy::policy::ALLOW_DEFAULT;

/// A heading in `--help`, and the options below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Where psystrike listens, and on how many threads.
    Server,
    /// Which clients are served.
    Access,
    /// What psystrike may connect to.
    Destinations,
    /// Time limits.
    Timeouts,
    /// Limits of counts and sizes.
    Limits,
    /// Shutdown, logging, and commands.
    Process,
}

impl Group {
    /// All groups, in the order of `--help`.
    pub const ALL: &[Self] =
        &[Self::Server, Self::Access, Self::Destinations, Self::Timeouts, Self::Limits, Self::Process];

    /// Returns the heading.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Access => "Access control",
            Self::Destinations => "Allowed destinations",
            Self::Timeouts => "Timeouts (500ms, 3s, 1m30s, 1h)",
            Self::Limits => "Limits (the limits in effect are logged at startup)",
            Self::Process => "Process",
        }
    }
}

/// The kind of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No value.
    Flag,
    /// Socket addresses. May be repeated.
    Addresses,
    /// Address ranges. May be repeated.
    Ranges,
    /// Ports and ranges of ports.
    Ports,
    /// DNS names. May be repeated.
    Names,
    /// A DNS name or an IP address.
    Host,
    /// DNS names and IP addresses. May be repeated.
    Hosts,
    /// The names of clients in their certificates. May be repeated.
    ClientNames,
    /// The path of a file.
    File,
    /// A version of TLS.
    TlsVersion,
    /// A number of event loops, or `auto`.
    Workers,
    /// A duration above zero.
    Duration,
    /// A duration, or zero.
    DurationOrZero,
    /// Zero to 100 milliseconds.
    Milliseconds,
    /// A whole number above zero.
    Count,
    /// A whole number, or zero.
    CountOrZero,
    /// A number of bytes.
    Size,
    /// A scheme of a URI, or `client`.
    Scheme,
    /// A log level.
    Level,
    /// A log format.
    Format,
    /// No value and no variable: runs another action instead of serving.
    Action,
    /// As [`Kind::Action`], with an optional URL.
    Url,
}

impl Kind {
    /// Returns the placeholder of the value. Empty without a value.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Flag | Self::Action => "",
            Self::Addresses => "ADDR",
            Self::Ranges => "CIDR",
            Self::Ports => "LIST",
            Self::Names => "SUFFIXES",
            Self::Host | Self::Hosts | Self::ClientNames => "NAME",
            Self::File => "FILE",
            Self::TlsVersion => "1.2|1.3",
            Self::Workers => "N|auto",
            Self::Duration | Self::DurationOrZero | Self::Milliseconds => "D",
            Self::Count | Self::CountOrZero => "N",
            Self::Size => "SIZE",
            Self::Scheme => "SCHEME",
            Self::Level => "LEVEL",
            Self::Format => "FORMAT",
            Self::Url => "[URL]",
        }
    }
}

/// The default of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Value(&'static str),
    /// A description of the default, in Markdown.
    Text(&'static str),
    /// No default to document.
    Silent,
}

/// Declares [`Opt`] from a table, so that no option can lack a column.
macro_rules! options {
    ($(
        $option:ident $name:literal $kind:ident $group:ident $default:ident $(($value:expr))?
        $description:literal;
    )*) => {
        /// An option of the command line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Opt {
            $(#[doc = $description] $option,)*
        }

        impl Opt {
            /// All options, in the order of `--help`.
            pub const ALL: &[Self] = &[$(Self::$option,)*];

            /// Returns the name, with its dashes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$option => $name,)* }
            }

            /// Returns the kind of its value.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$option => Kind::$kind,)* }
            }

            /// Returns the group it belongs to.
            pub const fn group(self) -> Group {
                match self { $(Self::$option => Group::$group,)* }
            }

            /// Returns its default.
            pub const fn default(self) -> Fallback {
                match self { $(Self::$option => Fallback::$default $(($value))?,)* }
            }

            /// Returns the description, in Markdown, without a final period.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$option => $description,)* }
            }
        }
    };
}

impl Opt {
    /// Returns its short name, if it has one.
    pub const fn short(self) -> Option<&'static str> {
        match self {
            Self::Help => Some("-h"),
            Self::Version => Some("-V"),
            _ => None,
        }
    }

    /// Returns the name of its variable, if it has one.
    pub fn variable(self) -> Option<String> {
        let name = self.name().trim_start_matches('-').replace('-', "_").to_ascii_uppercase();
        (!matches!(self.kind(), Kind::Action | Kind::Url)).then(|| format!("PSYSTRIKE_{name}"))
    }
}

options! {
    Listen "--listen" Addresses Server Text("`[::]:8080`, or `0.0.0.0:8080` without IPv6")
        "Address to listen on. May be repeated. With port 0 the kernel chooses a port, which is logged";
    Workers "--workers" Workers Server Value("1")
        "Number of event loops, each in its own thread. `auto`: one for each core that the cgroup allows. One is \
         enough for thousands of pods";

    AllowClients "--allow-clients" Ranges Access Text("any")
        "Client addresses that may connect. May be repeated. Connections from other addresses are closed at once";
    AuthTokenFile "--auth-token-file" File Access Text("none")
        "Require one of the secrets in this file, which has one on each line: as a bearer token, or as the password \
         of any user. The file is read again when it changes, and on SIGHUP";
    WebConfigFile "--web-config-file" File Access Text("none")
        "Require users and passwords, or TLS, as this file says, in the format of Prometheus's exporters; \
         `--web.config.file` is the same option. The file, and the files that it names, are read again when they \
         change, and on SIGHUP";
    AuthMetrics "--auth-metrics" Flag Access Text("off")
        "Require credentials for `/` and `/metrics` too, but never for `/healthz` and `/readyz`";
    TlsOnly "--tls-only" Flag Access Text("off")
        "Refuse requests over plain HTTP, except for `/healthz` and `/readyz`";

    TlsCert "--tls-cert" File Access Text("none")
        "Accept TLS with this certificate, followed by its chain, in PEM. It is read again, with its key, when a file \
         changes, and on SIGHUP";
    TlsKey "--tls-key" File Access Text("none")
        "The key of `--tls-cert`: ECDSA, RSA or Ed25519, in PEM";
    TlsSelfSigned "--tls-self-signed" Flag Access Text("off")
        "Accept TLS with a certificate that is made at each start. Clients cannot verify it";
    TlsName "--tls-name" Hosts Access Text("the host name, `localhost`, and the addresses of `--listen`")
        "Name in the certificate of `--tls-self-signed`. May be repeated";
    TlsClientCa "--tls-client-ca" File Access Text("none")
        "Require a certificate that one of the CAs in this file signed, from every client. With `--auth-token-file`, \
         a certificate or a secret is enough. The file is read again when it changes";
    TlsClientSan "--tls-client-san" ClientNames Access Text("any")
        "Names that the certificate of a client may have: DNS names, IP addresses, e-mail addresses or URIs, which are \
         compared exactly. May be repeated";
    TlsMinVersion "--tls-min-version" TlsVersion Access Value("1.2")
        "The lowest version of TLS that clients may use";

    Allow "--allow" Ranges Destinations Value(ALLOW_DEFAULT)
        "Addresses that may be scraped. May be repeated; replaces the default. Loopback, link-local and other \
         special ranges are refused unless they are listed explicitly";
    Deny "--deny" Ranges Destinations Text("none")
        "Addresses to refuse even if `--allow` matches. May be repeated";
    AllowPorts "--allow-ports" Ports Destinations Value("1-65535")
        "Ports that may be scraped, such as `8080,9090-9999`";
    AllowNames "--allow-names" Names Destinations Text("any")
        "DNS names that may be requested, with all their subdomains, such as `svc,example.com`. The resolved \
         addresses must be allowed as well";
    AllowConnect "--allow-connect" Flag Destinations Text("off")
        "Accept `CONNECT` requests, which open tunnels to allowed destinations. Required for `https` targets with a \
         `proxy_url`";
    ConnectPorts "--connect-ports" Ports Destinations Text("same as `--allow-ports`")
        "Ports that tunnels may connect to. They must be in `--allow-ports` as well";
    PodScheme "--pod-scheme" Scheme Destinations Value("http")
        "How to scrape pods whose path does not say it, as `/pods/https:10.1.2.3/8443/metrics` does: `http`, `https`, \
         or `client`, which is the scheme of the request to psystrike";

    PodTlsCa "--pod-tls-ca" File Destinations Text("none, which trusts no certificate")
        "Trust the certificates of pods that one of the CAs in this file signed. The file is read again when it \
         changes";
    PodTlsName "--pod-tls-name" Host Destinations Text("the pod's name or address, as requested")
        "Name that the certificates of all pods must have";
    PodTlsSkipVerify "--pod-tls-skip-verify" Flag Destinations Text("off")
        "Trust any certificate of a pod. Encrypts, but does not prove which pod responds";
    PodTlsCert "--pod-tls-cert" File Destinations Text("none")
        "Certificate for pods that request one, followed by its chain, in PEM. It is read again, with its key, when a \
         file changes";
    PodTlsKey "--pod-tls-key" File Destinations Text("none")
        "The key of `--pod-tls-cert`";

    Timeout "--timeout" Duration Timeouts Value("30s")
        "Time limit for scrapes without an `X-Prometheus-Scrape-Timeout-Seconds` header. The default is \
         `--timeout-max` if that is lower";
    TimeoutMax "--timeout-max" Duration Timeouts Value("2m")
        "Highest time limit that a request may set with that header";
    ConnectTimeout "--connect-timeout" Duration Timeouts Value("3s")
        "Time limit for connecting to a pod, at most `--timeout-max`. The default is `--timeout-max` if that is \
         lower";
    HeaderTimeout "--header-timeout" Duration Timeouts Value("10s")
        "Time limit for receiving the headers of a request, and for the first byte from a new client";
    ClientIdleTimeout "--client-idle-timeout" Duration Timeouts Value("6m")
        "Close client connections that are idle for this long between two requests. Prometheus closes them after 5 \
         minutes; use a longer time here";
    UpstreamIdleTimeout "--upstream-idle-timeout" Duration Timeouts Value("3m")
        "Close pooled pod connections that are idle for this long";
    Gather "--gather" Milliseconds Timeouts Value("1ms")
        "Let a long response that arrives in small portions gather for about this long before each read, which saves \
         CPU time. At most `100ms`; `0` reads each portion when it arrives";
    TunnelIdleTimeout "--tunnel-idle-timeout" Duration Timeouts Value("6m")
        "Close tunnels that carry no data for this long. Prometheus keeps idle connections for 5 minutes; use a \
         longer time here";
    ResolveTtl "--resolve-ttl" DurationOrZero Timeouts Value("5s")
        "How long the addresses of a DNS name are cached. Failures are cached for at most 1s";

    ClientsMax "--clients-max" Count Limits
        Text("16384, or fewer to stay within half of the open-files limit and a quarter of the cgroup's memory limit")
        "Maximum number of client connections. At the limit, the longest-idle connection or tunnel is closed. If \
         none is idle, a new client gets 503 after at most 1.2s";
    UpstreamsIdleMax "--upstreams-idle-max" CountOrZero Limits Text("same rule as for `--clients-max`")
        "Maximum number of pod connections that are kept open for later scrapes. At the limit, the least recently \
         used one is closed. `0` disables pooling";
    BuffersMax "--buffers-max" Size Limits Text("`64MiB`, or a quarter of the cgroup's memory limit if that is less")
        "Maximum bytes buffered for clients and pods, such as `512KiB`, `8MiB` or `1GiB`. At the limit, psystrike \
         pauses reading. If there is still no room after 100 ms, it ends the request or tunnel that has held buffers \
         longest";

    ShutdownDelay "--shutdown-delay" DurationOrZero Process Value("0s")
        "After SIGTERM, keep serving for this long while `/readyz` returns 503";
    ShutdownTimeout "--shutdown-timeout" DurationOrZero Process Value("30s")
        "After that delay, wait at most this long for running scrapes. Connections less than 1s old may still send a \
         request";
    LogLevel "--log-level" Level Process Value("info")
        "`off`, `error`, `warn`, `info`, `debug` or `trace`";
    LogFormat "--log-format" Format Process Value("logfmt")
        "`logfmt`, `json` or `plain`";
    AccessLog "--access-log" Flag Process Text("off")
        "Log every scrape, at any `--log-level`";
    Healthcheck "--healthcheck" Url Process Text("`/healthz` at the address of `--listen`")
        "Query a running psystrike; exit with 0 if it answers 200, otherwise with 1";
    Help "--help" Action Process Silent
        "Print this help";
    Version "--version" Action Process Silent
        "Print version and revision";
}
