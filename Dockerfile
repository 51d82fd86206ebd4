# The image holds one static binary and nothing else: tcphup opens no TLS connection to
# anyone and needs no certificates; names are resolved with what the runtime puts into /etc.
#
#   docker build -t tcphup .                    builds tcphup too
#   docker build -t tcphup --target prebuilt .  copies ./tcphup, built outside (make image)

# What both ways have in common comes first, so that builders which build every stage up
# to the one asked for need no Go image for the second way.
FROM scratch AS base
LABEL org.opencontainers.image.title="tcphup" \
      org.opencontainers.image.description="Prometheus exporter that hangs up stale TCP connections when an alert asks for it" \
      org.opencontainers.image.licenses="MIT"
# nobody. To hang up in order, run it with the uid and gid of the application instead.
USER 65534:65534
EXPOSE 10471 10472
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/tcphup", "healthcheck"]
ENTRYPOINT ["/tcphup"]
CMD ["serve"]

FROM base AS prebuilt
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
COPY tcphup /tcphup

FROM golang:1.26 AS build
ARG VERSION=unknown
ARG REVISION=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build VERSION="$VERSION" REVISION="$REVISION"

FROM base
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version="$VERSION" org.opencontainers.image.revision="$REVISION"
COPY --from=build /src/tcphup /tcphup
