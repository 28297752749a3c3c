package main

// examples stand in the help and the manual page of each command, by its name.
var examples = map[string]string{
	"whosefd": `  whosefd explain            why does gdb hang?
  whosefd repair             give it back, with the right file
  whosefd top                what does every debugger wait for?`,
	"explain": `  whosefd explain                    the debugger that hangs
  whosefd explain 2158               this process, whatever it is
  whosefd explain -o hang.jsonl      keep the evidence, to explain it elsewhere
  whosefd explain strace.log.gz      a log of strace`,
	"ps": `  whosefd ps
  whosefd ps --all-waits postgres    who waits for whom, from any process`,
	"top": `  whosefd top
  whosefd top --trace -p 2158
  whosefd top gdb.jsonl              scroll in a recording`,
	"trace": `  whosefd trace -p 2158 --for 5s
  whosefd trace -Z -e %file gdb -batch ./prog
  whosefd trace -o gdb.jsonl.zst -- gdb ./prog`,
	"table": `  whosefd table gdb.jsonl --failed
  whosefd table strace.log --show fds
  strace -f -y gdb -batch ./prog 2>&1 >/dev/null | whosefd table`,
	"report": `  whosefd report -o report.html
  whosefd report gdb.jsonl -o bug.md`,
	"repair": `  whosefd repair --dry-run           show what would be done
  whosefd repair                     do it, and stay as guard`,
	"guard": `  whosefd guard gdb ./prog
  whosefd guard -p 2158
  whosefd guard --with /proc/self/fd/4=./plugin.so -- gdb ./prog core`,
	"gdb": `  alias gdb='whosefd gdb'
  whosefd gdb -i=mi ./prog`,
	"preflight": `  whosefd preflight 2162
  whosefd preflight 2162 --sysroot /tmp/root
  whosefd preflight --core core ./prog`,
	"watch": `  sudo whosefd watch
  sudo whosefd watch -o /var/log/whosefd.jsonl --for 8h
  sudo whosefd watch --exec ./tell-me.sh`,
	"gdb-plugin": `  whosefd gdb-plugin --install       for yourself; as root, for everybody
  whosefd gdb-plugin --status
  gdb -iex 'source whosefd.py' ./prog   of one gdb, without installing`,
	"doctor": `  whosefd doctor
  whosefd doctor --format json`,
}
