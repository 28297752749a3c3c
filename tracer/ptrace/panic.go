package ptrace

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// InternalError is a panic of ours: a mistake in this program, to be reported
// with its stack.
type InternalError struct {
	Value any
	Stack []byte // as [debug.Stack] has it
}

func (e *InternalError) Error() string { return fmt.Sprintf("internal error: %v", e.Value) }

// NewInternalError is for the goroutine that has recovered from a panic.
func NewInternalError(panicked any) *InternalError { return &InternalError{panicked, debug.Stack()} }

// AsError is deferred, and makes a panic an error beside the one that is there,
// so that what must be done to let go of a process is still done.
func AsError(err *error) {
	if p := recover(); p != nil {
		*err = errors.Join(*err, NewInternalError(p))
	}
}
