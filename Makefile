# whosefd. `make help` lists what there is.

PREFIX   = /usr/local
FUZZTIME = 10s
SOAK     = 10m
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)

GO_BUILD = go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)'
TOOL     = go tool -modfile=tools.mod

# The machine also runs 32-bit programs, which a debugger may debug.
MULTILIB := $(if $(filter x86_64,$(shell uname -m)),gcc-multilib)

# What the targets need beside Go and make, by the names of Debian's packages.
BUILD_DEPS = gcc libc6-dev
DEMO_DEPS  = $(BUILD_DEPS) gdb
TEST_DEPS  = $(DEMO_DEPS) g++ gdbserver strace binutils xz-utils python3 $(MULTILIB)
LINT_DEPS  = shellcheck

.PHONY: all build samples demo test lint bench soak matrix fuzz deps install clean help
.NOTPARALLEL:

## all (or build): bin/whosefd, one static file
all: build

build:
	CGO_ENABLED=0 $(GO_BUILD) -o bin/whosefd ./cmd/whosefd

## samples: the C programs that the demo and the tests debug
samples:
	sh .ci/deps $(BUILD_DEPS)
	$(MAKE) -C samples

## demo: hang a real gdb, look at it with whosefd, clean up
demo: build samples
	sh .ci/deps $(DEMO_DEPS)
	go run ./samples/demo -whosefd bin/whosefd

## test: vet, all tests with the race detector, builds for other systems
test: deps build samples
	go vet ./...
	go test -race -shuffle=on -timeout 20m ./...
	GOARCH=arm64 go build -buildvcs=false ./...
	GOOS=darwin go build ./analyze/...
	GOOS=windows go build ./analyze/...

## lint: gofmt, vet, staticcheck, errorlint, the arrows (depguard), shellcheck
lint:
	sh .ci/deps $(LINT_DEPS)
	unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "gofmt -w $$unformatted"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) go-errorlint -errorf -test=false ./...
	$(TOOL) depguard ./...
	GOARCH=arm64 "$$($(TOOL) -n depguard)" ./...
	shellcheck .ci/run .ci/deps .ci/fuzz samples/matrix/matrix.sh

## bench: what whosefd costs, as ratios to strace, gdb, jq and mawk
bench: build samples
	sh .ci/deps $(DEMO_DEPS) strace jq mawk
	go run ./samples/bench -whosefd bin/whosefd

## soak: end whosefd in every way at random moments, for SOAK (10m), and see what gdb says
soak: build samples
	sh .ci/deps $(DEMO_DEPS)
	go run ./samples/soak -whosefd bin/whosefd -for $(SOAK)

## matrix: the tests with a gdb, with those of Debian 12, 13 and sid (root; MATRIX=DIR keeps the folders)
matrix:
	sh .ci/deps $(BUILD_DEPS) debootstrap
	samples/matrix/matrix.sh

## fuzz: each fuzz target for FUZZTIME (10s)
fuzz:
	sh .ci/fuzz $(FUZZTIME)

## deps: install what tests and lint need, if it is missing (apt-get)
deps:
	sh .ci/deps $(TEST_DEPS) $(LINT_DEPS)

## install: bin/whosefd and bash completion, below DESTDIR and PREFIX (/usr/local)
install: bin/whosefd
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' '$(DESTDIR)$(PREFIX)/share/man/man1'
	install -m 755 bin/whosefd '$(DESTDIR)$(PREFIX)/bin/whosefd'
	bin/whosefd completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/whosefd'
	bin/whosefd man '$(DESTDIR)$(PREFIX)/share/man/man1'

# Built only where it is missing: root, who installs, often has no Go.
bin/whosefd:
	$(MAKE) build

## clean: remove what was built
clean:
	rm -rf bin
	$(MAKE) -C samples clean

## help: this list
help:
	@sed -n 's/^## //p' Makefile
