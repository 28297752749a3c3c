package stack

import (
	"errors"
	"testing"
)

// FuzzFollow follows any code, with memory that is all the same byte.
func FuzzFollow(f *testing.F) {
	// cmp $-1,%eax; je; mov 8(%rbx),%rsi; mov 16(%rbx),%rbp; sub %rsi,%rbp; cmp %r13,%rbp; jae … as in glibc 2.36.
	f.Add([]byte("\x83\xf8\xff\x74\x07\x48\x8b\x73\x08\x48\x8b\x6b\x10\x48\x29\xf5\x4c\x39\xed\x73\x00\x4c\x89\xea\x4c\x89\xe7\xe8\x00\x00\x00\x00"+
		"\x4c\x01\x6b\x08\x48\x8b\x04\x24\x48\x83\xc4\x18\x5b\x5d\x41\x5c\xc3"), byte(0))
	f.Add([]byte("\xeb\xfe"), byte(0)) // a jump to itself
	f.Add([]byte("\xc9\xc2\x08\x00"), byte(1))
	f.Fuzz(func(t *testing.T, code []byte, fill byte) {
		const at, stack = 0x401000, 0x7ffffff000
		fl := &follower{pc: at, words: map[uint64]uint64{},
			code: func(addr uint64) bool { return addr-at < uint64(len(code)) },
			read: func(addr uint64, buf []byte) error {
				if addr == 0 {
					return errors.New("nothing is there")
				}
				for i := range buf {
					if buf[i] = fill; addr+uint64(i)-at < uint64(len(code)) {
						buf[i] = code[addr+uint64(i)-at]
					}
				}
				return nil
			}}
		for i := range fl.regs {
			fl.regs[i] = number{stack + uint64(i)<<12, i != 1}
		}
		err := fl.run()
		if err == nil && fl.calls != 1 {
			t.Errorf("%d calls", fl.calls)
		}
		if len(fl.words) > maxFollowed {
			t.Errorf("%d words", len(fl.words))
		}
	})
}
