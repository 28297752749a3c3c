package ebpf

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"

	"whosefd/tracer/decode"
)

// raw gives a record with these parts behind its header: the name, the spans, the
// data, and the paths of both files.
func raw(flags uint32, magic uint32, parts ...[]byte) []byte {
	b := make([]byte, headerSize)
	binary.NativeEndian.PutUint32(b[28:], flags)
	for _, at := range []int{88, 88 + fileSize} {
		binary.NativeEndian.PutUint64(b[at:], 0xffff888000000000)
		binary.NativeEndian.PutUint64(b[at+8:], 4798)
		binary.NativeEndian.PutUint32(b[at+16:], 8<<20|1)
		binary.NativeEndian.PutUint32(b[at+28:], magic)
	}
	for i, p := range parts {
		binary.NativeEndian.PutUint16(b[headerSize-lensSize+2*i:], uint16(len(p)))
		b = append(b, p...)
	}
	return b
}

func TestLink(t *testing.T) {
	for _, c := range []struct {
		name    string
		flags   uint32
		magic   uint32
		names   string
		link    string
		deleted bool
	}{
		{"a file", 0, 0xef53, "lib.so\x00lib\x00usr\x00", "/usr/lib/lib.so", false},
		{"the root", 0, 0xef53, "", "/", false},
		{"removed", ofDeleted, 0xef53, "file\x00tmp\x00", "/tmp/file (deleted)", true},
		{"a memfd", 0, 0x01021994, "memfd:libfunction\x00", "/memfd:libfunction (deleted)", false},
		{"a pipe", 0, pipeFS, "", "pipe:[4798]", false},
		{"a socket", 0, sockFS, "", "socket:[4798]", false},
		{"an eventfd", 0, anonFS, "[eventfd]\x00", "anon_inode:[eventfd]", false},
		{"a namespace", 0, nsFS, "mnt\x00", "mnt:[4798]", false},
		{"cut", ofCut, 0xef53, "b\x00a\x00", "/a/b", false},
	} {
		var r Record
		if err := r.parse(raw(c.flags, c.magic, nil, nil, nil, []byte(c.names))); err != nil {
			t.Fatal(err)
		}
		if r.Of.Link != c.link || r.Of.Deleted != c.deleted || r.Of.Cut != (c.flags&ofCut != 0) || r.Of.Dev != 0x801 || r.Of.Ino != 4798 {
			t.Errorf("%s: %+v", c.name, r.Of)
		}
	}
}

// What parse gives lies in the record, whatever that says.
func FuzzRecord(f *testing.F) {
	f.Add(raw(0, 0xef53, []byte("/proc/self/fd/4\x00"), nil, []byte("data"), []byte("a\x00"), []byte("b\x00")))
	f.Add(raw(ofDeleted|madeCut, nsFS, nil, make([]byte, 64), bytes.Repeat([]byte{1}, 256)))
	f.Add([]byte{})
	calls, err := decode.ForArch("amd64")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Record
		if r.parse(raw) != nil {
			return
		}
		row, ok := calls.Call(uint64(r.Nr))
		if !ok {
			return
		}
		n := 0
		for _, p := range r.Pieces(row, nil) {
			n += len(p.Data)
		}
		if n > 3*len(raw)+32 {
			t.Errorf("%d bytes of memory out of a record of %d", n, len(raw))
		}
	})
}

// The layouts here and in the compiled programs are the same.
func TestLayouts(t *testing.T) {
	for name, size := range map[string]uint32{"calls": uint32(binary.Size(row{})), "summoned": uint32(binary.Size(Summons{})), "watched": uint32(binary.Size(watch{}))} {
		if got := spec(t).Maps[name].ValueSize; got != size {
			t.Errorf("%s: values of %d bytes in the programs, of %d here", name, got, size)
		}
	}
	if got := spec(t).Maps["names"].KeySize; got != uint32(binary.Size(nameKey{})) {
		t.Errorf("names: keys of %d bytes", got)
	}
	if got := spec(t).Maps["pending"].ValueSize; got < headerSize+4096 {
		t.Errorf("records of %d bytes", got)
	}
}

func spec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
