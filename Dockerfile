# One image, every role: `docker build -t watchfloor:0.1.0 .` BuildKit is needed for the caches.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches are not part of the image, so the binary is taken out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --package watchfloor \
    && install -D target/release/watchfloor /out/watchfloor

FROM debian:bookworm-slim
# Authorities for --tls-ca and for Kafka by TLS. librdkafka, its OpenSSL and zlib are in the binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /var/lib/watchfloor --no-create-home --shell /usr/sbin/nologin watchfloor \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/watchfloor
COPY --from=build /out/watchfloor /usr/local/bin/watchfloor
ENV WATCHFLOOR_DATA_DIR=/var/lib/watchfloor
WORKDIR /var/lib/watchfloor
VOLUME ["/var/lib/watchfloor"]
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 50051 8090
# The first one drains, a second one leaves at once.
STOPSIGNAL SIGTERM
ENTRYPOINT ["watchfloor"]
CMD ["--help"]
