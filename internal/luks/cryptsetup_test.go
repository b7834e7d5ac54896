package luks

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	oracle "github.com/anatol/luks.go"

	"attestbox/internal/secret"
	"attestbox/internal/testenv"
)

const testUUID = "01234567-89ab-cdef-0123-456789abcdef"

func testKey(t testing.TB) *secret.Bytes {
	key := secret.Copy(bytes.Repeat([]byte("attestbox-key-32"), 2))
	t.Cleanup(key.Zero)
	return key
}

// cryptsetup runs the real program; the key file holds testKey.
func cryptsetup(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "cryptsetup", "cryptsetup-bin"), args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, name string, parts ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Join(parts, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What we write, cryptsetup opens, with the same volume key.
func TestCryptsetupOpensOurs(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    Params
	}{
		{"defaults", Params{}},
		{"512 and label", Params{SectorSize: 512, Label: "root of <vm> & co"}},
		{"as cryptsetup's own size", Params{HeaderArea: 16 << 20}},
		{"larger headers, more iterations", Params{HdrSize: 64 << 10, Iterations: 5000}},
		{"hmac", Params{Integrity: IntegrityHMAC}},
		{"hmac, smallest", Params{Integrity: IntegrityHMAC, SectorSize: 512, HeaderArea: suites[1].minHeaderArea()}},
		{"smallest", Params{HeaderArea: suites[0].minHeaderArea()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := testKey(t)
			tc.p.UUID = testUUID
			if tc.p.Integrity == "" {
				tc.p.Integrity = IntegrityNone
			}
			header, v, record, err := Format(key, tc.p)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			img := write(t, "disk", header, make([]byte, 1<<20))
			kf := write(t, "key", key.Bytes())
			if out, err := cryptsetup(t, "open", "--test-passphrase", "--key-file", kf, img); err != nil {
				t.Fatalf("cryptsetup open: %v\n%s", err, out)
			}
			bad := write(t, "bad", bytes.Repeat([]byte{1}, 32))
			if _, err := cryptsetup(t, "open", "--test-passphrase", "--key-file", bad, img); err == nil {
				t.Error("cryptsetup opens it with another key")
			}
			out, err := cryptsetup(t, "luksDump", img)
			if err != nil || !strings.Contains(out, testUUID) || strings.Contains(strings.ToLower(out), "warning") {
				t.Fatalf("cryptsetup luksDump: %v\n%s", err, out)
			}
			vkFile := filepath.Join(t.TempDir(), "vk")
			if out, err := cryptsetup(t, "luksDump", "-q", "--dump-volume-key", "--volume-key-file", vkFile, "--key-file", kf, img); err != nil {
				t.Fatalf("cryptsetup luksDump: %v\n%s", err, out)
			}
			vk, err := os.ReadFile(vkFile)
			if err != nil || !bytes.Equal(vk, v.VolumeKey.Bytes()) {
				t.Errorf("cryptsetup finds another volume key (%v)", err)
			}
			if record.SegmentOffset != int64(len(header)) || record.Size != record.SegmentOffset {
				t.Errorf("record %+v", record)
			}
			// The secondary header alone must do for cryptsetup as well.
			broken := bytes.Clone(header)
			clear(broken[:binSize])
			if out, err := cryptsetup(t, "open", "--test-passphrase", "--key-file", kf, write(t, "disk2", broken, make([]byte, 1<<20))); err != nil {
				t.Errorf("cryptsetup does not accept our secondary header: %v\n%s", err, out)
			}
			sameAsOracle(t, img, key, v)
		})
	}
}

// sameAsOracle compares the volume key with the one that luks.go recovers.
func sameAsOracle(t *testing.T, img string, key *secret.Bytes, v *Volume) {
	t.Helper()
	dev, err := oracle.Open(img)
	if err != nil {
		t.Fatalf("luks.go: %v", err)
	}
	defer dev.Close()
	for _, slot := range dev.Slots() {
		if ov, err := dev.UnsealVolume(slot, key.Bytes()); err == nil {
			if ov.StorageOffset != uint64(v.Offset) || ov.StorageSectorSize != uint64(v.SectorSize) || ov.StorageEncryption != v.Suite.Cipher {
				t.Errorf("luks.go: offset %d, sector %d, cipher %s", ov.StorageOffset, ov.StorageSectorSize, ov.StorageEncryption)
			}
			return
		}
	}
	t.Error("luks.go does not open it")
}

// What cryptsetup formats, we open, and its metadata re-marshals to the same bytes.
func TestOpensCryptsetups(t *testing.T) {
	for _, tc := range []struct {
		name  string
		args  []string
		after [][]string
	}{
		{"pbkdf2", []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096"}, nil},
		{"512", []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "512", "--label", "x y"}, nil},
		{"argon2id", []string{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "65536", "--pbkdf-parallel", "2"}, nil},
		{"small", []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--luks2-keyslots-size", "1015808", "--offset", "2048"}, nil},
		{"slot 1 after a change of key", []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, [][]string{
			{"luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "KEY", "IMG", "KEY"},
			{"luksKillSlot", "-q", "--key-file", "KEY", "IMG", "0"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := testKey(t)
			kf := write(t, "key", key.Bytes())
			img := write(t, "disk", make([]byte, 20<<20))
			run := func(args []string) {
				t.Helper()
				if out, err := cryptsetup(t, args...); err != nil {
					t.Fatalf("cryptsetup %q: %v\n%s", args, err, out)
				}
			}
			run(append(append([]string{"luksFormat", "-q", "--type", "luks2", "--cipher", Cipher, "--key-size", "512", "--hash", "sha256"}, tc.args...), img, kf))
			for _, a := range tc.after {
				for i := range a {
					a[i] = map[string]string{"KEY": kf, "IMG": img}[a[i]] + map[bool]string{true: "", false: a[i]}[a[i] == "KEY" || a[i] == "IMG"]
				}
				run(a)
			}
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			header, err := ReadHeader(f)
			if err != nil {
				t.Fatal(err)
			}
			record, err := RecordOf(header)
			if err != nil {
				t.Fatal(err)
			}
			v, err := Open(f, record, key)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			vkFile := filepath.Join(t.TempDir(), "vk")
			run([]string{"luksDump", "-q", "--dump-volume-key", "--volume-key-file", vkFile, "--key-file", kf, img})
			if vk, err := os.ReadFile(vkFile); err != nil || !bytes.Equal(vk, v.VolumeKey.Bytes()) {
				t.Errorf("another volume key than cryptsetup's (%v)", err)
			}
			s, err := parse(header, record, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if text, err := marshalMetadata(&s.md); err != nil || !bytes.Equal(text, s.json) {
				t.Errorf("metadata re-marshals to\n%s\nnot\n%s (%v)", text, s.json, err)
			}
			sameAsOracle(t, img, key, v)
		})
	}
}
