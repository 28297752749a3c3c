package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"whosefd/samples/scene"
)

// What somebody comes for who knows strace and gdb, and reads nothing but --help. In a script
// $HANG is a gdb that hangs, $SAMPLES the folder of the programs that are debugged.
func TestScenarios(t *testing.T) {
	t.Parallel()
	scene.Require(t, "gdb", "ptrace")
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	path := strings.Join([]string{filepath.Dir(wrapper(t)), filepath.Dir(binary(t)), os.Getenv("PATH")}, ":")
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			variables := map[string]string{"PATH": path, "SAMPLES": scene.Build(t), "HOME": t.TempDir(), "TERM": "xterm"}
			if strings.Contains(string(text), "$HANG") {
				variables["HANG"] = strconv.Itoa(scene.Hang(t).PID)
			}
			testscript.Run(t, testscript.Params{Files: []string{script}, Setup: func(e *testscript.Env) error {
				for name, value := range variables {
					e.Setenv(name, value)
				}
				return nil
			}})
		})
	}
}
