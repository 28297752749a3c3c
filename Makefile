# whosefd. `make help` lists what there is.

PREFIX   = /usr/local
FUZZTIME = 10s
SOAK     = 10m
# Where gdb looks for init files of the whole machine; empty where it does not.
GDBINIT_DIR = $(shell gdb --configuration 2>/dev/null | sed -n 's/.*--with-system-gdbinit-dir=\([^ ]*\).*/\1/p')
# A version is a tag vX.Y.Z. What is built between two says how far it is from the first.
VERSION := $(shell sh .ci/version)

GO_BUILD = go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)'
TOOL     = go tool -modfile=tools.mod

# The machine also runs 32-bit programs, which a debugger may debug.
MULTILIB := $(if $(filter x86_64,$(shell uname -m)),gcc-multilib)

# What the targets need beside Go and make, by the names of Debian's packages.
BUILD_DEPS = gcc libc6-dev
DEMO_DEPS  = $(BUILD_DEPS) gdb
TEST_DEPS  = $(DEMO_DEPS) g++ gdbserver strace binutils xz-utils python3 $(MULTILIB)
LINT_DEPS  = shellcheck
BPF_DEPS   = clang llvm libbpf-dev

.PHONY: all generate build samples demo test lint bench soak matrix kernels fuzz deps install dist clean help
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

## test: vet, all tests, with the race detector where there are goroutines, builds for other systems
test: deps build samples
	go vet ./...
	sh .ci/test -shuffle=on -parallel 6 -timeout 20m
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
	shellcheck -x .ci/run .ci/deps .ci/test .ci/fuzz .ci/dist .ci/version samples/matrix/matrix.sh samples/matrix/package.sh samples/kernels/kernels.sh samples/kernels/init tracer/ebpf/bpf/generate.sh
	sh tracer/ebpf/bpf/generate.sh --check

## generate: compile the eBPF programs anew, into tracer/ebpf/bpf
generate:
	sh .ci/deps $(BPF_DEPS)
	sh tracer/ebpf/bpf/generate.sh

## bench: what whosefd costs, as ratios to a bare ptrace loop, strace, perf trace, bpftrace and gdb
bench: build samples
	sh .ci/deps $(DEMO_DEPS) strace
	go run ./samples/bench -whosefd bin/whosefd

## soak: end whosefd in every way at random moments, for SOAK (10m), and see what gdb says
soak: build samples
	sh .ci/deps $(DEMO_DEPS)
	go run ./samples/soak -whosefd bin/whosefd -for $(SOAK)

## matrix: the package, and the tests with a gdb, in Debian 12, 13 and sid (root; MATRIX=DIR keeps the folders)
matrix: dist
	sh .ci/deps $(BUILD_DEPS) debootstrap
	samples/matrix/matrix.sh

## kernels: the tests of eBPF in the kernels of Debian 11, 12 and 13, in an emulator (root; KERNELS=DIR keeps the folders)
kernels: build
	sh .ci/deps $(BUILD_DEPS) debootstrap qemu-system-x86 cpio
	samples/kernels/kernels.sh

## fuzz: each fuzz target for FUZZTIME (10s)
fuzz:
	sh .ci/fuzz $(FUZZTIME)

## deps: install what tests and lint need, if it is missing (apt-get)
deps:
	sh .ci/deps $(TEST_DEPS) $(LINT_DEPS)

SHARE = $(DESTDIR)$(PREFIX)/share

## install: bin/whosefd, the plug-in for gdb, completions, manual; below DESTDIR and PREFIX (/usr/local)
install: bin/whosefd
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d' '$(SHARE)/man/man1'
	install -m 755 bin/whosefd '$(DESTDIR)$(PREFIX)/bin/whosefd'
	ln -sf whosefd '$(DESTDIR)$(PREFIX)/bin/whosefd-gdb'
	bin/whosefd completion bash >'$(SHARE)/bash-completion/completions/whosefd'
	bin/whosefd completion zsh >'$(SHARE)/zsh/site-functions/_whosefd'
	bin/whosefd completion fish >'$(SHARE)/fish/vendor_completions.d/whosefd.fish'
	bin/whosefd man '$(SHARE)/man/man1'
	$(if $(GDBINIT_DIR),install -d '$(DESTDIR)$(GDBINIT_DIR)' && bin/whosefd gdb-plugin >'$(DESTDIR)$(GDBINIT_DIR)/whosefd.py')

## dist: what is released, in dist/: static programs for amd64 and arm64, .deb, .rpm, checksums
dist:
	sh .ci/dist $(VERSION)

# Built only where it is missing: root, who installs, often has no Go.
bin/whosefd:
	$(MAKE) build

## clean: remove what was built
clean:
	rm -rf bin dist
	$(MAKE) -C samples clean

## help: this list
help:
	@sed -n 's/^## //p' Makefile
