#!/bin/sh
# Installs, uses and removes the package, and runs the tests that need a gdb, in other
# releases of Debian, each in a folder made by debootstrap, and prints a table. Needs
# root, and dist/ (make dist).
# usage: samples/matrix/matrix.sh [RELEASE...]
#
# In the environment:
#   MATRIX         keeps the folders, by default matrix/ below this folder's bin/;
#                  a folder that is there already is taken as it is
#   MATRIX_MIRROR  the archive to take packages from; by default apt's own
#   MATRIX_RUN     which tests, as a regular expression
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
cache=${MATRIX:-$root/bin/matrix}
run=${MATRIX_RUN:-'^Test(Explain|Repair|Guard|Plugin|Causes|HealthySessions|Preflight|ShutOut)'}
[ $# -gt 0 ] || set -- bookworm trixie sid
[ "$(id -u)" -eq 0 ] || { echo "matrix: needs root" >&2; exit 2; }

# shellcheck source=samples/matrix/folders.sh
. samples/matrix/folders.sh

# What the folders get: the program, its tests, and the samples' sources.
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/whosefd ./cmd/whosefd
CGO_ENABLED=0 go test -c -o bin/whosefd.test ./cmd/whosefd

failed=0
table=
for release; do
	if ! make_folder "$release"; then
		tail -n 3 "$cache/$release.log" >&2
		table="$table| $release | | not made: see $cache/$release.log | | | | | | | |
"
		failed=1
		continue
	fi
	to=$cache/$release/whosefd
	rm -rf "$to" "$cache/$release/tmp/"*
	mkdir -p "$to/cmd/whosefd" "$to/bin"
	cp go.mod "$to"
	cp bin/whosefd bin/whosefd.test "$to/bin"
	cp -r samples "$to"
	rm -rf "$to/samples/bin"
	[ ! -d cmd/whosefd/testdata ] || cp -r cmd/whosefd/testdata "$to/cmd/whosefd"
	cp "dist/whosefd_$(sh .ci/version)_$(dpkg --print-architecture).deb" "$to/whosefd.deb"
	# shellcheck disable=SC2016 # the inner shell's variables
	package=failed
	if in_folder "$release" sh -c 'make -s -C /whosefd/samples OUT=/whosefd/samples/bin >/dev/null &&
		sh /whosefd/samples/matrix/package.sh /whosefd/whosefd.deb /whosefd/samples/bin' >"$cache/$release.package" 2>&1; then
		package=ok
	else
		cat "$cache/$release.package" >&2
		failed=1
	fi
	log=$cache/$release.tests
	echo "matrix: $release: running $run, log in $log" >&2
	# shellcheck disable=SC2016 # the inner shell's variables
	in_folder "$release" sh -c 'cd /whosefd/cmd/whosefd && WHOSEFD=/whosefd/bin/whosefd HOME=/root \
		/whosefd/bin/whosefd.test -test.v -test.timeout 25m -test.run "$1"' sh "$run" >"$log" 2>&1 || failed=1
	version=$(chroot "$cache/$release" gdb --version </dev/null | sed -n '1s/.* //p')
	libc=$(chroot "$cache/$release" ldd --version </dev/null | sed -n '1s/.* //p')
	table="$table$(awk -v line="| $release | $version | $libc | $package |" '
		# PASS, FAIL and SKIP of tests and of their parts: "    --- PASS: TestRepair/fd_4 (0.42s)"
		/^ *--- / { group = $3
			sub(/^Test/, "", group); match(group, /^[A-Z][a-z]+/); group = substr(group, 1, RLENGTH)
			if ($2 == "SKIP:") skipped++; else { all[group]++; if ($2 == "PASS:") ok[group]++ } }
		END { n = split("Explain Repair Guard Plugin Causes Healthy", groups)
			for (i = 1; i <= n; i++) line = line sprintf(" %d of %d |", ok[groups[i]], all[groups[i]])
			print line, skipped + 0, "|" }' "$log")
"
done

printf '\n| Debian | gdb | glibc | package | explain | repair | guard | gdb-plugin | causes | healthy sessions | skipped |\n|---|---|---|---|---|---|---|---|---|---|---|\n%s' "$table"
exit $failed
