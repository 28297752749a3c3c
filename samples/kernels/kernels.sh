#!/bin/sh
# Boots the kernels of other releases of Debian in an emulator (qemu), each with its own
# release in memory, and runs there the tests in which programs in the kernel (eBPF)
# watch or guard. Where a kernel is too old for them, whosefd must say so and take
# ptrace. Prints a table. Needs root.
# usage: samples/kernels/kernels.sh [RELEASE...]
#
# In the environment:
#   KERNELS        keeps the folders, by default those of make matrix (MATRIX)
#   KERNELS_RUN    which tests, as a regular expression
#   KERNELS_LIMIT  for how long a machine may run (30m)
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
cache=${KERNELS:-${MATRIX:-$root/bin/matrix}}
run=${KERNELS_RUN:-'^Test(EnginesAgree|SmallBuffer|EndedInferior|Guard.*|TextOfAMapping|TraceCommand|TraceEnds|Watch.*)$'}
[ $# -gt 0 ] || set -- bullseye bookworm trixie
[ "$(id -u)" -eq 0 ] || { echo "kernels: needs root" >&2; exit 2; }
# shellcheck disable=SC2034 # for folders.sh
packages='gdb gdbserver gcc g++ libc6-dev make strace python3 procps iproute2'

# shellcheck source=samples/matrix/folders.sh
. samples/matrix/folders.sh

# get_kernel RELEASE: the kernel for virtual machines, without its modules.
get_kernel() {
	[ ! -f "$cache/$1.vmlinuz" ] || return 0
	rm -rf "$cache/$1.kernel"
	mkdir -p "$cache/$1.kernel"
	{
		chroot "$cache/$1" apt-get -q update &&
			name=$(chroot "$cache/$1" apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1) &&
			(cd "$cache/$1/tmp" && chroot "$cache/$1" sh -c "cd /tmp && apt-get -q download $name") &&
			dpkg-deb -x "$cache/$1/tmp/$name"_*.deb "$cache/$1.kernel" &&
			cp "$cache/$1.kernel"/boot/vmlinuz-* "$cache/$1.vmlinuz"
	} >>"$cache/$1.log" 2>&1 </dev/null
	rm -rf "$cache/$1.kernel" "$cache/$1/tmp/"*
}

# archive: the files that are named on standard input, as the kernel unpacks them at its start.
archive() { cpio --quiet -o -H newc -R 0:0; }

# The machine ends with us, and so does what runs in a folder.
qemu='' what=$(mktemp -d)
chmod 755 "$what" # it becomes the root
trap 'rm -rf "$what"; kill $qemu $running 2>/dev/null || :' EXIT

# boot RELEASE LOG. One CPU: with two, emulated ones stand
# still while a kernel patches a tracepoint.
boot() {
	cat "$cache/$1.cpio" "$cache/$1.tests" >"$cache/$1.initrd"
	timeout -k 10 "${KERNELS_LIMIT:-30m}" setpriv --pdeathsig KILL qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 4096 \
		-display none -monitor none -no-reboot -serial "file:$2" -kernel "$cache/$1.vmlinuz" -initrd "$cache/$1.initrd" \
		-append 'console=ttyS0 quiet panic=-1 rdinit=/whosefd/init' </dev/null >"$2.qemu" 2>&1 &
	qemu=$!
	wait "$qemu" || :
	qemu=
	rm -f "$cache/$1.initrd"
}

# What each gets: the program, its tests, and the samples' sources.
to=$what/whosefd
mkdir -p "$to/cmd/whosefd" "$to/tracer" "$to/bin"
CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$to/bin/whosefd" ./cmd/whosefd
CGO_ENABLED=0 go test -c -o "$to/bin/whosefd.test" ./cmd/whosefd
CGO_ENABLED=0 go test -c -o "$to/bin/tracer.test" ./tracer
cp go.mod "$to"
cp -r samples "$to"
rm -rf "$to/samples/bin"
cp samples/kernels/init "$to/init"
printf '%s\n' "$run" >"$to/run"
for dir in cmd/whosefd tracer; do
	[ ! -d "$dir/testdata" ] || cp -r "$dir/testdata" "$to/$dir"
done

failed=0
table=
for release; do
	if ! make_folder "$release" || ! get_kernel "$release"; then
		tail -n 3 "$cache/$release.log" >&2
		table="$table| $release | | not made: see $cache/$release.log | | |
"
		failed=1
		continue
	fi
	log=$cache/$release.console
	echo "kernels: $release: running $run, log in $log" >&2
	[ -f "$cache/$release.cpio" ] || (cd "$cache/$release" && find . -xdev -path ./usr/share/doc -prune -o -path ./usr/share/locale -prune -o \
		-path ./var/cache -prune -o -path ./var/lib/apt -prune -o -path ./whosefd -prune -o -print | archive) >"$cache/$release.cpio"
	(cd "$what" && find . | archive) >"$cache/$release.tests"
	boot "$release" "$log"
	rm -f "$cache/$release.tests"
	# A machine that has stood still has no last line.
	result=$(tr -d '\r' <"$log" | sed -n 's/^kernels: result: //p' | tail -n 1)
	case $result in
	ok*) ;;
	*) failed=1 result=${result:-"stood still, or was ended after ${KERNELS_LIMIT:-30m}"} ;;
	esac
	table="$table$(tr -d '\r' <"$log" | awk -v release="$release" -v result="$result" '
		/^kernels: kernel: / { kernel = $3 }
		/^ *--- PASS: / { ok++; all++ } /^ *--- FAIL: / { all++ } /^ *--- SKIP: / { skipped++ }
		END { printf "| %s | %s | %d of %d | %d | %s |\n", release, kernel, ok, all, skipped, result }')
"
done
printf '\n| Debian | kernel | tests passed | skipped | result |\n|---|---|---|---|---|\n%s' "$table"
exit $failed
