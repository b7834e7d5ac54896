package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"attestbox/internal/store/bolt"
	"attestbox/internal/testenv"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// keySamples are made in the test: no private key lies in the repository.
func keySamples(t testing.TB) map[string][]byte {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rs := must(rsa.GenerateKey(rand.Reader, 2048))
	p8 := must(x509.MarshalPKCS8PrivateKey(ed))
	sec1 := must(x509.MarshalECPrivateKey(ec))
	p1 := x509.MarshalPKCS1PrivateKey(rs)
	block := func(label string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
	}
	p8pem := block("PRIVATE KEY", p8)
	b64 := base64.StdEncoding.EncodeToString
	k32 := b64(bytes.Repeat([]byte{0x5a}, 32))
	escaped, _ := json.Marshal(map[string]string{"type": "service_account", "private_key": string(p8pem)})
	pgp := append([]byte{0x94, 60, 4, 1, 2, 3, 4, 22}, make([]byte, 60)...)
	m := map[string][]byte{
		"PKCS#8 PEM":               p8pem,
		"PKCS#8 DER":               p8,
		"PKCS#8 DER and a newline": append(bytes.Clone(p8), '\n'),
		"SEC 1 PEM":                block("EC PRIVATE KEY", sec1),
		"SEC 1 DER":                sec1,
		"PKCS#1 PEM":               block("RSA PRIVATE KEY", p1),
		"PKCS#1 DER":               p1,
		"PKCS#8 RSA DER":           must(x509.MarshalPKCS8PrivateKey(rs)),
		"encrypted PKCS#8 PEM":     block("ENCRYPTED PRIVATE KEY", p8),
		"OpenSSH PEM":              block("OPENSSH PRIVATE KEY", append([]byte("openssh-key-v1\x00"), p8...)),
		"OpenSSH raw":              append([]byte("openssh-key-v1\x00"), p8...),
		"SSH2":                     []byte("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: \"x\"\n" + b64(p8) + "\n---- END SSH2 ENCRYPTED PRIVATE KEY ----\n"),
		"PGP armored":              []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + b64(p1) + "\n-----END PGP PRIVATE KEY BLOCK-----\n"),
		"PGP binary, old form":     pgp,
		"PGP binary, new form":     append([]byte{0xc5, 60, 4, 1, 2, 3, 4, 1}, make([]byte, 60)...),
		"TPM 2 key":                block("TSS2 PRIVATE KEY", p8),
		"old OpenSSL, encrypted":   []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n" + b64(p1) + "\n"),
		"behind certificates":      append(block("CERTIFICATE", p8), p8pem...),
		"with CRLF":                bytes.ReplaceAll(p8pem, []byte("\n"), []byte("\r\n")),
		"inside a program":         append(append(bytes.Repeat([]byte{0, 1, 2, 0xff}, 5000), p8pem...), bytes.Repeat([]byte{0xfe}, 5000)...),
		"escaped in JSON":          escaped,
		"base64 of a PEM":          []byte("tls.key: " + b64(p8pem) + "\n"),
		"indented in YAML":         []byte("key: |\n    " + strings.ReplaceAll(string(p8pem), "\n", "\n    ")),
		"age":                      []byte("# created: x\nAGE-SECRET-KEY-1" + strings.Repeat("QPZRY9X8", 7) + "GF\n"),
		"age, post-quantum":        []byte("AGE-SECRET-KEY-PQ-1" + strings.Repeat("QPZRY9X8", 7) + "GF\n"),
		"age plugin":               []byte("AGE-PLUGIN-YUBIKEY-1QPZRY9X8GF2TVDW0\n"),
		"WireGuard":                []byte("[Interface]\nPrivateKey = " + k32 + "\n"),
		"WireGuard, lower case":    []byte("[Interface]\n  privatekey=" + k32 + "\n"),
		"GnuPG agent":              []byte("Created: 20260101T000000\nKey: (protected-private-key (rsa (n #00#)))\n"),
		"GnuPG canonical":          []byte("(21:protected-private-key(3:rsa"),
		"PuTTY":                    []byte("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n"),
		"minisign":                 []byte("untrusted comment: minisign encrypted secret key\n" + b64(p8) + "\n"),
		"JWK":                      []byte(`{"kty":"OKP","crv":"Ed25519","x":"aa","d":"bb"}`),
		"JWK set":                  []byte(`{"keys":[{"kty":"EC","x":"a","y":"b"},{"kty":"oct","k":"c2VjcmV0"}]}`),
		"Java key store":           {0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2},
		"PKCS#12":                  {0x30, 0x14, 0x02, 0x01, 0x03, 0x30, 0x0f, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01, 0xa0, 0x02, 0x04, 0x00},
		"own policy key":           block("PRIVATE KEY", p8),
	}
	path := filepath.Join(t.TempDir(), "state.db")
	db := must(bolt.Open(path))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	m["own state"] = must(os.ReadFile(path))
	return m
}

func TestPrivateKeysAreFound(t *testing.T) {
	for name, data := range keySamples(t) {
		if PrivateKey(data) == "" {
			t.Errorf("%s: not found", name)
		}
		err := refuseKey("/some/where/"+name, data)
		if !errors.Is(err, ErrPrivateKey) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: refusal %v does not name the file", name, err)
		}
	}
}

func TestPublicThingsAreNoKeys(t *testing.T) {
	pub, ed, _ := ed25519.GenerateKey(rand.Reader)
	rs := must(rsa.GenerateKey(rand.Reader, 2048))
	tmpl := &x509.Certificate{SerialNumber: must(rand.Int(rand.Reader, rs.N))}
	cert := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, ed))
	for name, data := range map[string][]byte{
		"empty":               nil,
		"text":                []byte("hello\n"),
		"certificate DER":     cert,
		"certificate PEM":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		"public key DER":      must(x509.MarshalPKIXPublicKey(&rs.PublicKey)),
		"public key PKCS#1":   x509.MarshalPKCS1PublicKey(&rs.PublicKey),
		"public key PEM":      pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))}),
		"ssh public key":      []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me\n"),
		"PGP public key":      append([]byte{0x98, 60, 4, 1, 2, 3, 4, 22}, make([]byte, 60)...),
		"PGP public armored":  []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n"),
		"age recipient":       []byte("age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n"),
		"WireGuard peer":      []byte("[Peer]\nPublicKey = " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"),
		"JWK public":          []byte(`{"kty":"EC","crv":"P-256","x":"a","y":"b"}`),
		"init.json":           []byte(`{"mode":"run"}`),
		"a label alone":       []byte("use -----BEGIN PRIVATE KEY----- as the first line\n"),
		"minisign public":     []byte("untrusted comment: minisign public key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"),
		"digest info":         {0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14},
		"32 bytes of nothing": make([]byte, 32),
	} {
		if why := PrivateKey(data); why != "" {
			t.Errorf("%s: %s", name, why)
		}
	}
}

// A program with TLS, X.509 and PEM code, as a guest binary is, holds labels
// and base64 tables: none of it may look like a key.
func TestProgramsAreNoKeys(t *testing.T) {
	data := must(os.ReadFile(must(exec.LookPath("go"))))
	if why := PrivateKey(data); why != "" {
		t.Errorf("the go command %s", why)
	}
}

// What other tools write, where they are installed.
func TestForeignToolsKeys(t *testing.T) {
	dir := t.TempDir()
	run := func(tool, pkg string, args ...string) {
		cmd := exec.Command(testenv.Tool(t, tool, pkg), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", tool, args, err, out)
		}
	}
	run("openssl", "openssl", "genpkey", "-algorithm", "X25519", "-out", "x25519.pem")
	run("openssl", "openssl", "genpkey", "-algorithm", "X25519", "-outform", "DER", "-out", "x25519.der")
	run("openssl", "openssl", "pkcs8", "-topk8", "-in", "x25519.pem", "-outform", "DER", "-passout", "pass:x", "-out", "enc.der")
	run("openssl", "openssl", "ecparam", "-name", "secp384r1", "-genkey", "-out", "ec-params-and-key.pem")
	run("openssl", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "rsa.pem", "-out", "cert.crt")
	run("openssl", "openssl", "pkcs12", "-export", "-inkey", "rsa.pem", "-in", "cert.crt", "-passout", "pass:x", "-out", "store.p12")
	files := must(filepath.Glob(filepath.Join(dir, "*")))
	if len(files) != 7 {
		t.Fatalf("only %v", files)
	}
	for _, f := range files {
		why := PrivateKey(must(os.ReadFile(f)))
		if public := filepath.Ext(f) == ".crt"; (why == "") != public {
			t.Errorf("%s: %q", filepath.Base(f), why)
		}
	}
}

func TestRawKeys(t *testing.T) {
	random := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b)
		b[0] = 0xff // never all text
		return b
	}
	for range 200 {
		for name, data := range map[string][]byte{
			"disk": random(32), "seal-64": random(64), "seal.key": random(48), "chip.secret": random(16), "luks_key": random(4096),
		} {
			if err := refuseKey(name, data); !errors.Is(err, ErrPrivateKey) {
				t.Fatalf("%s: %d random bytes pass: %v", name, len(data), err)
			}
		}
	}
	for name, data := range map[string][]byte{
		"33 bytes": random(33), "zeros": make([]byte, 32), "text": []byte("abcdefghijklmnopqrstuvwxyz012345"),
		"hex.key": []byte(strings.Repeat("0123456789abcdef", 4)), "large.key": random(4097), "few values": bytes.Repeat([]byte{0, 1, 2, 3}, 8),
	} {
		if err := refuseKey(name, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One layer of compression hides no key, alone or in a tarball.
func TestCompressedKeysAreFound(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(ed))})
	var ball bytes.Buffer
	w := tar.NewWriter(&ball)
	for name, b := range map[string][]byte{"a": []byte("hello"), "root/.ssh/id": key} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b))}); err != nil {
			t.Fatal(err)
		}
		w.Write(b)
	}
	w.Close()
	pack := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser { return must(zstd.NewWriter(w)) },
		"xz":   func(w io.Writer) io.WriteCloser { return must(xz.NewWriter(w)) },
	}
	for kind, packer := range pack {
		for name, data := range map[string][]byte{"key": key, "tarball": ball.Bytes(), "text": []byte("hello, hello, hello\n")} {
			var b bytes.Buffer
			z := packer(&b)
			z.Write(data)
			z.Close()
			err := refuseKey("innocent", b.Bytes())
			if public := name == "text"; errors.Is(err, ErrPrivateKey) == public {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
	}
}
