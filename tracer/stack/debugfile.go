package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path"
	"time"

	"github.com/go-delve/delve/pkg/proc/debuginfod"
	"github.com/ulikunitz/xz/lzma"
)

const (
	debugFolder = "/usr/lib/debug"
	maxNote     = 64 << 10
	// maxChecksum bounds the files whose checksum is computed, bytes: some 50 ms.
	maxChecksum = 64 << 20
	// fetchWithin is how long a debuginfod server may take for one file.
	fetchWithin = 10 * time.Second
)

// debugObject is debugFile, once.
func (p *process) debugObject(m *module, main *object) *object {
	if !m.debugSought {
		m.debugSought = true
		m.debug = p.debugFile(m, main, p.fetch)
	}
	return m.debug
}

// debugFile finds the file with the debug info of a stripped one, as gdb does
// ("Debugging Information in Separate Files"), where the process sees files.
func (p *process) debugFile(m *module, main *object, fetch bool) *object {
	id := buildID(main)
	if len(id) > 1 {
		if f := p.openDebug(m, func(_ *os.File, e *object) bool { return bytes.Equal(buildID(e), id) }, byBuildID(id)); f != nil {
			return f
		}
	}
	if name, sum, ok := debugLink(main); ok {
		dir := path.Dir(string(m.maps[0].Path))
		same := func(r *os.File, e *object) bool {
			if other := buildID(e); len(id) > 0 && len(other) > 0 {
				return bytes.Equal(id, other)
			}
			return checksum(r) == sum
		}
		if f := p.openDebug(m, same, path.Join(dir, name), path.Join(dir, ".debug", name), path.Join(debugFolder, dir, name)); f != nil {
			return f
		}
	}
	if fetch && len(id) > 1 && os.Getenv("DEBUGINFOD_URLS") != "" {
		return p.fetchDebug(m, id)
	}
	return nil
}

// sharedFile opens the file in which several share part of their debug info
// (.gnu_debugaltlink: a file name, NUL, its build id); dwz makes it.
func (p *process) sharedFile(m *module, debug *object) *object {
	b, err := debug.section(".gnu_debugaltlink").all()
	if err != nil || len(b) > maxNote {
		return nil
	}
	name, id, ok := bytes.Cut(b, []byte{0})
	if !ok || len(name) == 0 || len(id) < 2 {
		return nil
	}
	same := func(_ *os.File, e *object) bool { return bytes.Equal(buildID(e), id) }
	// The name is absolute or relative to the debug file's own folder.
	at := string(name)
	if !path.IsAbs(at) {
		at = path.Join(path.Dir(debug.name), at)
	}
	return p.openDebug(m, same, at, byBuildID(id), path.Join(debugFolder, ".dwz", path.Base(at)))
}

// byBuildID is the name of a debug file by its build id.
func byBuildID(id []byte) string {
	text := hex.EncodeToString(id)
	return path.Join(debugFolder, ".build-id", text[:2], text[2:]+".debug")
}

// openDebug opens the first debug file that is the same, by the names that it may
// have for the process.
func (p *process) openDebug(m *module, same func(*os.File, *object) bool, names ...string) *object {
	for _, name := range names {
		file, err := p.view.OpenInside(p.pid, name)
		if err != nil {
			continue
		}
		r, err := file.Local()
		if err != nil {
			continue
		}
		if f := m.keep(r, same); f != nil {
			f.name = name
			return f
		}
	}
	return nil
}

// keep takes an open file, if it belongs to the module.
func (m *module) keep(r *os.File, same func(*os.File, *object) bool) *object {
	defer r.Close()
	f, err := openELF(r)
	if err != nil {
		return nil
	}
	if f.Machine != machine || !same(r, f) {
		f.close()
		return nil
	}
	m.objects = append(m.objects, f)
	return f
}

// fetchDebug asks the user's debuginfod servers.
func (p *process) fetchDebug(m *module, id []byte) *object {
	ctx, cancel := context.WithTimeout(context.Background(), fetchWithin)
	defer cancel()
	name, err := debuginfod.GetDebuginfo(ctx, nil, hex.EncodeToString(id))
	if err != nil || name == "" {
		return nil
	}
	r, err := os.Open(name) // in the user's own cache
	if err != nil {
		return nil
	}
	return m.keep(r, func(_ *os.File, e *object) bool { return bytes.Equal(buildID(e), id) })
}

// buildID reads the note that identifies a build; nil if there is none.
func buildID(f *object) []byte {
	b, err := f.section(".note.gnu.build-id").all()
	if err != nil || len(b) > maxNote {
		return nil
	}
	return parseBuildID(b)
}

// parseBuildID reads an ELF note (elf(5), Nhdr): sizes of name and content,
// type 3, "GNU\0", content.
func parseBuildID(b []byte) []byte {
	if len(b) < 16 || binary.LittleEndian.Uint32(b) != 4 || binary.LittleEndian.Uint32(b[8:]) != 3 ||
		string(b[12:16]) != "GNU\x00" {
		return nil
	}
	n := uint64(binary.LittleEndian.Uint32(b[4:]))
	if n > uint64(len(b)-16) {
		return nil
	}
	return b[16 : 16+n]
}

// debugLink reads .gnu_debuglink: a file name, NUL, padding to 4, CRC-32.
func debugLink(f *object) (name string, sum uint32, ok bool) {
	b, err := f.section(".gnu_debuglink").all()
	if err != nil || len(b) > maxNote {
		return "", 0, false
	}
	return parseDebugLink(b)
}

func parseDebugLink(b []byte) (name string, sum uint32, ok bool) {
	end := bytes.IndexByte(b, 0)
	at := (end + 4) &^ 3
	if end <= 0 || bytes.IndexByte(b[:end], '/') >= 0 || at+4 > len(b) {
		return "", 0, false
	}
	return string(b[:end]), binary.LittleEndian.Uint32(b[at:]), true
}

// checksum is the CRC-32 of a whole file; 0 if it cannot be computed.
func checksum(r *os.File) uint32 {
	st, err := r.Stat()
	if err != nil || st.Size() > maxChecksum {
		return 0
	}
	h := crc32.NewIEEE()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, st.Size())); err != nil {
		return 0
	}
	return h.Sum32()
}

// maxMini bounds the unpacked size of .gnu_debugdata.
const maxMini = 64 << 20

// miniDebugInfo unpacks .gnu_debugdata, an ELF object with more symbols that is
// packed by xz into some distributions' files.
func miniDebugInfo(main *object) *object {
	packed, err := main.section(".gnu_debugdata").all()
	if err != nil {
		return nil
	}
	var b []byte
	if guarded(func() (err error) { b, err = unpackXZ(packed); return err }) != nil {
		return nil
	}
	f, err := newELF(b)
	if err != nil {
		return nil
	}
	return f
}

// maxDictionary bounds the memory for unpacking, bytes; xz(1) needs as much at
// its highest setting.
const maxDictionary = 64 << 20

// unpackXZ unpacks the first block of an .xz file, at most maxMini bytes. There is
// mostly only one, and the library's reader of whole files takes the memory that
// any block asks for, up to 4 GiB.
func unpackXZ(b []byte) ([]byte, error) {
	at, dictionary, ok := blockXZ(b)
	if !ok {
		return nil, errNotXZ
	}
	r, err := lzma.Reader2Config{DictCap: dictionary}.NewReader2(bytes.NewReader(b[at:]))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxMini))
}

var errNotXZ = errors.New("not an .xz file of LZMA2 with a dictionary of sensible size")

// blockXZ says where the data of the first block of an .xz file begins, and the
// size of its dictionary in bytes, if that is LZMA2 and we have room for it. (The .xz File Format, sections 3.1
// and 5.3.1: after 12 bytes come the header's size, flags, and with those the sizes
// or at once the filter: 0x21 for LZMA2, 1, and the dictionary's size as a code.)
func blockXZ(b []byte) (data, dictionary int, ok bool) {
	const begin = 12
	if len(b) < 2*begin || !bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")) {
		return 0, 0, false
	}
	data = begin + (int(b[begin])+1)*4
	at, flags := begin+2, b[begin+1]
	for _, sized := range []byte{0x40, 0x80} {
		for flags&sized != 0 && at < len(b)-3 {
			at++
			if b[at-1] < 0x80 {
				break
			}
		}
	}
	if b[begin] == 0 || flags&3 != 0 || at+3 > data || data >= len(b) || b[at] != 0x21 || b[at+1] != 1 || b[at+2] >= 40 {
		return 0, 0, false
	}
	code := b[at+2]
	dictionary = (2 | int(code&1)) << (code/2 + 11)
	return data, dictionary, dictionary <= maxDictionary
}
