package procview

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"whosefd/tracer/event"
)

const tcpText = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:9C4D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0 100 0 0 10 0
   1: 0100007F:9C4D 0100007F:D0A2 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0 20 4 30 10 -1
   2: 0000000000000000FFFF00000100007F:D0A2 0000000000000000FFFF00000100007F:9C4D 01 00000000:00000000 00:00000000 00000000     0        0 1003 1 0 20 4 30 10 -1
   3: 0100007F:9C4D 0100007F:D0A3 06 00000000:00000000 03:00000AAA 00000000     0        0 0 3 0
   4: 0100007F:9C4D 0100007F:D0A3 01 short
   5: 0100007F:9C4D 0100007F:D0A3 01 00000000:00000000 00:00000000 00000000     0        0 x`

func TestParseTCP(t *testing.T) {
	one, other := netip.MustParseAddrPort("127.0.0.1:40013"), netip.MustParseAddrPort("127.0.0.1:53410")
	want := []TCPSocket{{one, other, 1002}, {other, one, 1003}}
	if got := ParseTCP([]byte(tcpText)); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func FuzzParseTCP(f *testing.F) {
	f.Add([]byte(tcpText))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range ParseTCP(b) {
			if s.Inode == 0 || !s.Local.IsValid() {
				t.Errorf("%+v", s)
			}
		}
	})
}

// The other end of a connection is found by its address, over IPv4 and IPv6
// alike.
func TestPeers(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		defer listener.Close()
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		v := New("/proc")
		peers, err := v.Peers(event.PID(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		fds, err := v.Descriptors(event.PID(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		// Both ends are this process's.
		ends := 0
		for _, fd := range fds {
			for _, p := range peers {
				if fd.Target.Same(p) {
					ends++
				}
			}
		}
		if ends != 2 || len(peers) != 2 {
			t.Errorf("%s: peers %v, %d of them are descriptors of this process", address, peers, ends)
		}
		_, _, _ = client.Close(), server.Close(), listener.Close()
	}
}
