//! The Dockerfile copies what there is.

mod support;

use std::path::Path;

use support::read;

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
