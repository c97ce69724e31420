# What there is to do here. Each target works from a fresh clone; what it needs
# besides Go and Node.js it installs, or says how to.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# How long soak goes on, and each fuzz target of fuzz.
SOAKTIME ?= 5m
FUZZTIME ?= 5m

# The programs of other servers, to compare with in bench: name=path, several with spaces.
PEERS ?=

.PHONY: help
help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

.PHONY: run
run: ## serve the example on http://localhost:8080
	go run ./cmd/caddy run --config Caddyfile.example

.PHONY: build
build: ## build a Caddy with pushit in it: ./caddy
	go build -o caddy ./cmd/caddy

.PHONY: fmt
fmt: ## format the Go code (gofumpt, gci)
	$(GOLANGCI) fmt

.PHONY: lint
lint: ## look for mistakes, and build for other systems
	$(GOLANGCI) config verify
	$(GOLANGCI) run ./...
	cd test && $(GOLANGCI) run ./...
	cd bench && $(GOLANGCI) run ./...
	for dir in test/check contrib/embedded-nats contrib/guard; do (cd $$dir && $(GOLANGCI) run ./...); done
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...
	GOOS=windows GOARCH=amd64 go vet ./...

.PHONY: test
test: tools ## test everything: Go with the race detector, the page in real browsers
	@node .ci/test.mjs

# How often repeat runs the tests in Go, and those in browsers.
TIMES ?= 100
BROWSERS ?= 10

.PHONY: repeat
repeat: tools ## run the tests TIMES times, to find those that fail now and then, then 3 times on a busy machine
	@CI=true node .ci/test.mjs --times=$(TIMES) --browsers=$(BROWSERS)
	@CI=true node .ci/test.mjs --times=3 --busy=2

.PHONY: tools
tools: ## see to it that what the tests need is there
	@.ci/tools

.PHONY: bench
bench: ## measure memory, latency and processor time against their limits
	go run -C bench . $(addprefix -peer ,$(PEERS)) all

.PHONY: soak
soak: tools ## have agents come and go for SOAKTIME, poll, stay over reloads, and miss nothing; then clients in JavaScript, SockJS's too
	go run -C bench . -duration $(SOAKTIME) soak
	go run -C bench . polls
	go run -C bench . reload
	PUSHIT_SEEDS=5000 go test -count=1 -run 'HistoryModel|Replay|AgentsCatchUp' ./hub
	go run -C bench . kills
	cd client && node --experimental-websocket soak/main.mjs
	cd client && node soak/sockjs.mjs

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@.ci/fuzz $(FUZZTIME)

.PHONY: clean
clean: ## remove what was built
	rm -rf .build caddy
