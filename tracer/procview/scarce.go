package procview

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// scarce is the error with which an open failed because this process, or the
// machine, had no descriptor left. It is about the whole process, as the limit
// is (getrlimit(2), RLIMIT_NOFILE).
var scarce atomic.Pointer[unix.Errno]

// noteScarce keeps such an error and gives any error back.
func noteScarce(err error) error {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, errno) {
			scarce.Store(&errno)
		}
	}
	return err
}

// Scarce says that something could not be looked at for want of a descriptor: then
// what looks as if it were not there, such as an inferior, may be there.
func Scarce() error {
	if errno := scarce.Load(); errno != nil {
		return fmt.Errorf("not all could be seen: %w (ulimit -n)", *errno)
	}
	return nil
}
