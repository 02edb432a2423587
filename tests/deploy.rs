//! The files that users copy are right: the manifest's arguments and probes work with the real binary.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{psystrike::Psystrike, read};

const MANIFEST: &str = "deploy/kubernetes/psystrike.yaml";

fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_manifest_runs_the_binary_as_it_is() {
    let documents = documents(MANIFEST);
    let [deployment, service] = documents.as_slice() else { panic!("{MANIFEST}: {documents:#?}") };
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];

    let arguments = container["args"].as_array().expect("the container has arguments");
    let arguments: Vec<&str> = arguments.iter().filter_map(Value::as_str).collect();
    let psystrike = Psystrike::start(&arguments);
    for probe in ["livenessProbe", "readinessProbe"] {
        let request = &container[probe]["httpGet"];
        let answer = psystrike.get(request["path"].as_str().expect("the probe has a path"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok\n"), "{probe}: {request}");
        assert_eq!(request["port"], container["ports"][0]["name"], "{probe}");
        assert_eq!(container[probe]["initialDelaySeconds"], Value::Null, "it starts at once");
    }
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], container["ports"][0]["containerPort"].to_string());
    let metrics = psystrike.get(annotations["prometheus.io/path"].as_str().expect("it is annotated"));
    assert_eq!(metrics.status(), 200);

    // Where the original's users have their Service, and what restricted Pod Security asks for.
    for (at, got, expected) in [
        ("nodePort", &service["spec"]["ports"][0]["nodePort"], json!(31000)),
        ("port", &service["spec"]["ports"][0]["port"], json!(8080)),
        ("type", &service["spec"]["type"], json!("NodePort")),
        ("targetPort", &service["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"].clone()),
        (
            "selector",
            &service["spec"]["selector"],
            deployment["spec"]["template"]["metadata"]["labels"].clone(),
        ),
        ("matchLabels", &deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"].clone()),
        ("runAsNonRoot", &pod["securityContext"]["runAsNonRoot"], json!(true)),
        ("seccompProfile", &pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault")),
        ("token", &pod["automountServiceAccountToken"], json!(false)),
        ("root", &container["securityContext"]["readOnlyRootFilesystem"], json!(true)),
        ("escalation", &container["securityContext"]["allowPrivilegeEscalation"], json!(false)),
        ("capabilities", &container["securityContext"]["capabilities"]["drop"], json!(["ALL"])),
        ("version", &container["image"], json!(concat!("psystrike:", env!("CARGO_PKG_VERSION")))),
    ] {
        assert_eq!(*got, expected, "{at}");
    }
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("it has a grace period");
    let shutdown_timeout = 30;
    assert!(grace > 5 + shutdown_timeout, "{grace}s end before --shutdown-delay and --shutdown-timeout do");
}

#[test]
fn the_dockerfile_copies_what_there_is() {
    let dockerfile = read("Dockerfile");
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).collect::<Vec<_>>();
    let from_here = copies.iter().filter(|copy| !copy.starts_with("--from"));
    let sources: Vec<&str> = from_here
        .flat_map(|copy| copy.split(' ').rev().skip(1)) // the last one is where to
        .collect();
    assert!(sources.contains(&"src"), "{dockerfile}");
    for source in sources {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        assert!(path.exists(), "COPY {source}: there is no such file");
    }
    let image = dockerfile.split("FROM scratch").nth(1).expect("the last stage is empty to begin with");
    for line in ["COPY --from=build /psystrike /psystrike", "USER 65532:65532", "ENTRYPOINT [\"/psystrike\"]"]
    {
        assert!(image.lines().any(|known| known == line), "{line} is missing in\n{image}");
    }
}
