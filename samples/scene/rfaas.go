package scene

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Service is an rFaaS-like manager with one client, which has asked for foo(21).
type Service struct {
	Manager  *Process
	Client   *Process // Wait and Out tell what it got
	Executor int      // the pid of the executor for this client
	Socket   string   // where the manager listens
}

// RFaaS starts a manager with these options, and a client of it. With --wait or
// --wait-before it returns when the executor waits, else when it has started.
func RFaaS(t TB, managerArgs ...string) *Service {
	t.Helper()
	s := &Service{Socket: socketPath(t)}
	s.Manager = StartSample(t, "rfaas_manager", append([]string{"--socket", s.Socket}, managerArgs...)...)
	s.Manager.WaitReady()
	s.Client = StartSample(t, "rfaas_client", "--socket", s.Socket, "21")
	var err error
	s.Executor, err = strconv.Atoi(s.Manager.ExpectErr(`executor (\d+) started`)[1])
	if err != nil {
		t.Fatalf("the executor's pid: %v", err)
	}
	if slices.Contains(managerArgs, "--wait") || slices.Contains(managerArgs, "--wait-before") {
		s.Manager.Expect(fmt.Sprintf(`(?m)^ready %d$`, s.Executor))
	}
	return s
}

// socketPath is in a folder of its own below the system's temporary one: the
// path of a socket has at most 107 bytes (unix(7)), and a test's own folder, named
// after the test, may have more.
func socketPath(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "whosefd")
	if err != nil {
		t.Fatalf("make a folder for the socket: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the socket's folder: %v", err)
		}
	})
	return filepath.Join(dir, "rfaas")
}
