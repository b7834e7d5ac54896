package cryptstore_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestbox/applets"
	cryptstoreapplet "attestbox/applets/cryptstore"
	"attestbox/internal/applet"
	"attestbox/internal/platform"
	"attestbox/internal/recipient"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
)

// What the scripts call is the binary by its own name. With TEST_CHIP it runs
// on a simulated chip, which the applet itself has no way to choose; without,
// it is the binary as it is built, which finds no secure processor here.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"attestbox": func() { os.Exit(applets.Main(os.Args)) },
		"cryptstore": func() {
			if os.Getenv("TEST_CHIP") == "" {
				os.Exit(applets.Main(os.Args))
			}
			env := applet.OSEnv("cryptstore")
			err := cryptstoreapplet.RunOn(context.Background(), env, os.Args[1:], chip)
			applet.Print(env.Stderr, env.Name, err)
			os.Exit(applet.ExitCode(err))
		},
	})
}

// chip is the guest that the environment describes.
func chip() (platform.Platform, error) {
	psp, err := snpsim.Load(os.Getenv("TEST_CHIP"))
	if err != nil {
		return nil, err
	}
	c := snpsim.GuestConfig{HostData: [32]byte{byte(len(os.Getenv("TEST_ID")))}}
	copy(c.Measurement[:], os.Getenv("TEST_MEASUREMENT"))
	if os.Getenv("TEST_DEBUG") != "" {
		c.Policy = uint64(snpsim.DefaultPolicy | snp.PolicyDebug)
	}
	return psp.Launch(c).Platform(), nil
}

func TestScripts(t *testing.T) {
	psp := snpsimtest.PSP(t, snp.Genoa)
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error { return setup(env, psp) },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "flip": flip,
		},
	})
}

// exits N COMMAND... runs a command and wants this exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit $got, want $want" >&2; exit 99; }`, "exits"}, args...)...))
}

// flip FILE N changes one bit N bytes before the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b, err := os.ReadFile(name)
	ts.Check(err)
	b[len(b)-n] ^= 1
	ts.Check(os.WriteFile(name, b, 0o600))
}

// setup makes key files, a share on tmpfs, a chip's folder, certificates and a
// recipient.
func setup(env *testscript.Env, psp *snpsim.PSP) error {
	shm, err := os.MkdirTemp("/dev/shm", "attestbox-test-")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(shm) })
	env.Setenv("SHM", shm)
	chip := filepath.Join(env.WorkDir, "chip")
	env.Setenv("CHIP", chip)
	if err := psp.Save(chip); err != nil {
		return err
	}
	private, public, err := recipient.New()
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"key": random(32), "other.key": random(32), "short.key": []byte("short"),
		"share": random(32), "other.share": random(32), "short.share": random(31),
		"recipient.key": private.Bytes(), "recipient.pub": public,
		"cert.pem": []byte(cert), "chain.pem": []byte(strings.Repeat(cert, 2)),
		"ec.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec}),
	} {
		dir := env.WorkDir
		if strings.Contains(name, "share") || name == "recipient.key" {
			dir = shm
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(env.WorkDir, "disk.share"), random(32), 0o600)
}

// random is for files; the pages of a secret.Bytes go when nobody holds it.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
