//! State that all parts share: the options, the pods, the installed forwarders, the report, and a folder.

use std::{fs, path::PathBuf};

use crate::{
    cases::Body,
    forwarders::Forwarder,
    machine,
    options::{Options, Part},
    pods::Pods,
    report::Report,
    setup::Setup,
};

/// State that all parts share.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) pods: Pods,
    /// The requested forwarders that are installed. Targets apply to the first psystrike.
    pub(crate) forwarders: Vec<Forwarder>,
    pub(crate) report: Report,
    pub(crate) scratch: PathBuf,
}

impl Bench {
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let open_files = machine::raise_open_files()?;
        check_open_files(&options, open_files)?;
        machine::pin(&[options.load_core])?;
        let pods = Pods::start().map_err(|error| format!("pods: {error}"))?;
        // Not below target/, which a forwarder that drops root privileges may be unable to enter.
        let scratch = std::env::temp_dir().join(format!("psystrike-side-by-side-{}", std::process::id()));
        fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
        let forwarders = installed(&options.forwarders);
        let report = Report::new(options.documents.clone(), origin(&forwarders));
        Ok(Self { options, pods, forwarders, report, scratch })
    }

    /// The first psystrike, without gathering.
    pub(crate) fn without_gathering(&self) -> Option<Forwarder> {
        self.forwarders.iter().find(|forwarder| forwarder.is_ours())?.without_gathering()
    }

    /// Prints the measured programs and the machine.
    pub(crate) fn describe(&self) {
        let Self { options, forwarders, .. } = self;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        println!("- machine: {cores} cores, {}", model.map_or("unknown", |(_, model)| model));
        println!("- kernel: {}", read("/proc/sys/kernel/osrelease").trim());
        for forwarder in forwarders {
            if let Some(version) = forwarder.version() {
                println!("- {}: {version}", forwarder.name);
            }
        }
        println!(
            "- {} rounds of {:?} each; {} clients, {} pods; forwarder on core {}, pods and load on core {}{}\n",
            options.rounds,
            options.turn,
            options.clients,
            options.pods,
            options.forwarder_core,
            options.load_core,
            if options.awake { ", which never sleep" } else { "" }
        );
    }

    /// The setup of most parts.
    pub(crate) fn setup(&self) -> Setup {
        Setup {
            scratch: self.scratch.clone(),
            cores: vec![self.options.forwarder_core],
            pods: self.options.pods,
            pods_port: self.pods.port,
            clients: self.options.clients,
            answer_bytes: 0,
        }
    }

    /// The same with the number of clients that scrape this body.
    pub(crate) fn setup_of(&self, body: Body) -> Setup {
        Setup { clients: self.options.clients_of(body), ..self.setup() }
    }
}

/// Checks that this process, and each forwarder, may have two connections for each idle client and each paced pod.
fn check_open_files(options: &Options, open_files: u64) -> Result<(), String> {
    let idle = (&[Part::Memory, Part::Tunnels][..], "--idle", options.idle_max(), 1000);
    // nginx and HAProxy close idle connections if less than about a tenth of their limit is free.
    let paced_max = options.paced.last().copied().unwrap_or_default();
    let paced = (&[Part::Paced][..], "--paced", paced_max, paced_max / 5);
    for (parts, option, number, more) in [idle, paced] {
        let needed = (2 * number + more) as u64;
        if parts.iter().any(|part| options.parts.contains(part)) && open_files < needed {
            return Err(format!(
                "{option} {number} needs {needed} open files, but the limit is {open_files} (ulimit -n)"
            ));
        }
    }
    Ok(())
}

/// The measured revision, and the command.
fn origin(forwarders: &[Forwarder]) -> String {
    let ours = forwarders.iter().find(|forwarder| forwarder.is_ours()).and_then(Forwarder::version);
    let revision = ours.as_deref().and_then(|version| version.split(['(', ')']).nth(1)).unwrap_or("unknown");
    let mut arguments = std::env::args().skip(1);
    let mut shown = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" | "--write" => {}
            "--psystrike" => drop(arguments.next()), // a path of this machine
            _ => shown.push(argument),
        }
    }
    format!("Measured at revision {revision}: `-- {}`.", shown.join(" "))
}

/// The forwarders that are installed. Prints the others, with the package to install.
pub(crate) fn installed(forwarders: &[Forwarder]) -> Vec<Forwarder> {
    let (installed, missing): (Vec<_>, Vec<_>) =
        forwarders.iter().cloned().partition(Forwarder::is_installed);
    for forwarder in missing {
        let package =
            forwarder.package().map_or(String::new(), |package| format!(" (Debian package {package})"));
        println!("NOT MEASURED: {} is not installed{package}\n", forwarder.name);
    }
    installed
}

impl Drop for Bench {
    fn drop(&mut self) {
        // If this fails, a few files stay in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}
