# make run      build, make a token if there is none, serve on loopback
# make test     everything that CI runs, after installing the programs it needs; as root
# make cross    vet, compile and link for other architectures; run the 386 tests
# make check    format, vet, lint and the tests that need no root and no program but Go
# make fuzz     every fuzz target for FUZZ_TIME, 30s unless said otherwise
# make demo     a service fails over, with tcphup and without; as root
# make soak     tcphup under a load that never rests, for DURATION=10m; as root
# make churn    sockets that change peers, processes and descriptors, for DURATION=10m; as root
# make kernels  tcphup and package tests on kernels of Debian releases, in virtual machines
# make kubernetes  manifests and Helm chart in a Kubernetes of one node; as root
# make prometheus3  tests of series and dashboard with native histograms of Prometheus 3; as root
# make clients  unmodified clients of real servers, hung up in many situations; as root
# make image    a container image with the binary and nothing else
# make packages deb and rpm, in dist/
# make release  binaries and packages for amd64 and arm64 with SHA256SUMS, in dist/
# make cover    how much of each package all tests together reach; as root
# make bench    figures beside those of peers, in docs/benchmarks.md; as root
# make man      the man page, as tcphup.1
# make docs     the tables in README.md and docs/ that the code knows
# make help     this text

GO            ?= go
LINT_VERSION  := v2.15.0
LINT          := bin/golangci-lint-$(LINT_VERSION)
ifndef VERSION
VERSION       := $(shell tools/version.sh)
endif
REVISION      ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION_PKG   := github.com/prometheus/common/version
LDFLAGS       := -s -w -X $(VERSION_PKG).Version=$(VERSION) -X $(VERSION_PKG).Revision=$(REVISION)
# docker or podman.
CONTAINER_TOOL ?= $(if $(shell command -v docker 2>/dev/null),docker,podman)
# A tag of an image cannot contain a tilde.
IMAGE         ?= tcphup:$(subst ~,-,$(VERSION))
NFPM_VERSION  := v2.45.0
NFPM          := bin/nfpm-$(NFPM_VERSION)
ALERTMANAGER_VERSION := v0.31.1
ALERTMANAGER  := bin/alertmanager-$(ALERTMANAGER_VERSION)
PROMETHEUS_VERSION := v0.316.0
PROMETHEUS    := bin/prometheus-$(PROMETHEUS_VERSION)
HELM_VERSION  := v3.22.0
HELM          := bin/helm-$(HELM_VERSION)
KUBERNETES_VERSION := v1.34.4
KUBERNETES_LDFLAGS := -s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION)
# Built once for each version of its sources.
KUBERNETES    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tcphup-tests/kubernetes-$(KUBERNETES_VERSION)-$(shell cat test/kubernetes/node/go.sum test/kubernetes/node/main.go | sha256sum | cut -c1-12)
# Tests of make kubernetes; all if empty. UPDATE=yes writes the table in docs/kubernetes.md anew.
RUN           ?=
UPDATE        ?=
BINARY        ?= tcphup
DIST          ?= dist
RELEASE_ARCHITECTURES := amd64 arm64
# Addresses of the project. Packages and images leave out each that is empty.
HOMEPAGE         ?=
SECURITY_CONTACT ?=
RUNBOOK_URL      ?=
TOKEN         := tcphup.token

comma         := ,
COVERED       := tcphup/sockdiag,tcphup/actuator,tcphup/alerts,tcphup/collector,tcphup/hangup,tcphup/services
FUZZ_TIME     ?= 30s
FUZZ_IN       ?= .
DURATION      ?= 10m
# Clients to run, such as CLIENTS=java,psql,Redis; all if empty.
CLIENTS       ?=
# Kernels to boot, such as KERNELS=5.10,6.1; all if empty.
KERNELS       ?=
DEBIAN_MIRROR ?= http://deb.debian.org/debian

.PHONY: help build man docs run demo soak churn kernels kubernetes kubernetes-binary prometheus3-binary clients test suite check checks compiled binaries lint format vet cross unit short tools fuzz e2e prometheus3 browser test-harness cover programs setup-test setup-demo setup-kernels setup-kubernetes setup-clients image packages release bench clean need-root

help:
	@sed -n 's/^# make/make/p' Makefile

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BINARY) .

man: build
	./tcphup --help-man > tcphup.1

docs:
	$(GO) test -count 1 -run '^TestDocs$$' ./command ./server ./test/kernels -update
	$(GO) -C test/clients test -count 1 -run '^TestDocs$$' . -update

run: build
	@test -e $(TOKEN) || (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > $(TOKEN) && echo >> $(TOKEN))
	./tcphup serve --web.listen-address=127.0.0.1:10471 --alerts.listen-address=127.0.0.1:10472 --alerts.token-file=$(TOKEN)

# Everything runs in namespaces of its own; see test/demo/main.go.
demo: need-root setup-demo build
	$(GO) run ./test/demo -tcphup=$(BINARY)

# As above; see test/soak/main.go. REPORT=docs/soak.md keeps the report. NODE=yes tests a node
# agent.
soak: need-root build
	$(GO) run ./test/soak -tcphup=$(BINARY) -duration=$(DURATION) $(if $(NODE),-node) -report=$(REPORT)

# The short form is a test of the suite; docs/soak.md has the numbers of a long run.
churn: need-root
	TCPHUP_CHURN=$(DURATION) $(GO) test -count=1 -timeout 0 -v -run '^TestPrivilegedChurn$$' ./actuator

# See test/kernels/main.go. Needs no root once the programs are installed.
kernels: setup-kernels
	nice -n 19 $(GO) run ./test/kernels -mirror=$(DEBIAN_MIRROR) -only='$(KERNELS)' -results=docs/kernels.csv
	$(GO) test -count 1 -run '^TestDocs$$' ./test/kernels -update

# See test/kubernetes/main_test.go. The first build of Kubernetes takes minutes.
kubernetes: need-root setup-kubernetes $(KUBERNETES) $(HELM) $(ALERTMANAGER)
	cd test/kubernetes && $(GO) vet . ./app ./pause && \
		TCPHUP_KUBERNETES_BINARY=$(KUBERNETES) TCPHUP_KUBERNETES_HELM=$(CURDIR)/$(HELM) TCPHUP_KUBERNETES_ALERTMANAGER=$(CURDIR)/$(ALERTMANAGER) \
		$(GO) test -count=1 -v -timeout 60m -run '$(RUN)' . $(if $(UPDATE),-update)

kubernetes-binary:
	@echo $(KUBERNETES)

prometheus3-binary:
	@echo $(PROMETHEUS)

$(KUBERNETES):
	@echo "building Kubernetes once, which takes about 6 minutes of processor time"
	mkdir -p $(@D)
	cd test/kubernetes/node && CGO_ENABLED=0 nice -n 19 $(GO) build -trimpath -ldflags='$(KUBERNETES_LDFLAGS)' -o $@.partial .
	mv $@.partial $@

$(HELM):
	GOBIN=$(CURDIR)/bin CGO_ENABLED=0 nice -n 19 $(GO) install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	mv bin/helm $(HELM)
# See test/clients/main.go. docs/clients.* are written anew unless CLIENTS is set.
clients: need-root setup-clients build
	$(GO) -C test/clients run . -tcphup=$(abspath $(BINARY)) -only='$(CLIENTS)' $(if $(CLIENTS),,-results=../../docs/clients.csv)
	$(if $(CLIENTS),,$(GO) -C test/clients test -count 1 -run '^TestDocs$$' . -update)

test: need-root
	@start=$$(date +%s) && $(MAKE) suite && echo "make test: all tests passed in $$(($$(date +%s) - start)) s"

# The tests mostly wait, so programs are built and code for other architectures is
# compiled beside them.
suite:
	$(MAKE) setup-test format
	$(MAKE) -j2 --output-sync=recurse programs checks
	$(MAKE) -j2 --output-sync=recurse compiled binaries

compiled:
	$(MAKE) -j1 lint cross browser test-harness

binaries:
	$(MAKE) -j1 e2e

check: format vet lint short

# The fuzzer gets a number of inputs, not a time: a busy machine only takes longer. The
# target of the configuration is left out: its instrumented build takes minutes.
checks:
	$(MAKE) -j1 vet unit tools
	$(MAKE) -j1 fuzz FUZZ_TIME=2000x FUZZ_IN='actuator alerts internal sockdiag'

# Tests that need root fail without it; this message comes before any build.
need-root:
	@test "$$(id -u)" = 0 || { echo "make $(MAKECMDGOALS) needs root: it creates namespaces; make check does not" >&2; exit 1; }

setup-test setup-demo setup-kernels setup-kubernetes setup-clients: setup-%:
	@tools/setup.sh $*

format:
	@out=$$(gofmt -l .); test -z "$$out" || { echo "not formatted: $$out" >&2; exit 1; }

$(LINT):
	GOBIN=$(CURDIR)/bin nice -n 19 $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $(LINT)

lint: $(LINT)
	$(LINT) run ./...
	cd tools && ../$(LINT) run ./...
	cd test/browser && ../../$(LINT) run ./...
	cd test/kubernetes && ../../$(LINT) run . ./app ./pause
	cd test/clients && ../../$(LINT) run .
	$(GO) -C tools run ./words -limit 0.3 ..

vet:
	$(GO) vet ./...

short:
	$(GO) test -short ./...

# 386 binaries run on an amd64 kernel with CONFIG_IA32_EMULATION. go vet type-checks
# the tests too, and -run '^$$' with -exec true compiles and links them.
# Vet compiles the tests, too.
cross:
	for arch in arm64 riscv64 386; do GOARCH=$$arch $(GO) vet ./... || exit; done
	for arch in arm64 riscv64; do GOARCH=$$arch $(GO) build -o /dev/null . || exit; done
	GOARCH=386 $(GO) test -short -timeout 10m ./...

unit:
	$(GO) test -race -timeout 10m $$($(GO) list ./... | grep -v '/test/\(e2e\|harness\|soak\|bench\|kernels/situations\)$$')

# Go's fuzzer now and then takes the end of its time for a failure. Then the inputs decide: one that fails is
# among them, because the fuzzer has kept it.
fuzz:
	@grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' $(addprefix ./,$(FUZZ_IN)) | sed 's|/[^/]*:func | |' | sort | while read -r package target; do \
		echo "$$package: $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x "$$package" || \
			$(GO) test -run "^$$target\$$" "$$package" || exit; \
	done

# What is shipped beside the program; a module of its own.
tools:
	$(GO) -C tools vet ./...
	$(GO) -C tools test -timeout 5m ./...
	$(GO) -C test/clients test .

e2e: $(NFPM) $(ALERTMANAGER)
	$(GO) test -count=1 -parallel 3 -timeout 15m ./test/e2e

# The tests of series and dashboard with native histograms too. Building Prometheus takes minutes.
prometheus3: need-root setup-test $(PROMETHEUS)
	TCPHUP_PROMETHEUS3=$(CURDIR)/$(PROMETHEUS) $(GO) test -count=1 -v -run '^(TestPrivilegedStoredSeries|TestPrivilegedDashboard)$$' ./test/e2e

# The status page in Chromium; a module of its own.
browser:
	$(GO) -C test/browser vet ./...
	$(GO) -C test/browser test -count=1 -timeout 10m ./...

# The tests of the demo, the soak and the bench.
test-harness:
	$(GO) test -count=1 -timeout 15m ./test/harness ./test/soak ./test/bench

# Below 85 % of the statements of a package it fails. Those who run as other users
# write there too.
cover: need-root setup-test $(NFPM) $(ALERTMANAGER)
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && chmod 1777 "$$dir" && \
	$(GO) test -timeout 10m -cover -coverpkg=$(COVERED) $(subst $(comma), ,$(COVERED)) -args -test.gocoverdir="$$dir" && \
	GOCOVERDIR="$$dir" $(GO) test -count=1 -parallel 3 -timeout 10m ./test/e2e && \
	$(GO) tool covdata percent -i "$$dir" -pkg=$(COVERED) | awk '{ print; if ($$3 + 0 < 85) low = 1 } END { exit low }'

# What the tests need of programs that are not packaged: in namespaces without a
# network they cannot be built.
programs: $(LINT) $(NFPM) $(ALERTMANAGER)

# Debian's is too old for templates in the URL of a webhook.
$(ALERTMANAGER):
	GOBIN=$(CURDIR)/bin CGO_ENABLED=0 nice -n 19 $(GO) install github.com/prometheus/alertmanager/cmd/alertmanager@$(ALERTMANAGER_VERSION)
	mv bin/alertmanager $(ALERTMANAGER)

$(PROMETHEUS):
	GOBIN=$(CURDIR)/bin CGO_ENABLED=0 nice -n 19 $(GO) install -tags remove_all_sd github.com/prometheus/prometheus/cmd/prometheus@$(PROMETHEUS_VERSION)
	mv bin/prometheus $(PROMETHEUS)

$(NFPM):
	GOBIN=$(CURDIR)/bin nice -n 19 $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	mv bin/nfpm $(NFPM)

# A tcphup of this machine's architecture writes man page and completion. With RUNBOOK_URL
# the alerting rules link to the runbook there. Links to files that no package has become
# plain text.
packages: build $(NFPM)
	@test -n "$(HOMEPAGE)" || echo "packages without a Homepage field: HOMEPAGE is not set" >&2
	mkdir -p $(DIST)/doc/docs
	for page in README.md docs/*.md; do \
		sed -E 's#\[([^]]*)\]\((\.\./)?((actuator|test|tools)/[^)]*|(CONTRIBUTING|SECURITY)\.md)\)#\1#g' $$page > $(DIST)/doc/$$page || exit; \
	done
	export GOARCH=$$($(GO) env GOHOSTARCH) CGO_ENABLED=0; \
		$(GO) run . --help-man > $(DIST)/tcphup.1 && gzip -9nf $(DIST)/tcphup.1 && \
		$(GO) run . --completion-script-bash > $(DIST)/tcphup.bash && \
		$(GO) run . --completion-script-zsh > $(DIST)/_tcphup && echo '_tcphup "$$@"' >> $(DIST)/_tcphup
	for file in rules.yml rules_test.yml; do \
		sed $(if $(RUNBOOK_URL),'s|runbook_url: docs/runbook.md|runbook_url: $(RUNBOOK_URL)|','') deploy/$$file > $(DIST)/$$file || exit; \
	done
	for packager in deb rpm; do \
		ARCH=$$($(GO) env GOARCH) BINARY=$(BINARY) DIST=$(DIST) PACKAGE_VERSION=$(VERSION) \
		HOMEPAGE="$(HOMEPAGE)" MAINTAINER="The tcphup authors$(if $(SECURITY_CONTACT), <$(SECURITY_CONTACT)>)" \
			$(NFPM) package --config deploy/package/nfpm.yml --packager $$packager --target $(DIST)/ || exit; \
	done

# dist/ holds nothing else afterwards.
release:
	rm -rf $(DIST)
	for arch in $(RELEASE_ARCHITECTURES); do \
		$(MAKE) packages GOARCH=$$arch BINARY=$(DIST)/tcphup-$(VERSION)-linux-$$arch || exit; \
	done
	cd $(DIST) && rm -r doc tcphup.1.gz tcphup.bash _tcphup rules.yml rules_test.yml && sha256sum -- * > SHA256SUMS

# Podman's own format has no HEALTHCHECK.
image: build
	$(CONTAINER_TOOL) build $(if $(filter podman,$(notdir $(CONTAINER_TOOL))),--format=docker) --target prebuilt --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		$(if $(HOMEPAGE),--label org.opencontainers.image.url=$(HOMEPAGE)) -t $(IMAGE) .

# docs/benchmarks.* are written anew, unless the largest load is set (make bench
# SOCKETS=10000) or an earlier program is measured beside (make bench OLD=path).
bench: need-root build
	mkdir -p bin
	$(GO) test -run '^$$' -bench . -benchtime 0.5s -timeout 5m ./actuator ./alerts ./collector ./services > bin/parts.txt || { cat bin/parts.txt; exit 1; }
	$(GO) run ./test/bench -tcphup=$(BINARY) -parts=bin/parts.txt $(if $(OLD),-old=$(OLD)) $(if $(SOCKETS),-sockets=$(SOCKETS)) $(if $(OLD)$(SOCKETS),,-docs=docs)
	$(if $(OLD)$(SOCKETS),,$(GO) -C tools run ./plot < docs/benchmarks.csv > docs/benchmarks.svg)

clean:
	rm -rf tcphup tcphup.1 bin dist
