package analyze

import (
	"slices"
	"strings"
	"testing"

	"whosefd/analyze/words"
	"whosefd/tracer/decode"
	"whosefd/tracer/event"
)

// A gdb that has the plug-in is known by a descriptor, and is not told to install it.
func TestPlugin(t *testing.T) {
	mark := fd(gdbPID, 12, "O_RDWR|O_CLOEXEC", event.Target{Kind: event.Memfd, Link: decode.PluginMark + " (deleted)", Dev: 1, Ino: 99})
	for _, with := range []bool{false, true} {
		hang, prompt := hung(), atPrompt(fromMemoryLib())
		if with {
			hang, prompt = hang.with(mark), prompt.with(mark)
		}
		d := analyzed(hang).Diagnosis()
		i := slices.IndexFunc(d.Findings[0].Remedies, func(r words.Remedy) bool { return r.Kind == "gdb-plugin" })
		guard := slices.IndexFunc(d.Findings[0].Remedies, func(r words.Remedy) bool { return r.Kind == "guard" })
		if i < 0 || i > guard || (d.Findings[0].Remedies[i].Command == "") != with || d.Debugger.Plugin != with || analyzed(hang).PS().Plugin != with {
			t.Errorf("with it %v: %+v, remedies %+v", with, d.Debugger, d.Findings[0].Remedies)
		}
		// What gdb has not opened by itself, the plug-in leads.
		if d := analyzed(prompt).Diagnosis(); len(d.Findings) > 0 || (len(d.Risks) == 0) != with {
			t.Errorf("at its prompt, with it %v: %+v %+v, %s", with, d.Findings, d.Risks, strings.TrimSpace(string(d.Summary)))
		}
	}
}
