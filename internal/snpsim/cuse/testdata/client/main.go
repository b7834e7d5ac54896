// The guest's program of the test: it stands in for the production init, takes
// what go-sev-guest's unmodified client gets from /dev/sev-guest, and prints it
// on the console.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/google/go-sev-guest/client"
	"golang.org/x/sys/unix"

	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/platform/sevguest"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store/onefile"
)

func main() {
	flag.Set("self_throttle_burst", "1000") // go-sev-guest's own brake, 2 s a command
	fmt.Printf("init called as %q with %q, process %d\n", os.Args[0], os.Args[1:], os.Getpid())
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 2 {
			fmt.Printf("FAIL: %s holds %d entries before init mounted it: %v\n", dir, len(entries), err)
		}
	}
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("FAIL: mounting", m, err)
		}
	}
	if os.Getenv("round") == "" {
		ask()
		switchRoot()
	}
	fmt.Println("after switch_root")
	ask()
	fmt.Println("done")
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// switchRoot does what util-linux's does, and starts this program again there.
func switchRoot() {
	check := func(err error) {
		if err != nil {
			fmt.Println("FAIL: switch_root:", err)
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
	check(os.MkdirAll("/newroot", 0o755))
	check(unix.Mount("root", "/newroot", "tmpfs", 0, "size=64m"))
	self, err := os.ReadFile("/bin/attestbox")
	check(err)
	check(os.WriteFile("/newroot/init", self, 0o755))
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		check(unix.Unmount(dir, unix.MNT_DETACH))
		check(os.Mkdir("/newroot"+dir, 0o755))
	}
	for _, old := range []string{"/bin", "/etc", "/lib", "/init", "/modules"} {
		check(os.RemoveAll(old))
	}
	check(os.Chdir("/newroot"))
	check(unix.Mount(".", "/", "", unix.MS_MOVE, ""))
	check(unix.Chroot("."))
	check(os.Chdir("/"))
	check(unix.Exec("/init", []string{"init"}, []string{"round=2"}))
}

func ask() {
	d, err := client.OpenDevice()
	if err != nil {
		fmt.Println("FAIL: opening:", err)
		return
	}
	defer d.Close()
	var data [64]byte
	copy(data[:], "report data of the test")

	report, err := client.GetRawReportAtVmpl(d, data, 1)
	show("report", report, err)
	report, certs, err := client.GetRawExtendedReport(d, data)
	show("extended", report, err)
	show("certs", certs, err)
	key, err := client.GetDerivedKeyAcknowledgingItsLimitations(d, &client.SnpDerivedKeyReq{
		UseVCEK: true, GuestFieldSelect: client.GuestFieldSelect{Measurement: true, GuestPolicy: true},
	})
	if err == nil {
		show("key", key.Data[:], nil)
	} else {
		show("key", nil, err)
	}
	_, err = client.GetDerivedKeyAcknowledgingItsLimitations(d, &client.SnpDerivedKeyReq{UseVCEK: true, GuestSVN: 99})
	fmt.Println("SVN too high:", err)
	seals()
	quote, err := (&client.LinuxIoctlQuoteProvider{}).GetRawQuote(data)
	show("quote", quote, err)

	// Many at once: each gets its own answer.
	var all sync.WaitGroup
	for i := range byte(8) {
		all.Go(func() {
			d, err := client.OpenDevice()
			if err != nil {
				fmt.Println("FAIL: opening, many:", err)
				return
			}
			defer d.Close()
			for range 5 {
				if b, err := client.GetRawReportAtVmpl(d, [64]byte{i}, 0); err != nil || b[0x50] != i {
					fmt.Println("FAIL: report, many:", err)
				}
			}
		})
	}
	all.Wait()

	// The driver's errors, by hand.
	fd, err := unix.Open("/dev/sev-guest", unix.O_RDWR, 0)
	if err != nil {
		fmt.Println("FAIL: opening again:", err)
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode != unix.S_IFCHR|0o600 || st.Uid != 0 {
		fmt.Printf("FAIL: mode %o, owner %d\n", st.Mode, st.Uid)
	}
	req, resp := make([]byte, 112), make([]byte, 4000)
	outer := struct {
		version   uint64
		req, resp *byte
		exitInfo  uint64
	}{1, &req[0], &resp[0], 0}
	ioctl := func(name string, cmd uintptr) {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), cmd, uintptr(unsafe.Pointer(&outer)))
		fmt.Printf("%s: %v, exit info %#x, certs_len %d\n", name, unix.ErrnoName(errno), outer.exitInfo, req[104:108])
	}
	ioctl("unknown ioctl", 0xc0205309)
	ioctl("no room", 0xc0205302)
	outer.version = 0
	ioctl("version 0", 0xc0205300)
	outer.version, outer.resp = 1, nil
	ioctl("no response", 0xc0205300)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc0205300, 16)
	fmt.Println("bad address:", unix.ErrnoName(errno))
	_, err = unix.Read(fd, resp)
	fmt.Println("read:", err == syscall.EINVAL)
}

// seals is what our own driver and a sealed store make of the device.
func seals() {
	ctx := context.Background()
	p, err := sevguest.Open()
	if err != nil {
		fmt.Println("FAIL: driver:", err)
		return
	}
	defer p.Close()
	keys := p.(platform.KeyDeriver)
	key, err := keys.DeriveKey(ctx, platform.KeyRequest{RootKeySelect: platform.RootVCEK, FieldSelect: platform.SelectMeasurement | platform.SelectTCB, VMPL: 1})
	show("driver-key", key.Bytes(), err)
	if _, err := keys.DeriveKey(ctx, platform.KeyRequest{GuestSVN: 99}); !errors.Is(err, platform.ErrKeyRefused) {
		fmt.Println("FAIL: driver, SVN too high:", err)
	}
	share := secret.Random(seal.ShareSize)
	by, err := seal.New(ctx, seal.Config{Platform: p, Domain: "example.org", Share: share})
	if err != nil {
		fmt.Println("FAIL: sealer:", err)
		return
	}
	raw, err := onefile.Open("/store")
	if err != nil {
		fmt.Println("FAIL: store:", err)
		return
	}
	s, err := cryptstore.Create(ctx, raw, "main", by, cryptstore.Options{})
	if err != nil {
		fmt.Println("FAIL: sealing:", err)
		return
	}
	if _, err := s.Generate(ctx, "auth", cryptstore.Ed25519, false); err != nil {
		fmt.Println("FAIL: generating:", err)
	}
	if s, err = cryptstore.Open(ctx, raw, "main", by, cryptstore.Options{}); err != nil {
		fmt.Println("FAIL: unsealing:", err)
		return
	}
	k, err := s.Signer(ctx, "auth", 0)
	if err != nil {
		fmt.Println("FAIL: signer:", err)
		return
	}
	k.Close()
	by, err = seal.New(ctx, seal.Config{Platform: p, Domain: "example.org", Share: secret.Random(seal.ShareSize)})
	if err != nil {
		fmt.Println("FAIL: sealer:", err)
		return
	}
	if _, err := cryptstore.Open(ctx, raw, "main", by, cryptstore.Options{}); !errors.Is(err, cryptstore.ErrSealed) {
		fmt.Println("FAIL: another share:", err)
	}
}

func show(name string, b []byte, err error) {
	if err != nil {
		fmt.Printf("FAIL: %s: %v\n", name, err)
		return
	}
	fmt.Printf("%s %s\n", name, hex.EncodeToString(b))
}
