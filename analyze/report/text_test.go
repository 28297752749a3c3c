package report

import (
	"slices"
	"strings"
	"testing"
)

// What doctor, repair and watch say fits the terminal, and is whole in a pipe.
func TestProseFits(t *testing.T) {
	checks := []Check{{Name: "yama", Detail: "ptrace_scope is 3: nobody may attach, whatever his capabilities, until the machine starts again", Remedy: "start it again, with kernel.yama.ptrace_scope = 1"}}
	plan := "This would be done to pid 7; nothing was changed:\n  1. open the inferior's file\n     openat(AT_FDCWD, \"/proc/7/fd/4\", O_RDONLY|O_CLOEXEC)\n     undo: close it\n09:31:20  gdb: it waits for data that only it could write\n"
	for _, width := range []int{0, 36, 50} {
		var b strings.Builder
		if err := Checks(&b, checks, FormatText, Style{Width: width}); err != nil {
			t.Fatal(err)
		}
		if err := Prose(&b, plan, Style{Width: width}); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(b.String(), "\n")
		if width == 0 {
			if len(lines) != 2+5+1 || !strings.HasSuffix(b.String(), plan) {
				t.Errorf("%q", lines)
			}
			continue
		}
		if i := slices.IndexFunc(lines, func(l string) bool { return len(l) > width }); i >= 0 {
			t.Errorf("%q", lines[i])
		}
		if !slices.Contains(lines, "     O_RDONLY|O_CLOEXEC)") || !strings.HasPrefix(lines[len(lines)-2], strings.Repeat(" ", 10)) {
			t.Errorf("what is broken off stands elsewhere: %q", lines)
		}
	}
}
