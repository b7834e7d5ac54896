package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/testenv"
	"attestbox/testdata/banks/fraud"
)

// The page's commands for VMs: four of them in QEMU, each with its own image,
// linked over vsock by the host. The host records what bank A and the analysis
// say to each other.
func TestBanksVMs(t *testing.T) {
	testenv.Tool(t, "qemu-system-x86_64", "qemu-system-x86")
	testenv.Tool(t, "mke2fs", "e2fsprogs")
	for _, v := range []string{"ATTESTBOX_KERNEL", "ATTESTBOX_MODULES"} {
		if os.Getenv(v) == "" {
			testenv.Skip(t, v+": run `eval \"export $(scripts/kernel.sh)\"`")
		}
	}
	w, replace := newBanks(t)
	goBuild(t, filepath.Join(w.dir, "bin"), ".", "./mkimage")
	goBuild(t, filepath.Join(w.dir, "bin"), "-tags", "simdevice", ".")
	if err := os.Rename(filepath.Join(w.dir, "bin", "attestbox"), filepath.Join(w.dir, "bin", "snp-sim-device")); err != nil {
		t.Fatal(err)
	}
	goBuild(t, filepath.Join(w.dir, "bin"), ".")
	goBuild(t, filepath.Join(w.dir, "bin", "vm"), "-tags", "guest", "./testdata/banks/...")
	tap := newTap(t, w.ports["bank-a"])
	// The first that fits counts: bank A's way leads through the tap.
	replace = append([]string{"-vsock-forward 8461=127.0.0.1:8461", "-vsock-forward 8461=" + tap.address,
		"$KERNEL", os.Getenv("ATTESTBOX_KERNEL"), "$MODULES", os.Getenv("ATTESTBOX_MODULES")}, replace...)
	w.page(t, "vms", replace)

	all := map[string][]fraud.Case{}
	for _, bank := range fraud.Banks() {
		cases, err := fraud.ParseCases(bankData(t, bank))
		if err != nil {
			t.Fatal(err)
		}
		all[bank] = cases
	}
	trend := fraud.Format(fraud.Trend(all))
	for _, bank := range fraud.Banks() {
		w.console(t, bank, fmt.Sprintf("%s: the trend has 10 rows, sha256 %x", bank, sha256.Sum256(trend)))
	}
	analysis := w.console(t, "analysis", "analysis: 10 rows were released to 3 banks")
	if !strings.Contains(analysis, "roles analysis until") {
		t.Errorf("the analysis was not certified in its role:\n%s", analysis)
	}
	// What the host has: the link, the consoles, the images, the server's state and
	// the encrypted disks. Not the folders that the banks made their disks from.
	if err := os.RemoveAll(filepath.Join(w.dir, "disk")); err != nil {
		t.Fatal(err)
	}
	link := tap.recorded()
	if len(link) < len(bankData(t, "bank-a"))+len(trend) {
		t.Errorf("only %d bytes went over bank A's link", len(link))
	}
	if bytes.Contains(link, []byte("month,category")) {
		t.Error("the link is in clear")
	}
	w.noAccounts(t, []string{w.dir, w.ram}, map[string][]byte{"bank A's link": link, "what was said": []byte(w.log.String() + w.stdout)})
}

// console waits until a VM's console says the words.
func (w *banks) console(t *testing.T, vm, words string) string {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(w.dir, vm+".console"))
		if strings.Contains(string(b), words) {
			return string(b)
		}
		if time.Now().After(deadline) || strings.Contains(string(b), "boot failed") {
			t.Fatalf("%s did not say %q:\n%s", vm, words, b)
		}
	}
}

// tap relays connections and keeps what goes over them.
type tap struct {
	address string
	mu      sync.Mutex
	b       bytes.Buffer
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *tap) recorded() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.b.Bytes())
}

func newTap(t *testing.T, to string) *tap {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	context.AfterFunc(ctx, func() { l.Close() })
	p := &tap{address: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.relay(ctx, c, to)
		}
	}()
	return p
}

func (p *tap) relay(ctx context.Context, c net.Conn, to string) {
	defer c.Close()
	d, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); d.Close() })()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
		both.Go(func() {
			io.Copy(io.MultiWriter(way[1], p), way[0])
			way[1].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}
