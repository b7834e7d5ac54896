package image

import (
	"bytes"
	"testing"

	"attestbox/internal/image/imagetest"
)

// An accepted archive is written again as the same bytes.
func FuzzReadArchive(f *testing.F) {
	whole := write(f, sample(f))
	f.Add(whole)
	f.Add(write(f, &Archive{}))
	f.Add(whole[:200])
	f.Add([]byte(newcMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ReadArchive(data)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := a.Write(&out); err != nil {
			t.Fatalf("accepted, and cannot be written: %v", err)
		}
		if !bytes.Equal(out.Bytes(), data) {
			t.Fatal("accepted, and written differently")
		}
	})
}

// Reading an initramfs neither panics nor takes memory without bound. What
// decompresses is read as an archive.
func FuzzInspectInitrd(f *testing.F) {
	plain := write(f, sample(f))
	for _, kind := range []string{Zstd, Xz, Gzip, None} {
		var out bytes.Buffer
		z, err := compressor(&out, kind, false)
		ok(f, err)
		_, err = z.Write(plain)
		ok(f, err, z.Close())
		f.Add(out.Bytes())
	}
	f.Add(append(write(f, must(earlyArchive(0, map[string][]byte{microcodeAMD: amdMicrocode(4), microcodeIntel: intelMicrocode(4)}))), plain...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := InspectInitrd(data); err == nil && len(r.Files) > MaxEntries {
			t.Fatal("more files than allowed")
		}
	})
}

func FuzzModInfo(f *testing.F) {
	f.Add(imagetest.Module("depends=a,b", "softdep=pre: c post: d", "vermagic=1 SMP"))
	f.Add(imagetest.Program(false))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := ParseModInfo("x.ko", data)
		if err == nil && len(info.Depends)+len(info.SoftPre) > len(data) {
			t.Fatal("more names than bytes")
		}
	})
}

// A manifest that is accepted and marshalled is accepted again, with the same
// meaning; a key's form is a matter of content alone.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"kernel":"k","modules_dir":"m","guest":"g","config":"c","files":[{"path":"/a","source":"b","mode":"0644"}]}`))
	f.Add([]byte(`{"kernel":"/k","modules":["default","nvme"],"vcpus":2,"debug":true,"busybox":"b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data, "/base")
		if err != nil {
			return
		}
		_ = m.Check()
		for _, file := range m.Files {
			if file.Source != "" && file.Source[0] != '/' {
				t.Fatalf("source %q is relative", file.Source)
			}
		}
	})
}

func FuzzPrivateKey(f *testing.F) {
	for _, data := range keySamples(f) {
		if len(data) < 2048 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// A key does not hide behind text that comes before or after it.
		if why := findPEM(data); why != "" && PrivateKey(append([]byte("text\n"), data...)) == "" {
			t.Fatalf("%s, but not behind a line of text", why)
		}
		PrivateKey(data)
	})
}
