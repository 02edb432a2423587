# syntax=docker/dockerfile:1
# psystrike: a static musl binary in an otherwise empty image.
#
#   docker build --build-arg REVISION=$(git rev-parse --short=12 HEAD) -t psystrike .

FROM rust:1.95-alpine AS build
# The linker for musl comes with the image; nothing else is needed, no C is compiled.
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# The bench is named in Cargo.toml, so cargo wants to see it.
COPY benches ./benches
ARG REVISION=unknown
RUN PSYSTRIKE_REVISION=$REVISION cargo build --release --locked --bin psystrike \
 && cp target/release/psystrike /psystrike

FROM scratch
COPY --from=build /psystrike /psystrike
# Nobody in particular: a scratch image has no users to name.
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/psystrike"]
