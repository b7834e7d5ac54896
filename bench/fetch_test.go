// Package bench measures what needs more than one process.
package bench

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/client"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// TestMain is the peer when it is called as one: the benchmark measures its
// own process, so the other end must be another.
func TestMain(m *testing.M) {
	if os.Getenv("ATTESTBOX_BENCH_PEER") == "1" {
		if err := peer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// psp gives reports at no cost: on hardware the secure processor's time is not
// the CPU's.
type psp struct{}

func (psp) Name() string { return platform.AMDSEVSNP }
func (psp) Close() error { return nil }
func (psp) Report(_ context.Context, data [64]byte) (*platform.Evidence, error) {
	r := make([]byte, 1184)
	copy(r[0x50:], data[:])
	r[0xC0] = 1
	return &platform.Evidence{Platform: platform.AMDSEVSNP, Report: r}, nil
}

// BenchmarkFetch is one whole fetch as the guest does it: TLS 1.3 with a new
// key, HPKE key, transcript, release, outcome, ack. cpu-us/op is the CPU time
// of the client's process alone.
func BenchmarkFetch(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ATTESTBOX_BENCH_PEER=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	addr, pin, _ := strings.Cut(strings.TrimSpace(line), " ")
	cfg := client.Config{Servers: []string{"tcp://" + addr}, Platform: psp{}, Pins: make([]wire.Pin, 1)}
	if err := cfg.Pins[0].UnmarshalText([]byte(pin)); err != nil {
		b.Fatal(err)
	}
	before := cpu(b)
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		rel, err := client.Launch(ctx, cfg)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := rel.Report(ctx, wire.ResultOpened, "", nil); err != nil {
			b.Fatal(err)
		}
		rel.Close()
		cancel()
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peer answers anybody, until its stdin ends.
func peer() error {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, pub, key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	cfg := wire.ServerTLS(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), wire.PinOf(leaf))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(tls.Server(conn, cfg), wire.PinOf(leaf))
		}
	}()
	_, err = bufio.NewReader(os.Stdin).ReadByte() // io.EOF when the parent ends
	if err != nil && err.Error() != "EOF" {
		return err
	}
	return nil
}

func answer(conn *tls.Conn, pin wire.Pin) {
	defer conn.Close()
	begin, err := wire.Expect[*wire.Begin](conn)
	if err != nil {
		return
	}
	if wire.Write(conn, &wire.Challenge{}) != nil {
		return
	}
	if _, err := wire.Expect[*wire.Evidence](conn); err != nil {
		return
	}
	t := &wire.Transcript{Version: wire.Version, ID: begin.ID, Suite: wire.SuiteID(), Key: begin.Key}
	cs := conn.ConnectionState()
	if t.FillChannel(&cs, pin) != nil {
		return
	}
	sealed, err := wire.Seal(t, &wire.Payload{DiskKey: secret.Random(32), OutcomeKey: secret.Random(32), Boot: 1})
	if err != nil {
		return
	}
	wire.Write(conn, &wire.Release{Sealed: sealed})
	if o, err := wire.Expect[*wire.Outcome](conn); err == nil {
		wire.Write(conn, &wire.Ack{Boot: o.Boot})
	}
}
