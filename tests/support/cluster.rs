//! A Kubernetes cluster of one node for service discovery: its API server and its kubelet over TLS at one address, by
//! tests/kubernetes_api.py.

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{LIMIT, Scratch, poll_within, program::Program, repository};

pub struct Cluster {
    program: Program,
    address: SocketAddr,
}

impl Cluster {
    /// Starts a cluster on a free port of `ip`, with the certificate and the key in `scratch`: cert.pem and key.pem.
    pub fn start(scratch: &Scratch, ip: &str, pods: &[Value]) -> Self {
        let node = json!({ "metadata": { "name": "node-1", "uid": "node-1" } });
        let objects = json!({ "pods": pods, "nodes": [node] }).to_string();
        let objects = scratch.write(&format!("objects-of-{}.json", ip.replace(':', "-")), &objects);
        let mut command = Command::new("python3");
        command.arg(repository().join("tests/kubernetes_api.py"));
        command.args([scratch.path("cert.pem"), scratch.path("key.pem")]).arg(ip).arg(objects);
        let program = Program::start(&mut command);
        let line = program.wait_for_line("listening on port", LIMIT);
        let port = line.rsplit(' ').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { program, address: SocketAddr::new(ip.parse().expect("an address"), port) }
    }

    /// Returns the address of its API server and its kubelet.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for requests, with the token, for pods, nodes and endpoints, and for the metrics of the kubelet, cAdvisor
    /// and the API server.
    pub fn wait_until_all_is_answered(&self) {
        let endpoints = "/api/v1/namespaces/default/endpoints";
        let paths = ["/api/v1/pods", "/api/v1/nodes", endpoints, "/metrics", "/metrics/cadvisor"];
        let missing = || {
            let logged = self.program.stderr();
            let is_logged = |path: &&str| logged.lines().any(|line| line == format!("GET {path}"));
            paths.into_iter().filter(|path| !is_logged(path)).collect::<Vec<_>>()
        };
        poll_within(LIMIT, "paths without a request", missing, Vec::is_empty);
    }
}

/// Returns a pod as the API server describes it, annotated to be scraped at this address.
pub fn pod(name: &str, address: SocketAddr, annotations: &[(&str, &str)]) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut annotated = json!({ "prometheus.io/scrape": "true", "prometheus.io/port": port });
    for (annotation, value) in annotations {
        annotated[format!("prometheus.io/{annotation}")] = (*value).into();
    }
    json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": { "app": name }, "annotations": annotated,
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [{ "name": name, "image": name, "ports": [{ "containerPort": address.port() }] }],
        },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    })
}
