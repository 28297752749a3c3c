#!/bin/sh
# Installs the package, uses what is in it, takes it away, and looks at what is left.
# Runs as root in a folder that may be spoilt; matrix.sh calls it there.
# usage: package.sh PACKAGE.deb SAMPLES
set -eu
deb=$1
samples=$2
tmp=$(mktemp -d)
gdb=
trap '[ -z "$gdb" ] || kill -9 "$gdb" 2>/dev/null || :; rm -rf "$tmp"' EXIT

fail() { echo "package: $*" >&2; exit 1; }
ok() { echo "package: $*"; }

files() { find /etc /usr /lib /opt /srv -xdev ! -path '*/__pycache__*' ! -path /etc/ld.so.cache | sort; }
files >"$tmp/before"

dpkg -i "$deb" >"$tmp/dpkg" 2>&1 || { cat "$tmp/dpkg" >&2; fail "does not install"; }
want=$(dpkg-deb -f "$deb" Version)
[ "$(whosefd --version)" = "whosefd version $want" ] || fail "--version says $(whosefd --version), the package $want"
closed=$(dpkg-deb -c "$deb" | grep -v '^.rwxr.xr.x\|^-rw-r--r--\|^l') && fail "not for everybody: $closed"
[ "$(whosefd-gdb --version)" = "$(gdb --version)" ] || fail "whosefd-gdb --version is not gdb's"
ok "version $want, whosefd-gdb is gdb"

for page in whosefd whosefd-explain whosefd-gdb whosefd-top; do
	gzip -dc "/usr/share/man/man1/$page.1.gz" | grep -q '^\.SH EXAMPLES' || fail "no page $page(1)"
done
for file in zsh/vendor-completions/_whosefd fish/vendor_completions.d/whosefd.fish; do
	grep -q whosefd "/usr/share/$file" || fail "no completion $file"
done
bash -c '. /usr/share/bash-completion/completions/whosefd && complete -p whosefd' >/dev/null || fail "bash cannot use its completion"
whosefd __complete trace -e openat 2>/dev/null | grep -qx openat2 || fail "calls are not completed"
grep -q '^ExecStart=/usr/bin/whosefd watch' /usr/lib/systemd/system/whosefd-watch.service || fail "no unit"
if command -v systemd-analyze >/dev/null; then
	systemd-analyze verify /usr/lib/systemd/system/whosefd-watch.service || fail "systemd refuses the unit"
fi
ok "manual, completions, unit"

whosefd gdb-plugin --status >"$tmp/status" 2>&1 || { cat "$tmp/status" >&2; fail "gdb has no plug-in"; }
echo 'set breakpoint pending on
break foo
run
bt' >"$tmp/commands"
timeout -k 5 60 gdb -q -batch -x "$tmp/commands" --args "$samples/from_memory" </dev/null >"$tmp/cured" 2>&1 || { cat "$tmp/cured" >&2; fail "a gdb with the plug-in fails or hangs"; }
grep -q 'foo (x=21) at lib.c' "$tmp/cured" || { cat "$tmp/cured" >&2; fail "a gdb with the plug-in has no symbols"; }
ok "gdb has the plug-in, and shows the library"

gdb -nx -q -batch -x "$tmp/commands" --args "$samples/from_memory" </dev/null >"$tmp/hung" 2>&1 &
gdb=$!
i=0
until whosefd explain "$gdb" >"$tmp/explained" 2>&1; [ $? = 1 ]; do
	i=$((i + 1))
	[ "$i" -lt 300 ] || { cat "$tmp/explained" >&2; fail "a gdb without the plug-in is not said to hang"; }
	sleep 0.2
done
grep -q '^hang: ' "$tmp/explained" || { cat "$tmp/explained" >&2; fail "not the hang"; }
whosefd repair --detach "$gdb" >"$tmp/repaired" 2>&1 || { cat "$tmp/repaired" >&2; fail "repair"; }
grep -q '^Repaired' "$tmp/repaired" || { cat "$tmp/repaired" >&2; fail "repair"; }
kill -9 "$gdb" 2>/dev/null || :
wait "$gdb" 2>/dev/null || :
gdb=
ok "a hang is explained and repaired"

dpkg -r whosefd >"$tmp/dpkg" 2>&1 || { cat "$tmp/dpkg" >&2; fail "cannot be removed"; }
files >"$tmp/after"
diff "$tmp/before" "$tmp/after" >&2 || fail "is not as it was before"
said=$(gdb -q -batch -ex 'print 6*7' 2>&1 </dev/null)
# shellcheck disable=SC2016 # gdb's
[ "$said" = '$1 = 42' ] || fail "gdb says: $said"
ok "removed, nothing is left"
