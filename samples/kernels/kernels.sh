#!/bin/sh
# Boots the kernels of other releases of Debian in an emulator (qemu), each with its own
# release in memory, and runs there the tests in which programs in the kernel (eBPF)
# watch or guard. Where a kernel is too old for them, whosefd must say so and take
# ptrace. Prints a table. Needs root, and a machine of the architecture amd64.
# usage: samples/kernels/kernels.sh [RELEASE...]
#
# In the environment:
#   KERNELS        keeps the folders, by default those of make matrix (MATRIX)
#   KERNELS_RUN    which tests, as a regular expression
#   KERNELS_LIMIT  for how long a machine may run (30m)
# A release that cannot be had is skipped. The exit code is 1 if another failed, or if
# none could be had.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD
cache=${KERNELS:-${MATRIX:-$root/bin/matrix}}
run=${KERNELS_RUN:-'^Test(EnginesAgree|SmallBuffer|Flood|EndedInferior|Guard.*|TextOfAMapping|TraceCommand|TraceEnds|Watch.*)$'}
[ $# -gt 0 ] || set -- bullseye bookworm trixie
[ "$(id -u)" -eq 0 ] || { echo "kernels: needs root" >&2; exit 2; }
[ "$(dpkg --print-architecture)" = amd64 ] || { echo "kernels: needs amd64" >&2; exit 2; }
limit=${KERNELS_LIMIT:-30m}

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
			mv "$cache/$1.kernel"/boot/vmlinuz-* "$cache/$1.vmlinuz"
	} >>"$cache/$1.log" 2>&1 </dev/null
	rm -rf "$cache/$1.kernel" "$cache/$1/tmp/"*
	[ -f "$cache/$1.vmlinuz" ]
}

# archive: the files that are named on standard input, as the kernel unpacks them at its start.
archive() { cpio --quiet -o -H newc -R 0:0; }

# The machine ends with us, and so does what runs in a folder.
mkdir -p "$cache"
qemu='' work=$(mktemp -d "$cache/kernels.XXXXXX")
trap 'rm -rf "$work"; kill $qemu $running 2>/dev/null || :' EXIT

# machine RELEASE ACCELERATOR LIMIT INITRD LOG INIT...: returns what timeout does. One CPU:
# with two, emulated ones stand still while a kernel patches a tracepoint. An oops is a
# panic, and a panic ends it. setpriv is there twice, since a signal at our death does not
# go to children: ours ends timeout, and the end of timeout the machine.
machine() {
	kernel=$cache/$1.vmlinuz accelerated=$2 ends=$3 initrd=$4 console=$5
	shift 5
	setpriv --pdeathsig KILL timeout -k 10 "$ends" setpriv --pdeathsig KILL qemu-system-x86_64 -accel "$accelerated" -cpu max -smp 1 -m 4096 \
		-display none -monitor none -no-reboot -serial "file:$console" -kernel "$kernel" -initrd "$initrd" \
		-append "console=ttyS0 quiet oops=panic panic=-1 rdinit=$*" </dev/null >"$console.qemu" 2>&1 &
	qemu=$!
	ended=0
	wait "$qemu" || ended=$?
	qemu=
	return "$ended"
}

# kvm_works RELEASE: also where /dev/kvm is there a machine may not come as far as its first process.
kvm_works() {
	[ -w /dev/kvm ] || return 1
	machine "$1" kvm 60 "$work/tests" "$work/kvm" /whosefd/bin/whosefd -- --version 2>/dev/null || :
	grep -q '^whosefd version' "$work/kvm"
}

# result LOG CODE: what came out. A machine that has stood still, or has ended too early, has not said it.
result() {
	panic=$(grep -a -o 'Kernel panic.*' "$1" | head -n 1) || :
	said=$(sed -n 's/^kernels: result: //p' "$1" | tail -n 1)
	if [ -n "$panic" ]; then
		echo "$panic"
	elif [ "$2" -eq 124 ] || [ "$2" -eq 137 ]; then
		echo "ended after $limit, at: $(tail -n 1 "$1")"
	elif [ "$2" -ne 0 ]; then
		echo "qemu: exit code $2: $(tail -n 1 "$1.qemu")"
	elif [ "$said" = ok ] && ! grep -q -- '--- PASS: .*/ebpf' "$1"; then
		echo "no test of eBPF ran"
	else
		echo "${said:-the machine ended before its tests had: $(tail -n 1 "$1.qemu"), at: $(tail -n 1 "$1")}"
	fi
}

# What each gets: the program, its tests, and the samples' sources.
to=$work/root/whosefd
mkdir -p "$to/cmd/whosefd" "$to/tracer" "$to/bin"
chmod 755 "$work/root" # it becomes the root
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

(cd "$work/root" && find . | archive) >"$work/tests"

failed=0 tried=
table=
for release; do
	if ! make_folder "$release" || ! get_kernel "$release"; then
		table="$table| $release | | | | skipped: $(tail -n 1 "$cache/$release.log") (log: $cache/$release.log) |
"
		continue
	fi
	tried=1
	log=$cache/$release.console
	[ -f "$cache/$release.cpio" ] || {
		(cd "$cache/$release" && find . -xdev -path ./usr/share/doc -prune -o -path ./usr/share/locale -prune -o \
			-path ./var/cache -prune -o -path ./var/lib/apt -prune -o -path ./whosefd -prune -o -print | archive) >"$work/cpio"
		mv "$work/cpio" "$cache/$release.cpio"
	}
	accelerator=tcg
	! kvm_works "$release" || accelerator=kvm
	echo "kernels: $release: running $run by $accelerator, log in $log" >&2
	cat "$cache/$release.cpio" "$work/tests" >"$work/initrd"
	code=0
	machine "$release" "$accelerator" "$limit" "$work/initrd" "$work/console" /whosefd/init || code=$?
	tr -d '\r' <"$work/console" >"$log"
	cp "$work/console.qemu" "$log.qemu"
	result=$(result "$log" "$code")
	case $result in ok*) ;; *) failed=1 ;; esac
	table="$table$(awk -v release="$release" -v result="$result" '
		/^kernels: kernel: / { kernel = $3 }
		/^ *--- PASS: / { ok++; all++ } /^ *--- FAIL: / { all++ } /^ *--- SKIP: / { skipped++ }
		END { printf "| %s | %s | %d of %d | %d | %s |\n", release, kernel, ok, all, skipped, result }' "$log")
"
done
[ -n "$tried" ] || failed=1
printf '\n| Debian | kernel | tests passed | skipped | result |\n|---|---|---|---|---|\n%s' "$table"
exit $failed
