# What matrix.sh and ../kernels/kernels.sh have in common: folders with releases of
# Debian, made by debootstrap. To be read into a shell in which `cache` is the folder
# that keeps them.
#   MATRIX_MIRROR  the archive to take packages from; by default apt's own
# shellcheck shell=sh disable=SC2154

packages='gdb gdbserver gcc g++ libc6-dev make strace python3 procps iproute2'

# The archive that this machine's own packages come from.
mirror() {
	[ -z "${MATRIX_MIRROR:-}" ] || { echo "$MATRIX_MIRROR"; return; }
	# shellcheck disable=SC2016 # apt's own variable
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1
}

# make_folder RELEASE: the smallest system that has the packages.
make_folder() {
	[ ! -x "$cache/$1/usr/bin/gdb" ] || return 0
	part=$cache/$1.part
	rm -rf --one-file-system "$part"
	mkdir -p "$cache"
	{
		debootstrap --variant=minbase "$1" "$part" "$(mirror)" &&
			install_in "$part" && mv "$part" "$cache/$1"
	} >"$cache/$1.log" 2>&1 </dev/null
}

# install_in FOLDER: the packages. By apt-get, since debootstrap knows nothing of
# packages that provide another.
install_in() {
	# shellcheck disable=SC2086 # a list of words
	unshare -m -p -f --kill-child chroot "$1" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends $packages
}

# in_folder RELEASE COMMAND...: with mounts and processes of its own, which end
# with it. The folder becomes the root, since in a chroot nobody may make namespaces.
in_folder() {
	dir=$cache/$1
	shift
	# shellcheck disable=SC2016 # the inner shell's variables
	timeout -k 10 "${MATRIX_TIMEOUT:-40m}" setsid -w unshare -m -p -f --kill-child sh -c '
		set -e; dir=$1; shift
		mount --bind "$dir" "$dir"
		mount -t proc proc "$dir/proc"
		mount --rbind /dev "$dir/dev"
		mount --rbind /sys "$dir/sys"
		cd "$dir"
		pivot_root . mnt
		umount -l /mnt
		exec chroot . "$@"' sh "$dir" "$@" </dev/null &
	running=$!
	wait "$running"
}

# What runs in a folder ends with us.
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM HUP
