# ctseg with its embedded CPU engine. Build: docker build -t ctseg .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY stages stages
COPY datasets datasets
COPY benches benches
RUN cargo build --release --locked

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="ctseg" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
RUN useradd --create-home --uid 10001 ctseg && install -d -o ctseg -g ctseg /work
COPY --from=build /src/target/release/ctseg /usr/local/bin/ctseg
USER ctseg
WORKDIR /work
ENTRYPOINT ["ctseg"]
CMD ["--help"]
