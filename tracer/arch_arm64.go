package tracer

import "golang.org/x/sys/unix"

// nativeAudit is the AUDIT_ARCH_* value of this architecture's own calls.
const nativeAudit = unix.AUDIT_ARCH_AARCH64

// Arch is the architecture whose calls are decoded, as [decode.ForArch] takes it.
const Arch = "arm64"
