package main

import "syscall"

// openNoFollow refuses a symbolic link, and does not wait for the reader of a FIFO.
const openNoFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
