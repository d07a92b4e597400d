# `make help` lists the targets.

BIN     ?= bin
PREFIX  ?= /usr/local
VERSION ?=
LDFLAGS := -s -w $(if $(VERSION),-X github.com/attune-run/attune/internal/version.stamped=$(VERSION))

# Neither Lambda's old protocol nor HTTP/2, which nothing that a function talks to needs: half a megabyte less to load.
LAMBDA_TAGS := lambda.norpc,nethttpomithttp2

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help bootstrap bootstrap-tests build build-nats lambda install dist chroots demo test stress chaos check portable fmt bench clean ci

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bootstrap: ## Install what the demo needs (Debian packages, as root)
	@./scripts/bootstrap

bootstrap-tests: ## Install what the tests need as well
	@./scripts/bootstrap tests

build: ## Build static binaries into bin/
	@mkdir -p $(BIN)
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/attune-run ./cmd/attune-worker
	@ln -sf attune-run $(BIN)/attune
	go build -trimpath -tags $(LAMBDA_TAGS) -ldflags '$(LDFLAGS)' -o $(BIN)/attune-lambda ./cmd/attune-lambda

LAMBDA_ACTIONS ?= core.*
LAMBDA_ARCHES  ?= x86_64 arm64

lambda: build ## Build attune-lambda and function archives for both architectures into bin/; the same bytes each time (LAMBDA_ACTIONS)
	@set -e; for arch in $(LAMBDA_ARCHES); do \
		lambda=$(BIN)/attune-lambda-$$arch; \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$(echo $$arch | sed s/x86_64/amd64/) go build -trimpath -tags $(LAMBDA_TAGS) -ldflags '$(LDFLAGS)' -o $$lambda ./cmd/attune-lambda; \
		$(BIN)/attune-run bundle -q --for lambda:provided.al2023-$$arch --bootstrap $$lambda --packs packs --actions '$(LAMBDA_ACTIONS)' -o $$lambda.zip; \
		echo $$lambda.zip; \
	done

build-nats: ## Build the NATS server that a cluster of brokers runs, of the version the tests use
	@mkdir -p $(BIN)
	go build -trimpath -ldflags '-s -w' -o $(BIN)/nats-server github.com/nats-io/nats-server/v2

install: build ## Install attune-run, attune-worker, attune-lambda, and attune as a short name, below PREFIX
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/attune-run $(BIN)/attune-worker $(BIN)/attune-lambda
	ln -sf attune-run $(DESTDIR)$(PREFIX)/bin/attune

ARCH    ?= amd64,arm64
SYSTEMS ?= linux,darwin

dist: ## Build a release into dist/: programs, archives, packages, SBOM, checksums (VERSION, SYSTEMS, ARCH)
	go run ./scripts/dist -version '$(VERSION)' -os $(SYSTEMS) -arch $(ARCH)

chroots: bootstrap-tests ## Prove that attune works in an empty root, a busybox root and a Debian root without Go (as root)
	go test -count=1 -v -run '^TestRoot' ./deploy

demo: bootstrap build ## Build, and run the examples in every language
	@./scripts/demo $(BIN)/attune-run

test: bootstrap-tests check portable ## Check the code and run all tests under the race detector
	CGO_ENABLED=1 go test -race -timeout 30m ./...

FOR       ?= 1m
PROCESSES ?= 50
SEED      ?= 0

stress: ## Kill processes that share environments at random, for a minute (FOR, PROCESSES, SEED)
	go test -count=1 -timeout 0 -v -run '^TestStress$$' ./envcache -args -stress $(FOR) -stress-processes $(PROCESSES) -stress-seed $(SEED)

KILLS        ?= 500
BROKER_KILLS ?= 20
MISMATCHED   ?= 10000

chaos: ## Kill, freeze and cut off workers and brokers, of one broker and of a cluster, and check all that happened (FOR, SEED, KILLS, BROKER_KILLS, MISMATCHED)
	go test -count=1 -timeout 0 -v -run '^TestStorm' ./internal/chaos -args -chaos $(FOR) -chaos-seed $(SEED) -chaos-cluster -chaos-kills $(KILLS) -chaos-broker-kills $(BROKER_KILLS)
	go test -count=1 -timeout 0 -v -run '^TestMismatched' ./internal/chaos -args -mismatched $(MISMATCHED)

check: ## Formatting, vet, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted; run make fmt" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...

# What attune-run consists of, tests included, compiles for macOS. The tag builds here what it does there, as far as this system can run it.
ATTUNE_RUN_PACKAGES = $$(go list -deps ./cmd/attune-run | grep '^github.com/attune-run/attune/')

portable: ## Check what attune-run is on macOS: it compiles, and what any Unix gives works
	@for arch in amd64 arm64; do echo "vet for darwin/$$arch" && GOOS=darwin GOARCH=$$arch go vet $(ATTUNE_RUN_PACKAGES) || exit 1; done
	GOOS=darwin GOARCH=arm64 go build -o /dev/null ./cmd/attune-worker
	go tool staticcheck -tags attune_portable ./proc ./envcache
	CGO_ENABLED=1 go test -race -tags attune_portable ./proc
	CGO_ENABLED=1 go test -race -tags attune_portable -run 'TestScripts/isolation|TestResultDocumentIsComplete' ./cmd/attune-run
	go test -tags attune_portable -run 'TestWords|TestBuiltOnce|TestSync' ./envcache

fmt: ## Format the code
	gofmt -w .

ONLY ?=

bench: build ## Measure, each figure against a baseline of the same run (ONLY="ten-python fifty")
	go run ./scripts/bench $(BIN)/attune-run $(ONLY)

clean: ## Remove what was built
	rm -rf $(BIN) dist

ci: ## What CI runs
	@./.ci/run
