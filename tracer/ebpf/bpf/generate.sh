#!/bin/sh
# Compiles the programs for each architecture. What comes out depends on the
# sources and on the compiler's version alone: neither the folder's path nor the
# host is in it. With --check it says whether what is committed is what this
# compiler makes; another version of it, or none, cannot tell.
# usage: sh tracer/ebpf/bpf/generate.sh [--check]     (Debian: clang llvm libbpf-dev)
set -eu
cd "$(dirname "$0")"

out=.
if [ "${1-}" = --check ]; then
	made=$(cat compiler)
	here=$(clang --version 2>/dev/null | head -n 1) || here=
	if [ "$here" != "$made" ]; then
		echo "the eBPF programs are not compiled anew: they were made by $made, here is ${here:-no clang}"
		exit 0
	fi
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
else
	clang --version | head -n 1 >compiler
fi
for arch in amd64:x86 arm64:arm64; do
	go=${arch%:*} kernel=${arch#*:}
	clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -D__TARGET_ARCH_"$kernel" -fdebug-prefix-map="$PWD"=. -fdebug-compilation-dir=. \
		-idirafter "/usr/include/$(uname -m)-linux-gnu" -c calls.bpf.c -o "$out/calls.$go.o"
	llvm-strip -g "$out/calls.$go.o"
	if [ "$out" != . ] && ! cmp "$out/calls.$go.o" "calls.$go.o"; then
		echo "calls.$go.o is not what its source makes: make generate" >&2
		exit 1
	fi
done
