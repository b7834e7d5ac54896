package bootcount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"attestbox/internal/code"
	"attestbox/internal/testenv"
)

var testID = [32]byte{0xab, 2, 3}

func boot(number, committed uint64) Boot {
	return Boot{ID: testID, Number: number, Committed: committed}
}

func put(t *testing.T, root, name, content string) string {
	t.Helper()
	p := filepath.Join(root, Dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func counter(t *testing.T, root string) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, Dir, BootFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := Parse(b)
	if err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return n
}

// The life of a volume: each boot finds what the one before it wrote.
func TestAdvance(t *testing.T) {
	root := t.TempDir()
	committed := uint64(0)
	for n := uint64(1); n < 12; n++ {
		b := boot(n, committed)
		want := counter(t, root)
		found, err := Advance(root, b)
		if err != nil || found != want || counter(t, root) != n {
			t.Fatalf("boot %d: found %d, %v, then %d", n, found, err, counter(t, root))
		}
		if n%3 != 0 { // every third outcome is lost
			committed = n
		}
	}
	// The same boot once more, as after a restart within one launch.
	if found, err := Advance(root, boot(11, 10)); err != nil || found != 11 {
		t.Errorf("%d, %v", found, err)
	}
	st, err := os.Stat(filepath.Join(root, Dir))
	if err != nil || st.Mode() != os.ModeDir|0o700 {
		t.Errorf("%v, %v", st, err)
	}
	names, _ := os.ReadDir(filepath.Join(root, Dir))
	if len(names) != 2 || names[0].Name() != BootFile || names[1].Name() != SpareFile {
		t.Errorf("left behind: %v", names)
	}
}

func TestRefused(t *testing.T) {
	five := string(Marshal(5))
	for _, tt := range []struct {
		name              string
		number, committed uint64
		prepare           func(t *testing.T, root string)
		want              code.Code
	}{
		{"older copy", 8, 6, nil, code.BootRollback},
		{"newer than this boot", 4, 3, nil, code.BootRollback},
		{"new volume in place of one that booted", 2, 1, func(t *testing.T, root string) {
			if err := os.RemoveAll(filepath.Join(root, Dir)); err != nil {
				t.Fatal(err)
			}
		}, code.BootRollback},
		{"counter deleted", 6, 5, func(t *testing.T, root string) { os.Remove(filepath.Join(root, Dir, BootFile)) }, code.BootRollback},
		{"release without numbers", 0, 0, nil, code.BootRelease},
		{"release that contradicts itself", 5, 5, nil, code.BootRelease},
		{"malformed", 6, 5, func(t *testing.T, root string) { put(t, root, BootFile, five[:50]) }, code.BootCounter},
		{"longer", 6, 5, func(t *testing.T, root string) { put(t, root, BootFile, five+"\n") }, code.BootCounter},
		{"link", 6, 5, func(t *testing.T, root string) {
			p := filepath.Join(root, Dir, BootFile)
			if err := errors.Join(os.Rename(p, p+"x"), os.Symlink("bootx", p)); err != nil {
				t.Fatal(err)
			}
		}, code.BootCounter},
		{"second name", 6, 5, func(t *testing.T, root string) {
			p := filepath.Join(root, Dir, BootFile)
			if err := os.Link(p, filepath.Join(root, "x")); err != nil {
				t.Fatal(err)
			}
		}, code.BootCounter},
		{"folder in its place", 6, 5, func(t *testing.T, root string) {
			p := filepath.Join(root, Dir, BootFile)
			if err := errors.Join(os.Remove(p), os.Mkdir(p, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, code.BootCounter},
		{"pipe in its place", 6, 5, func(t *testing.T, root string) {
			p := filepath.Join(root, Dir, BootFile)
			if err := errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, code.BootCounter},
		{"writable for others", 6, 5, func(t *testing.T, root string) { os.Chmod(filepath.Join(root, Dir, BootFile), 0o602) }, code.BootCounter},
		{"folder writable for others", 6, 5, func(t *testing.T, root string) { os.Chmod(filepath.Join(root, Dir), 0o770) }, code.BootCounter},
		{"folder is a link", 6, 5, func(t *testing.T, root string) {
			if err := errors.Join(os.Rename(filepath.Join(root, Dir), filepath.Join(root, "x")), os.Symlink("x", filepath.Join(root, Dir))); err != nil {
				t.Fatal(err)
			}
		}, code.BootCounter},
		{"another instance", 6, 5, func(t *testing.T, root string) {
			put(t, root, InstanceFile, string(MarshalID([32]byte{9})))
		}, code.BootInstance},
		{"instance malformed", 6, 5, func(t *testing.T, root string) {
			put(t, root, InstanceFile, strings.ToUpper(string(MarshalID(testID))))
		}, code.BootCounter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, BootFile, five)
			if tt.prepare != nil {
				tt.prepare(t, root)
			}
			read := func() []byte {
				p := filepath.Join(root, Dir, BootFile)
				if st, err := os.Stat(p); err != nil || !st.Mode().IsRegular() {
					return nil
				}
				b, _ := os.ReadFile(p)
				return b
			}
			before := read()
			_, err := Advance(root, boot(tt.number, tt.committed))
			if c, _ := code.Of(err); c != tt.want {
				t.Errorf("%v", err)
			}
			if after := read(); !bytes.Equal(before, after) {
				t.Errorf("the counter was changed: %q, %q", before, after)
			}
		})
	}
	if _, err := Advance(filepath.Join(t.TempDir(), "none"), boot(1, 0)); err == nil {
		t.Error("no volume: accepted")
	}
}

// What belongs to nobody but root: a folder of another user's.
func TestNotRoots(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Skip(t, "root, to give files away")
	}
	for _, name := range []string{"", BootFile} {
		root := t.TempDir()
		put(t, root, BootFile, string(Marshal(5)))
		if err := os.Chown(filepath.Join(root, Dir, name), 1000, 1000); err != nil {
			t.Fatal(err)
		}
		_, err := Advance(root, boot(6, 5))
		if c, _ := code.Of(err); c != code.BootCounter {
			t.Errorf("%q of user 1000: %v", name, err)
		}
	}
}

func TestInstance(t *testing.T) {
	root := t.TempDir()
	put(t, root, InstanceFile, string(MarshalID(testID)))
	if _, err := Advance(root, boot(1, 0)); err != nil {
		t.Error(err)
	}
}

// Whatever lies in the spare file's place is put aside.
func TestSpare(t *testing.T) {
	for name, prepare := range map[string]func(p string) error{
		"torn":   func(p string) error { return os.WriteFile(p, []byte("attest"), 0o600) },
		"garble": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), size), 0o600) },
		"link":   func(p string) error { return os.Symlink("boot", p) },
		"open": func(p string) error {
			return errors.Join(os.WriteFile(p, make([]byte, size), 0o600), os.Chmod(p, 0o666))
		},
		"linked": func(p string) error { return os.Link(filepath.Join(filepath.Dir(p), BootFile), p) },
	} {
		root := t.TempDir()
		p := put(t, root, BootFile, string(Marshal(1)))
		if err := prepare(filepath.Join(filepath.Dir(p), SpareFile)); err != nil {
			t.Fatal(err)
		}
		_, err := Advance(root, boot(2, 1))
		if name == "linked" { // then the counter itself has two names
			if c, _ := code.Of(err); c != code.BootCounter || counter(t, root) != 1 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || counter(t, root) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A process killed after each change of the disk leaves the old or the new
// number, and the boot after it goes on.
func TestKilledAtEveryStep(t *testing.T) {
	if dir := os.Getenv("BOOTCOUNT_DIR"); dir != "" {
		n, _ := strconv.ParseUint(os.Getenv("BOOTCOUNT_BOOT"), 10, 64)
		die, _ := strconv.Atoi(os.Getenv("BOOTCOUNT_STEP"))
		_, err := boot(n, n-1).advance(dir, func(string) {
			if die--; die < 0 {
				unix.Kill(os.Getpid(), unix.SIGKILL)
				select {}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, before := range []uint64{0, 1, 2} {
		for step := 0; ; step++ {
			root := t.TempDir()
			for n := uint64(1); n <= before; n++ {
				if _, err := Advance(root, boot(n, n-1)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtEveryStep$")
			cmd.Env = append(os.Environ(), "BOOTCOUNT_DIR="+root, fmt.Sprintf("BOOTCOUNT_BOOT=%d", before+1), fmt.Sprintf("BOOTCOUNT_STEP=%d", step))
			out, err := cmd.CombinedOutput()
			killed := err != nil && strings.Contains(err.Error(), "killed")
			if err != nil && !killed {
				t.Fatalf("%v\n%s", err, out)
			}
			if n := counter(t, root); n != before && n != before+1 {
				t.Errorf("killed at step %d: counter %d after boot %d", step, n, before)
			}
			if _, err := Advance(root, boot(before+2, before)); err != nil || counter(t, root) != before+2 {
				t.Errorf("killed at step %d: the next boot: %v", step, err)
			}
			if !killed {
				if want := map[uint64]int{0: 8, 1: 6, 2: 5}[before]; step != want {
					t.Errorf("%d steps after boot %d, want %d", step, before, want)
				}
				break
			}
		}
	}
}

// A volume that is mounted read-only is so afterwards, and a full one boots.
func TestReadOnlyAndFull(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Skip(t, "root, to mount")
	}
	root := t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", unix.MS_NOSUID|unix.MS_NOATIME, "size=64k"); err != nil {
		testenv.Skip(t, "a kernel that lets root mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() { unix.Unmount(root, 0) })
	flags := func() int64 {
		var st unix.Statfs_t
		if err := unix.Statfs(root, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Flags)
	}
	before := flags()
	if err := remount(root, "ro"); err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n < 4; n++ {
		if _, err := Advance(root, boot(n, n-1)); err != nil {
			t.Fatal(err)
		}
		if got := flags(); got != before|unix.ST_RDONLY {
			t.Errorf("mounted with %#x, want %#x", got, before|unix.ST_RDONLY)
		}
		if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("it can be written: %v", err)
		}
	}
	// Refused: it was not even made writable.
	if _, err := Advance(root, boot(9, 8)); err == nil || flags() != before|unix.ST_RDONLY {
		t.Errorf("%v, %#x", err, flags())
	}
	if err := remount(root, "rw"); err != nil {
		t.Fatal(err)
	}
	if got := flags(); got != before {
		t.Errorf("mounted with %#x, want %#x", got, before)
	}
	f, err := os.Create(filepath.Join(root, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if _, err := Advance(root, boot(4, 3)); err != nil || counter(t, root) != 4 {
		t.Errorf("a full volume: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(root, Dir)); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = f.Write(make([]byte, 512))
	}
	if _, err := Advance(root, boot(5, 0)); err == nil {
		t.Error("a full volume at its first boot: accepted")
	} else if c, _ := code.Of(err); c != code.BootCounter {
		t.Error(err)
	}
}

func TestFormat(t *testing.T) {
	const want = "attestbox-boot 1 00000000000000000003 db7e6843a9508f1aa296b6f9590c7b1660d1fa9a4b905cdbb6cee24f21eb8393\n"
	if got := string(Marshal(3)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, n := range []uint64{0, 1, 1<<64 - 1} {
		if got, err := Parse(Marshal(n)); err != nil || got != n {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	good := Marshal(77)
	for i := range good {
		for _, x := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(good)
			bad[i] ^= x
			if n, err := Parse(bad); err == nil {
				t.Errorf("byte %d changed: read as %d", i, n)
			}
		}
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil || !strings.Contains(string(doc), strings.TrimSpace(want)) {
		t.Errorf("the example in doc.go: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Marshal(3))
	f.Add(Marshal(1<<64 - 1))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := Parse(b)
		if err == nil && !bytes.Equal(Marshal(n), b) {
			t.Fatalf("%q is read as %d", b, n)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add(MarshalID(testID))
	f.Add([]byte("00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := ParseID(b)
		if err == nil && !bytes.Equal(MarshalID(id), b) {
			t.Fatalf("%q is read as %x", b, id)
		}
	})
}
