package decode

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel decides: none of these files can be mapped.
func TestProcessFilesCannotBeMapped(t *testing.T) {
	for _, name := range processFiles {
		f, err := os.Open(filepath.Join("/proc/self", name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE); err == nil {
			t.Errorf("%s can be mapped", name)
			_ = unix.Munmap(b)
		}
		_ = f.Close()
	}
}
