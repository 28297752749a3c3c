package words

import "whosefd/analyze/rules"

// RulesSchema is the version of the list of rules as JSON.
const RulesSchema = "whosefd.rules/v1"

// Rules is the list of all causes and effects that a finding can have.
type Rules struct {
	Schema  string       `json:"schema"`
	Causes  []CauseText  `json:"causes"`
	Effects []EffectText `json:"effects"`
}

// CauseText describes a cause.
type CauseText struct {
	Rule rules.Rule `json:"rule"`
	// Names are what such names look like.
	Names string `json:"names"`
	Text  string `json:"text"`
}

// EffectText describes an effect.
type EffectText struct {
	Effect rules.Effect `json:"effect"`
	Text   string       `json:"text"`
}

// AllRules gives the causes in the order in which they are looked for, and the
// effects, worst first.
func AllRules() Rules {
	return Rules{RulesSchema, []CauseText{
		{rules.RuleSelfFD, "/proc/self/fd/N, /proc/thread-self/fd/N, /dev/fd/N, /dev/stdin",
			"Each process has its own table of descriptors, and such a name means the table of whoever opens it. " +
				"A program that loads a library out of a memfd gives it a name like that; the debugger reads the name in the program's memory, " +
				"opens it, and gets its own descriptor N: a pipe, a terminal, another file, or nothing. " +
				"What the program does with its descriptor after dlopen does not matter: the library stays mapped when it is closed, or its number used again."},
		{rules.RuleSelfLink, "/proc/self/cwd/…, /proc/self/root/…, /proc/self/exe, /proc/self/map_files/…",
			"The other links below /proc/self, too, are those of whoever resolves them: the directory in which the debugger works, its root, its program, its mappings."},
		{rules.RuleRelative, "./lib.so, plugins/lib.so",
			"The name has no slash at its beginning, so it starts at the working directory. The program had another one when it loaded the library, or went elsewhere since, " +
				"and the debugger starts from its own."},
		{rules.RuleMountNS, "/app/lib.so",
			"The name is absolute, but the program sees other files: it lives below another root directory (chroot), or in another mount namespace (a container, unshare). " +
				"gdb and gdbserver enter the mount namespace of the inferior to open a file there, unless \"set sysroot\" says otherwise; they do not enter its root directory. Most other tools do neither."},
		{rules.RulePIDNS, "/proc/123/fd/N, /proc/123/root/…",
			"The name has the number of a process, and the program is in another pid namespace than the debugger, where that number means another process, or none."},
		{rules.RuleReplacedFile, "/usr/lib/lib.so, /proc/123/fd/N",
			"The name means the same to both, but no longer the file that was loaded: the library was upgraded, deleted or rebuilt while the program ran, or the descriptor was closed. " +
				"The program goes on with the old file, which it has mapped."},
		{rules.RuleSelfWait, "",
			"Every wait must have somebody who can end it. Here only the process itself could: it reads from a pipe that only it can write to, or waits for a lock that it holds itself, " +
				"or for a thread that waits for it. No name of an inferior explains it (then the rule would be self-fd)."},
		{rules.RuleStoppedInferior, "",
			"The debugger waits for a process that it has itself stopped: for the file system that its inferior serves, for its inferior to read from a full pipe or terminal, or for a lock that its inferior holds."},
		{rules.RuleMutualWait, "",
			"A circle of processes that are not stopped: each waits for the next, as a front end that waits for gdb to end without reading what gdb writes."},
		{rules.RuleInferiorDeadlock, "",
			"The debugger lets one thread of the program run, in a call of a function or with scheduler-locking, and that thread waits for another one that the debugger keeps stopped."},
	}, []EffectText{
		{rules.Hang, "The debugger waits for data that nobody will send. It reads from a pipe or FIFO of which only it holds the other end, or it waits in the open of a FIFO that nobody has open for writing. " +
			"Ctrl-C does not help: the kernel starts the call again. whosefd proves it with the list of everybody who holds the pipe."},
		{rules.StolenInput, "The debugger reads what is meant for somebody else: the user's keys from a terminal, or what another process writes into a pipe. " +
			"It may wait until there is some; what it has read is gone."},
		{rules.WrongFile, "The debugger gets another file that can be read as a library, and does so: it shows wrong symbols, or none, " +
			"with a warning at best (\"not at the expected address\")."},
		{rules.Failed, "The debugger gets an error, or a file that is no library (\"not in executable format\"), and has no symbols for this one. " +
			"A name that leads nowhere is the mildest case: at least nothing wrong is shown."},
	}}
}
