package tracer

import (
	"path/filepath"
	"slices"
	"testing"

	"whosefd/samples/scene"
	"whosefd/tracer/event"
	"whosefd/tracer/procview"
)

// hangOnCore makes a core of from_memory with these options, and a gdb that hangs while it loads it.
func hangOnCore(t *testing.T, kind string, args ...string) (s *scene.Session, core string) {
	t.Helper()
	program := filepath.Join(scene.Build(t), "from_memory")
	p := scene.Start(t, scene.Command{Path: program, Args: append(slices.Clone(args), "--wait"), Dir: t.TempDir()})
	p.WaitReady()
	core = filepath.Join(t.TempDir(), "core")
	scene.Core(t, p.PID, kind, core)
	s = scene.StartGDB(t, scene.GDB{Args: []string{program, core}})
	s.WaitBlocked(scene.Patience)
	return s, core
}

// The evidence of a gdb that hangs on a core has the core as its inferior.
func TestSnapshotOfCore(t *testing.T) {
	for _, kind := range scene.CoreKinds {
		t.Run(kind, func(t *testing.T) {
			s, _ := hangOnCore(t, kind)
			events, err := Snapshot(event.PID(s.PID), SnapshotOptions{View: procview.New("/proc"), Tool: "test"})
			if err != nil {
				t.Fatal(err)
			}
			var inf *event.Inferior
			var library *event.LinkMap
			var read *event.Blocked
			for _, ev := range events {
				switch ev := ev.(type) {
				case *event.Inferior:
					inf = ev
				case *event.LinkMap:
					if ev.Name == "/proc/self/fd/4" {
						library = ev
					}
				case *event.Blocked:
					if inRead(ev) {
						read = ev
					}
				}
			}
			if inf == nil || library == nil || read == nil {
				t.Fatalf("inferior %+v, library %+v, read %+v", inf, library, read)
			}
			if inf.Core == nil || inf.Core.ID != library.Core || library.Mapped == nil || library.Mapped.BuildID == "" {
				t.Errorf("%+v\n%+v", inf.Core, library)
			}
			if len(library.Resolves) != 1 || !library.Resolves[0].Same(*read.Target) || len(read.Names) != 0 {
				t.Errorf("%+v is not what %+v reads", library.Resolves, read)
			}
		})
	}
}

// Without any inferior the name still stands in the debugger's own memory.
func TestNamesInMemory(t *testing.T) {
	for _, form := range []string{"self", "thread-self", "dev-fd"} {
		t.Run(form, func(t *testing.T) {
			s, _ := hangOnCore(t, "gcore", "--name", form)
			look := snapshot{SnapshotOptions: SnapshotOptions{View: procview.New("/proc")}, pid: event.PID(s.PID)}
			if err := look.threads(); err != nil {
				t.Fatal(err)
			}
			want := map[string]event.Text{"self": "/proc/self/fd/4", "thread-self": "/proc/thread-self/fd/4", "dev-fd": "/dev/fd/4"}[form]
			for _, b := range look.blocked {
				if !inRead(b) {
					continue
				}
				found := look.names(b, true)
				if len(found) != 1 || found[0].Stream == 0 || found[0].Object == 0 { // gdb reads by stdio
					t.Errorf("not of the stream: %+v", found)
				}
				if !slices.ContainsFunc(found, func(n event.MemoryText) bool { return n.Text == want && n.Addr != 0 && n.In != "" }) {
					t.Errorf("%s is not among %+v", want, found)
				}
			}
		})
	}
}
