package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestbox/internal/testenv"
)

// The package is the same bytes whoever builds it, belongs to root, and holds
// what the documentation promises.
func TestDebianPackage(t *testing.T) {
	testenv.Tool(t, "dpkg-deb", "dpkg")
	bin := t.TempDir() // what is packed does not matter here
	for _, name := range []string{"attestbox-guest", "mkimage"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var first []byte
	var deb string
	for _, umask := range []string{"022", "077"} {
		cmd := exec.Command("sh", "-c", "umask "+umask+`; exec "$0" "$@"`, filepath.Join(testenv.Root(), "scripts", "deb.sh"), t.TempDir(), bin)
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1767225600")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("deb.sh: %v\n%s", err, out)
		}
		deb = strings.TrimSpace(string(out))
		b, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, b) {
			t.Error("two builds differ")
		}
		first = b
	}
	list, err := exec.Command("dpkg-deb", "-c", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n") {
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not root's: %s", line)
		}
	}
	for _, want := range []string{
		"-rwxr-xr-x root/root 15 ./usr/lib/attestbox/attestbox", "-rwxr-xr-x root/root 7 ./usr/lib/attestbox/mkimage", "./usr/lib/attestbox/keyscript",
		"./usr/share/initramfs-tools/hooks/attestbox", "./usr/share/initramfs-tools/scripts/init-top/attestbox", "./usr/share/initramfs-tools/scripts/local-top/attestbox",
		"./usr/share/initramfs-tools/scripts/local-block/attestbox", "./usr/share/initramfs-tools/scripts/local-bottom/attestbox",
		"./etc/initramfs/post-update.d/attestbox", "./etc/kernel/postinst.d/zz-attestbox", "./etc/default/attestbox", "./etc/sysctl.d/60-attestbox.conf",
		"./usr/share/man/man8/attestbox.8.gz", "./usr/share/man/man8/attestbox-boot.8.gz", "./usr/share/man/man5/attestbox.json.5.gz", "./usr/share/doc/attestbox/copyright",
	} {
		found := false
		for _, line := range strings.Split(string(list), "\n") {
			f := strings.Fields(line)
			if len(f) < 6 {
				continue
			}
			file := f[5]
			if strings.HasPrefix(want, "-") {
				file = strings.Join([]string{f[0], f[1], f[2], f[5]}, " ")
			}
			found = found || file == want
		}
		if !found {
			t.Errorf("the package lacks %s", want)
		}
	}
	// Whatever lies in /etc is the administrator's, and dpkg has to know it.
	info, err := exec.Command("dpkg-deb", "-I", deb, "conffiles").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(list), "\n") {
		if f := strings.Fields(line); len(f) == 6 && strings.HasPrefix(f[5], "./etc/") && !strings.HasSuffix(f[5], "/") && !strings.Contains(string(info), f[5][1:]+"\n") {
			t.Errorf("%s is no conffile", f[5])
		}
	}
}
