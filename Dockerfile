# ctseg in a container. Needs only Debian's packages, crates.io and, for cuda, PyPI.
#
#   docker build --target cpu -t ctseg:cpu .      the embedded CPU engine: glibc, a shell, certificates, ctseg
#   docker build --target cuda -t ctseg:cuda .    libtorch, for NVIDIA GPUs and fast CPUs (about 4 GB)
#
#   docker run --rm -v "$PWD/data:/data" -v "$PWD/models:/models" ctseg:cpu predict /data/volumes -o /data/labels
#
# Without access to an image registry, or for a prebuilt binary: scripts/container/build.sh.
ARG RUST=docker.io/library/rust:1.95-slim-bookworm
ARG DEBIAN=docker.io/library/debian:bookworm-slim

FROM ${RUST} AS sources
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY crates crates
COPY stages stages
COPY datasets datasets
COPY benches benches
COPY scripts/slurm scripts/slurm

FROM sources AS build
RUN cargo build --release --locked && install -D target/release/ctseg /out/ctseg

FROM sources AS build-cuda
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++ python3-venv
COPY scripts/setup-libtorch.sh scripts/
RUN scripts/setup-libtorch.sh /opt/ctseg \
    && cargo build --release --locked --features libtorch && install -D target/release/ctseg /out/ctseg
# The libraries needed at run time, at the paths where the binary and they themselves look for each other.
RUN cd /opt/ctseg && find . -path '*/lib/*.so*' \( -path '*/torch/lib/*' -o -path '*/nvidia/*' \) -print0 \
    | xargs -0 cp --parents -t /out

# The contents of the image besides the binary. Kubernetes (scripts/k8s) needs the shell for arithmetic.
FROM ${DEBIAN} AS root
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates \
    && mkdir -p /packages /root-image && cd /packages && apt-get download -qq libc6 libgcc-s1 dash \
    && for package in *.deb; do dpkg -x "$package" /root-image; done \
    && rm -rf /root-image/usr/share /root-image/usr/lib/*/gconv /root-image/sbin \
    && ln -sf dash /root-image/bin/sh \
    && install -D /etc/ssl/certs/ca-certificates.crt /root-image/etc/ssl/certs/ca-certificates.crt \
    && echo 'ctseg:x:10001:10001::/runs:/bin/sh' >/root-image/etc/passwd \
    && echo 'ctseg:x:10001:' >/root-image/etc/group \
    && install -d -m 1777 /root-image/tmp \
    && mkdir -p /volumes/data /volumes/models /volumes/runs

FROM scratch AS cpu
COPY --from=root /root-image /
COPY --from=root --chown=10001:10001 /volumes /
COPY --from=build /out/ctseg /usr/local/bin/ctseg
LABEL org.opencontainers.image.title="ctseg" \
      org.opencontainers.image.description="Two-stage segmentation of CT volumes; embedded CPU engine" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
ENV PATH=/usr/local/bin:/usr/bin:/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    CTSEG_MODEL=/models/model \
    CTSEG_RUNS=/runs
USER 10001:10001
WORKDIR /runs
VOLUME ["/data", "/models", "/runs"]
HEALTHCHECK --interval=5m --timeout=60s --start-period=10s CMD ["ctseg", "doctor", "--quick"]
ENTRYPOINT ["ctseg"]
CMD ["--help"]

FROM ${DEBIAN} AS cuda
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 ctseg && useradd --uid 10001 --gid 10001 --home-dir /runs --no-create-home ctseg \
    && install -d -o ctseg -g ctseg /data /models /runs
COPY --from=build-cuda /out/libtorch-2.11.0 /opt/ctseg/libtorch-2.11.0
COPY --from=build-cuda /out/ctseg /usr/local/bin/ctseg
LABEL org.opencontainers.image.title="ctseg" \
      org.opencontainers.image.description="Two-stage segmentation of CT volumes; libtorch 2.11.0 with CUDA" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# The last two let the NVIDIA container runtime hand the driver in.
ENV CTSEG_MODEL=/models/model \
    CTSEG_RUNS=/runs \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /runs
VOLUME ["/data", "/models", "/runs"]
HEALTHCHECK --interval=5m --timeout=60s --start-period=10s CMD ["ctseg", "doctor", "--quick"]
ENTRYPOINT ["ctseg"]
CMD ["--help"]
