package policy

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/internal/applet"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/image"
	"attestbox/internal/image/imagetest"
	"attestbox/internal/recipient"
	"attestbox/internal/snp"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"policy": func() {
		env := applet.OSEnv("policy")
		err := Applet.Run(context.Background(), env, os.Args[1:])
		applet.Print(env.Stderr, env.Name, err)
		os.Exit(applet.ExitCode(err))
	}})
}

// The scripts begin with reports of a test chip, keys and an image in $WORK.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: func(env *testscript.Env) error { return setup(t, env.WorkDir) },
		Cmds:  map[string]func(ts *testscript.TestScript, neg bool, args []string){"flip": flip, "exits": exits, "replace": replace},
	})
}

func setup(t *testing.T, dir string) error {
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert := func(der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	ch := appraisetest.Mint(appraisetest.Config{Product: snp.Genoa})
	write("report.bin", ch.Sign(ch.Report(3)))
	debug := ch.Report(3)
	debug.Policy |= snp.PolicyDebug
	write("debug.bin", ch.Sign(debug))
	write("vcek.der", ch.VEK.Raw)
	write("chain.pem", append(cert(ch.ASK.Raw), cert(ch.ARK.Raw)...))
	write("ark.pem", cert(ch.ARK.Raw))
	write("other-ark.pem", cert(appraisetest.Mint(appraisetest.Config{Product: snp.Genoa, OtherARK: true}).ARK.Raw))
	for _, name := range []string{"auth", "server", "issuer", "deploy"} {
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			return err
		}
		write(name+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
		if name == "server" {
			der, err := x509.MarshalPKCS8PrivateKey(priv)
			if err != nil {
				return err
			}
			write("server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		}
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(p256.Public())
	if err != nil {
		return err
	}
	write("p256.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	private, public, err := recipient.New()
	if err != nil {
		return err
	}
	defer private.Zero()
	write("owner.key", private.Bytes())
	write("owner.pub", public)
	return writeImage(t, dir)
}

// writeImage makes an image folder, and beside it one whose record says that
// its digest is incomplete.
func writeImage(t *testing.T, dir string) error {
	in := filepath.Join(dir, "inputs")
	imagetest.Inputs(t, in)
	m := &image.Manifest{Kernel: filepath.Join(in, "vmlinuz"), ModulesDir: filepath.Join(in, "lib/modules", imagetest.Release),
		Guest: filepath.Join(in, "guest"), Config: filepath.Join(in, "init.json"), Append: "console=ttyS0"}
	img, err := image.Build(m, image.Options{})
	if err != nil {
		return err
	}
	if err := image.WriteDir(filepath.Join(dir, "web"), img); err != nil {
		return err
	}
	if err := image.WriteDir(filepath.Join(dir, "bad"), img); err != nil {
		return err
	}
	name := filepath.Join(dir, "bad", "image.json")
	var rec image.Record
	if err := json.Unmarshal(mustRead(t, name), &rec); err != nil {
		return err
	}
	rec.Measurement.Complete, rec.Measurement.Why = false, "no kernel-hashes page"
	b, err := rec.Marshal()
	if err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o600)
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// replace FILE REGEXP TEXT edits a file as a person would.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	out := regexp.MustCompile(args[1]).ReplaceAllString(string(b), strings.ReplaceAll(args[2], `\n`, "\n"))
	if out == string(b) {
		ts.Fatalf("%q is not in %s", args[1], args[0])
	}
	ts.Check(os.WriteFile(name, []byte(out), 0o600))
}

// exits N COMMAND... runs a command and wants this exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...)
	ts.Check(err)
}
