# syntax=docker/dockerfile:1
# psystrike: a static binary in an otherwise empty image, for amd64 and arm64. Needs BuildKit (Docker 23 or newer).
#
#   docker build --build-arg REVISION=$(git rev-parse --short=12 HEAD) -t registry.example/psystrike:0.1.0 .
#
# For both architectures, pushed to your registry. The same commit gives the same bytes each time:
#
#   SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) docker buildx build --platform linux/amd64,linux/arm64 \
#     --build-arg REVISION=$(git rev-parse --short=12 HEAD) --provenance=false \
#     --push -t registry.example/psystrike:0.1.0 .
#
# Without TLS, the binary is half as large: add --build-arg FEATURES=none.
#
# A tag can be moved to other bytes. To rule that out, name the base image by its digest, which
# `docker buildx imagetools inspect rust:1.95.0-slim-bookworm` prints:
#
#   --build-arg RUST=rust:1.95.0-slim-bookworm@sha256:...
ARG RUST=rust:1.95.0-slim-bookworm

# The compilers run on the builder's own architecture and cross-compile: nothing is emulated. TLS needs a C compiler
# (.cargo/config.toml). Debian packages it under these names, and the linker, on which it depends.
FROM --platform=$BUILDPLATFORM $RUST AS toolchain-for-amd64
ENV CARGO_BUILD_TARGET=x86_64-unknown-linux-musl \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=x86_64-linux-gnu-ld \
    COMPILER=gcc-x86-64-linux-gnu
FROM --platform=$BUILDPLATFORM $RUST AS toolchain-for-arm64
ENV CARGO_BUILD_TARGET=aarch64-unknown-linux-musl \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=aarch64-linux-gnu-ld \
    COMPILER=gcc-aarch64-linux-gnu

FROM toolchain-for-$TARGETARCH AS build
RUN apt-get update && apt-get install -y --no-install-recommends "$COMPILER" && rm -r /var/lib/apt/lists/*
# The standard library, which includes musl.
RUN rustup target add "$CARGO_BUILD_TARGET"
# Keeps paths of the builder out of the binary.
ENV RUSTFLAGS=--remap-path-prefix=$CARGO_HOME=/cargo
WORKDIR /src
# Empty: with TLS. none: without.
ARG FEATURES=
RUN case "$FEATURES" in \
      '') echo >features ;; \
      none) echo --no-default-features >features ;; \
      *) echo "FEATURES=$FEATURES: none, or nothing" >&2; exit 1 ;; \
    esac
# A layer for the dependencies, built with an empty program. It is rebuilt only if one of these files changes.
# (Unlike a cache mount, it can be stored in a registry with --cache-to, for builders that start empty.)
COPY Cargo.toml Cargo.lock ./
COPY .cargo ./.cargo
RUN mkdir -p src benches/side_by_side \
 && echo 'fn main() {}' | tee src/main.rs src/build.rs >benches/side_by_side/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --bin psystrike $(cat features)
COPY src ./src
ARG REVISION=unknown
# Cargo rebuilds files that are newer than its last build. COPY keeps their old times, so they are touched.
RUN find src -type f -exec touch {} + \
 && PSYSTRIKE_REVISION=$REVISION cargo build --release --locked --bin psystrike $(cat features) \
 && cp "target/$CARGO_BUILD_TARGET/release/psystrike" .
# After the last build: C is compiled again if this variable changes.
ARG SOURCE_DATE_EPOCH=0
RUN touch --date="@$SOURCE_DATE_EPOCH" psystrike

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
# The address of the source. Registries show it, and some link to it.
ARG SOURCE=
LABEL org.opencontainers.image.title="psystrike" \
      org.opencontainers.image.description="A scrape forwarder: lets a Prometheus outside a cluster scrape the pods inside it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
COPY --from=build /src/psystrike /psystrike
# An ID without a name: an empty image has no user names, and runAsNonRoot accepts only a numeric ID.
USER 65532:65532
EXPOSE 8080
# For Docker and Podman; Kubernetes ignores it. Queries /healthz at the address in PSYSTRIKE_LISTEN.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/psystrike", "--healthcheck"]
ENTRYPOINT ["/psystrike"]
