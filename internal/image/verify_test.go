package image

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"

	"attestbox/internal/image/imagetest"
	"attestbox/internal/measure"
	"attestbox/internal/strictjson"
	"attestbox/internal/verity"
	"attestbox/internal/wire"
)

// everything is a manifest with every field set that an image can have at once.
func everything(t testing.TB) (string, *Manifest) {
	dir, m := inputs(t)
	ok(t, os.MkdirAll(dir+"/tree/empty", 0o700), os.WriteFile(dir+"/tree/b", []byte("b"), 0o750), os.Symlink("b", dir+"/tree/a"),
		os.WriteFile(dir+"/firmware", measure.SyntheticFirmware(), 0o600))
	m.Modules, m.Applets = []string{"default", "virtio_console"}, []string{"init", "explain"}
	m.Certificates = []string{certificate(t, dir)}
	m.Files = []File{{Path: "/opt", Source: dir + "/tree"}, {Path: "/etc/x", Source: dir + "/tree/b", Mode: "4711"}, {Path: "/etc/same", Source: dir + "/tree/b"}}
	ok(t, os.WriteFile(dir+"/amd.bin", amdMicrocode(5), 0o644), os.Mkdir(dir+"/fw", 0o755))
	withUKI(t, dir, m)
	m.Microcode, m.FirmwareDir = []string{dir + "/amd.bin"}, dir+"/fw"
	m.InstanceID = strings.Repeat("1d", 32)
	m.Compress, m.SimDevice, m.Debug, m.Busybox = Gzip, dir+"/sim-device", true, dir+"/busybox"
	m.Firmware, m.VCPUs, m.VCPUType, m.Product, m.GuestFeatures, m.VMM = dir+"/firmware", 3, "EPYC-Genoa", "Genoa", 0x21, "qemu"
	return dir, m
}

// apart are fields that everything cannot set, each with its own test.
var apart = map[string]string{"Verity": "TestVerifyVerity", "Small": "here, with zstd", "URoot": "TestURoot"}

// A record is enough to build its image again: no field of the manifest is lost.
func TestVerify(t *testing.T) {
	dir, m := everything(t)
	v := reflect.ValueOf(*m)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && apart[name] == "" {
			t.Errorf("%s is not set here: mkimage verify must build with it (Record.manifest)", name)
		}
	}
	verify(t, dir, m)
	verify(t, dir, manifestFor(dir))
	small := manifestFor(dir)
	small.Small = true
	verify(t, dir, small)
	plain := manifestFor(dir)
	plain.Modules, plain.Compress = []string{}, None
	img := build(t, plain)
	if len(img.Record.Modules) != 0 {
		t.Errorf("modules %q", img.Record.Modules)
	}
	verify(t, dir, plain)
}

func TestVerifyVerity(t *testing.T) {
	dir, m := inputs(t)
	text, err := (&verity.Record{RootHash: wire.Hex32{0xab}, Salt: wire.Hex32{0xcd}, DataBlocks: 1000, HashOffset: 4096000}).Marshal()
	m.Verity = dir + "/root.json"
	ok(t, err, os.WriteFile(m.Verity, text, 0o644))
	verify(t, dir, m)
}

// certificate writes a self-signed one.
func certificate(t testing.TB, dir string) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	ok(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	name := dir + "/ca.der"
	ok(t, os.WriteFile(name, must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, key)), 0o644))
	return name
}

// verify builds, loses the manifest, and builds again from the record's text.
func verify(t *testing.T, dir string, m *Manifest) {
	t.Helper()
	img, err := Build(m, Options{SourceDateEpoch: 1800000000})
	ok(t, err)
	rec, err := parseRecord(must(img.Record.Marshal()))
	ok(t, err)
	out := t.TempDir()
	ok(t, WriteDir(out, img))
	again, err := Find(rec, []string{dir}, t.TempDir())
	ok(t, err)
	v, err := Verify(rec, out, again, Options{})
	ok(t, err)
	if len(v.Differences)+len(v.Tools)+len(v.Absent) != 0 {
		t.Errorf("differs: %q, tools %q, absent %q", v.Differences, v.Tools, v.Absent)
	}
}

func TestModeStrings(t *testing.T) {
	for _, kind := range []uint32{TypeRegular, TypeDir, TypeSymlink, TypeChar} {
		for perm := range uint32(0o10000) {
			if got, err := parseModeString(ModeString(kind | perm)); err != nil || got != kind|perm {
				t.Fatalf("%o read as %o, %v", kind|perm, got, err)
			}
		}
	}
	for _, s := range []string{"", "-rw-r--r--x", "?rw-r--r--", "-wr-r--r--", "-rwSr--r-s", "-rwx"} {
		if _, err := parseModeString(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

// A record by somebody else does not lead out of the folders, and lies in no
// field without being found out.
func TestVerifyHostile(t *testing.T) {
	dir, m := everything(t)
	img := build(t, m)
	text := string(must(img.Record.Marshal()))
	for what, change := range map[string][2]string{
		"name that leads up":    {`"name": "tool`, `"name": "../tool`},
		"no recipe":             {`"recipe": {`, `"recipe": null, "x": {`},
		"release that is a dir": {`"kernel_release": "6`, `"kernel_release": "../6`},
		"file of no entry":      {`"/opt/a"`, `"/opt/zz"`},
		"mode that is none":     {`"-rws--x--x"`, `"-rwsx-x--x"`},
		"unknown role":          {`"role": "sim-device"`, `"role": "sim-devices"`},
		"size":                  {`"size": 4096`, `"size": 4097`},
		"hash":                  {`"sha256": "`, `"sha256": "00`},
		"digest":                {`"launch_digest": "`, `"launch_digest": "0`},
		"complete":              {`"complete": true`, `"complete": false`},
		"debug":                 {`"debug": true`, `"debug": false`},
		"build":                 {`"snp_hardware": true`, `"snp_hardware": false`},
		"modules":               {`"kernel/drivers/virtio/virtio_ring.ko",`, ``},
	} {
		t.Run(what, func(t *testing.T) {
			bad := strings.Replace(text, change[0], change[1], 1)
			if what == "name that leads up" {
				bad = strings.Replace(text, `"name": "guest"`, `"name": "../guest"`, 1)
			}
			if bad == text {
				t.Fatal("nothing was changed")
			}
			rec, err := parseRecord([]byte(bad))
			if err != nil {
				return
			}
			again, err := Find(rec, []string{dir}, t.TempDir())
			if err != nil {
				if !errors.Is(err, ErrNoRecipe) && !errors.Is(err, ErrInput) {
					t.Error(err)
				}
				return
			}
			if v, err := Verify(rec, dir, again, Options{}); err == nil && len(v.Differences) == 0 {
				t.Error("not found out")
			}
		})
	}
}

// Looking for inputs ends with an error or a manifest, whatever the record says.
func FuzzRecord(f *testing.F) {
	dir := f.TempDir()
	imagetest.Inputs(f, dir)
	img, err := Build(manifestFor(dir), Options{})
	ok(f, err)
	f.Add(must(img.Record.Marshal()))
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := parseRecord(data)
		if err != nil {
			return
		}
		var back Record
		if err := strictjson.Unmarshal(must(rec.Marshal()), &back); err != nil {
			t.Fatalf("accepted, and not accepted again: %v", err)
		}
		if rec.Recipe == nil || rec.checkInputs() != nil {
			return
		}
		m, err := rec.manifest(func(in Input) (string, error) {
			if strings.Contains(in.Name, "/") {
				t.Fatalf("name %q", in.Name)
			}
			return "/stage/" + in.Name, nil
		}, "/modules", "")
		if err == nil {
			_ = m.Check()
		}
	})
}
