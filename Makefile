# make run      build, make a token if there is none, serve on loopback
# make test     everything that CI runs; as root
# make demo     a service fails over, with tcphup and without; as root
# make image    a container image with the binary and nothing else
# make packages deb and rpm, in dist/
# make bench    figures beside those of peers, in docs/benchmarks.md; as root
# make man      the man page, as tcphup.1
# make help     this text

GO            ?= go
LINT_VERSION  := v2.15.0
LINT          := bin/golangci-lint-$(LINT_VERSION)
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION      ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION_PKG   := github.com/prometheus/common/version
LDFLAGS       := -s -w -X $(VERSION_PKG).Version=$(VERSION) -X $(VERSION_PKG).Revision=$(REVISION)
IMAGE         ?= tcphup:$(VERSION)
NFPM_VERSION  := v2.45.0
NFPM          := bin/nfpm-$(NFPM_VERSION)
BINARY        ?= tcphup
DIST          ?= dist
# A package's version begins with a digit.
PACKAGE_VERSION = $(if $(filter v%,$(VERSION)),$(VERSION:v%=%),0.0.0~$(VERSION))
TOKEN         := tcphup.token

FUZZ_TIME     ?= 30s

.PHONY: help build man run demo test lint format vet unit tools fuzz e2e image packages bench clean need-root need-programs

help:
	@sed -n 's/^# make/make/p' Makefile

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

man: build
	./tcphup --help-man > tcphup.1

run: build
	@test -e $(TOKEN) || (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > $(TOKEN) && echo >> $(TOKEN))
	./tcphup serve --web.listen-address=127.0.0.1:10471 --alerts.listen-address=127.0.0.1:10472 --alerts.token-file=$(TOKEN)

# Everything runs in namespaces of its own; see demo/main.go.
demo: need-root build
	$(GO) run ./demo -tcphup=$(BINARY)

test: need-root need-programs format lint vet unit fuzz tools e2e

# Tests that need rights fail without them; this says so before anything is built.
need-root:
	@test "$$(id -u)" = 0 || { echo "make $(MAKECMDGOALS) needs root: it makes namespaces of its own" >&2; exit 1; }

need-programs:
	@for p in amtool cc chromium curl dnsmasq docker dockerd groff ip npm prometheus prometheus-alertmanager promtool python3 rpm ss systemd-analyze zsh; do \
		command -v $$p >/dev/null || missing="$$missing $$p"; \
	done; \
	test -z "$$missing" || { echo "make test needs:$$missing (on Debian and Ubuntu .ci/run installs them)" >&2; exit 1; }

format:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not formatted: $$out" >&2; exit 1; }

$(LINT):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $(LINT)

lint: $(LINT)
	$(LINT) run ./...
	cd tools && ../$(LINT) run ./...

vet:
	$(GO) vet ./...

unit:
	$(GO) test -race -timeout 10m $$($(GO) list ./... | grep -v '/e2e$$')

# What an alert may bring about, for a minute in all; FUZZ_TIME=10m make fuzz for longer.
fuzz:
	$(GO) test -run '^$$' -fuzz '^FuzzNotification$$' -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x ./alerts
	$(GO) test -run '^$$' -fuzz '^FuzzDestination$$' -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x ./alerts

# What is shipped beside the program; a module of its own.
tools:
	$(GO) -C tools vet ./...
	$(GO) -C tools test -timeout 5m ./...

# The packager is built first: the tests make packages in a namespace without a network.
e2e: $(NFPM)
	$(GO) test -run 'TestPrivileged(Prometheus|DeadPeer)' -timeout 5m ./collector ./actuator
	$(GO) test -parallel 3 -timeout 10m ./e2e

$(NFPM):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	mv bin/nfpm $(NFPM)

packages: build $(NFPM)
	mkdir -p $(DIST)
	for packager in deb rpm; do \
		ARCH=$$($(GO) env GOARCH) BINARY=$(BINARY) PACKAGE_VERSION=$(PACKAGE_VERSION) \
			$(NFPM) package --config deploy/package/nfpm.yml --packager $$packager --target $(DIST)/ || exit; \
	done

image: build
	docker build --target prebuilt --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) -t $(IMAGE) .

# docs/benchmarks.* are written anew, unless the largest load is set: make bench SOCKETS=10000
bench: need-root build
	mkdir -p bin
	$(GO) test -run '^$$' -bench . -benchtime 0.5s -timeout 5m ./alerts ./collector ./endpoints > bin/parts.txt || { cat bin/parts.txt; exit 1; }
	$(GO) run ./bench -tcphup=$(BINARY) -parts=bin/parts.txt $(if $(SOCKETS),-sockets=$(SOCKETS),-docs=docs)
	$(if $(SOCKETS),,$(GO) -C tools run ./plot < docs/benchmarks.csv > docs/benchmarks.svg)

clean:
	rm -rf tcphup tcphup.1 bin dist
