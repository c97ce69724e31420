# What there is to do here. Each target works from a fresh clone; what it needs
# besides Go and Node.js it installs, or says how to.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# How long soak goes on, and each fuzz target of fuzz.
SOAKTIME ?= 5m
FUZZTIME ?= 5m

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
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...
	GOOS=windows GOARCH=amd64 go vet ./...

# test/ and bench/ are modules of their own, so that building pushit does not need what
# only they do. Everything is built with the race detector, vet's view included, so that
# there is one set of packages to build. The browser tests drive a Caddy that ends at the
# first race. Allocations are counted without the detector, which makes more.
.PHONY: test
test: tools ## test everything: Go with the race detector, then the page in real browsers
	@echo '== go vet'
	@go vet -race ./...
	@go vet -C test -race ./...
	@go vet -C bench -race ./...
	@echo '== go build'
	@go build -race -o .build/caddy ./cmd/caddy
	@echo '== go test'
	@PUSHIT_CADDY='$(CURDIR)/.build/caddy' go test -race -shuffle=on -timeout=20m ./...
	@PUSHIT_CADDY='$(CURDIR)/.build/caddy' go test -C test -race -shuffle=on -timeout=20m ./...
	@PUSHIT_CADDY='$(CURDIR)/.build/caddy' go test -C bench -race -shuffle=on -timeout=20m ./...
	@echo '== go test, allocations'
	@go test -shuffle=on -run 'Alloc|IdleSessionsAreSmall' ./hub/...
	@echo '== npm test'
	@cd client && PUSHIT_CADDY='$(CURDIR)/.build/caddy' GORACE=halt_on_error=1 npm test --silent

.PHONY: tools
tools: ## see to it that what the tests need is there
	@.ci/tools

.PHONY: bench
bench: ## measure memory, latency and processor time against their limits
	go run -C bench . all

.PHONY: soak
soak: tools ## have agents come and go for SOAKTIME, poll, stay over reloads, and miss nothing; then clients in JavaScript, SockJS's too
	go run -C bench . -duration $(SOAKTIME) soak
	go run -C bench . polls
	go run -C bench . reload
	cd client && node --experimental-websocket soak/main.mjs
	cd client && node soak/sockjs.mjs

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@.ci/fuzz $(FUZZTIME)

.PHONY: clean
clean: ## remove what was built
	rm -rf .build caddy
