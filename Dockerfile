# The images of osm-egress, a target each:
#
#   shim      the control plane, with the module
#   init      interception rules: the binary and iptables
#   origin    outside hosts, for trying
#   workload  a place with curl, for trying
#
# `docker build --target shim .` compiles in RUST_IMAGE. A build context that has the binaries already, in a
# folder `dist` (`cargo xtask images` makes one), needs no compiler and no network: then RUST_IMAGE and BASE_IMAGE
# may be any image with a shell, iptables and curl.
ARG RUST_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
# Of the files in the images; 2020-01-01.
ARG SOURCE_DATE_EPOCH=1577836800
WORKDIR /src
COPY . .
RUN if [ ! -d dist ]; then \
      apt-get update -qq && apt-get install -y -qq --no-install-recommends musl-tools && \
      cargo xtask dist --with-origin --to dist; \
    fi && \
    mkdir /out && cp dist/osm-egress dist/origin dist/egress_filter.wasm /out/ && \
    find /out -exec touch --date "@${SOURCE_DATE_EPOCH}" {} +

FROM scratch AS shim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="osm-egress" \
      org.opencontainers.image.description="Control plane of egress control by stock Envoy sidecars" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/osm-egress /out/egress_filter.wasm /
ENV EGRESS_WASM=/egress_filter.wasm
USER 65532:65532
ENTRYPOINT ["/osm-egress"]

FROM scratch AS origin
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="osm-egress-origin" \
      org.opencontainers.image.description="Outside hosts for trying osm-egress: HTTP, HTTPS, TCP, gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/origin /
USER 65532:65532
ENTRYPOINT ["/origin"]

FROM ${BASE_IMAGE} AS init
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="osm-egress-init" \
      org.opencontainers.image.description="Installs the interception rules of a workload's network namespace" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN command -v ip6tables-restore >/dev/null || { \
      apt-get update -qq && apt-get install -y -qq --no-install-recommends iptables && \
      rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*; }
COPY --from=build /out/osm-egress /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/
# The rules are root's to write; nothing else is (`cap_drop: [ALL]`, `cap_add: [NET_ADMIN]`).
USER 0:0
ENTRYPOINT ["/osm-egress"]

FROM ${BASE_IMAGE} AS workload
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="osm-egress-workload" \
      org.opencontainers.image.description="A workload for trying osm-egress: curl" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN command -v curl >/dev/null || { \
      apt-get update -qq && apt-get install -y -qq --no-install-recommends curl && \
      rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*; }
USER 1000:1000
CMD ["sleep", "infinity"]
