package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/cryptstore"
	"attestbox/internal/member"
	"attestbox/internal/member/memberflags"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/snp"
	"attestbox/internal/snpsim"
	"attestbox/internal/snpsim/snpsimtest"
	"attestbox/internal/store"
	"attestbox/internal/store/onefile"
	"attestbox/internal/testenv"
)

// digests are the images of the fast scenario; nothing is built or booted.
var digests = map[string][48]byte{"web": {0xa1}, "db": {0xb2}, "vault": {0xc3}, "vault-2": {0xd4}}

// scenario is the deployment machine, its programs run as processes.
type scenario struct {
	t             *testing.T
	dir, bin, shm string
	server        *exec.Cmd
	address       string
	owner         []string
}

// deployedVM is an instance of an image on a chip. What a VM would run as
// programs is called here, on the simulated chip itself; dir is its disk and
// run its memory.
type deployedVM struct {
	s        *scenario
	image    string
	id       byte
	psp      *snpsim.PSP
	dir, run string
}

func newScenario(t *testing.T, psp *snpsim.PSP) *scenario {
	s := &scenario{t: t, dir: t.TempDir()}
	var err error
	if s.shm, err = os.MkdirTemp("/dev/shm", "attestbox-scenario1-fast-"); err != nil {
		testenv.Skip(t, "no tmpfs at /dev/shm: mount one")
	}
	t.Cleanup(func() { s.stop(); os.RemoveAll(s.shm) })
	s.bin = filepath.Join(s.dir, "bin", "attestbox")
	build := exec.Command("go", "build", "-trimpath", "-o", s.bin, ".")
	build.Dir, build.Env = testenv.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if err := psp.Save(filepath.Join(s.dir, "chip")); err != nil {
		t.Fatal(err)
	}
	s.owner = []string{"-policy-cert", "domain/policy.crt", "-store", "paul.store", "-run-dir", s.shm + "/run", "-floor", s.shm + "/floor",
		"-platform", "enclave", "-enclave-key", s.shm + "/enclave.key"}
	return s
}

func (s *scenario) try(stdin string, args ...string) (string, error) {
	cmd := exec.Command(s.bin, args...)
	cmd.Dir, cmd.Stdin = s.dir, strings.NewReader(stdin)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if err != nil {
		s.t.Logf("%v: %v\n%s", args, err, talk.String())
	}
	return strings.TrimSpace(out.String()), err
}

func (s *scenario) do(args ...string) string {
	s.t.Helper()
	out, err := s.try("", args...)
	if err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// claims writes a file of claims of testdata/scenario1 with digests in place of
// image folders.
func (s *scenario) claims(name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "testdata", "scenario1", name))
	if err != nil {
		s.t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^measurement (\S+) @(\S+)$`).ReplaceAllStringFunc(string(b), func(line string) string {
		if d, ok := digests[strings.Fields(line)[1]]; ok {
			return "measurement " + strings.Fields(line)[1] + " " + hex.EncodeToString(d[:])
		}
		return line
	})
	out := filepath.Join(s.dir, name)
	if err := os.WriteFile(out, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *scenario) state() []string {
	return []string{"-state", "state", "-seal-key", s.shm + "/seal.key"}
}

func (s *scenario) start(more ...string) {
	s.t.Helper()
	ready := filepath.Join(s.dir, "ready")
	os.Remove(ready)
	s.server = exec.Command(s.bin, append(append([]string{"server", "-enclave-key", s.shm + "/enclave.key", "-domain", "domain",
		"-listen", "tcp://127.0.0.1:0", "-admin", "", "-ready-file", ready}, s.state()...), more...)...)
	s.server.Dir = s.dir
	log := &lockedBuffer{}
	s.server.Stderr = log
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.until("the server is ready", func() bool {
		b, err := os.ReadFile(ready)
		s.address = strings.TrimSpace(string(b))
		return err == nil && s.address != ""
	})
	s.t.Cleanup(func() { s.t.Logf("server:\n%s", log) })
}

func (s *scenario) stop() {
	if s.server != nil {
		s.server.Process.Signal(syscall.SIGTERM)
		s.server.Wait()
		s.server = nil
	}
}

// sign signs the policy, with more claims, and has the server look at it.
func (s *scenario) sign(files ...string) {
	s.t.Helper()
	args := []string{"policy", "sign", "-dir", "domain"}
	for _, f := range files {
		args = append(args, "-add", s.claims(f))
	}
	s.do(args...)
	if s.server != nil {
		s.server.Process.Signal(syscall.SIGHUP)
	}
}

func (s *scenario) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("in vain: %s", what)
		}
	}
}

// paul runs fetch-secret as the deployment machine.
func (s *scenario) paul(args ...string) string {
	s.t.Helper()
	return s.do(append(append([]string{"fetch-secret", "-key-server", s.address}, s.owner...), args...)...)
}

// read is what Paul reads of a secret.
func (s *scenario) read(name string) string {
	s.t.Helper()
	out := filepath.Join(s.shm, "read")
	s.paul("-name", name, "-out", out)
	b, err := os.ReadFile(out)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *scenario) vm(image string, id byte, psp *snpsim.PSP) *deployedVM {
	v := &deployedVM{s: s, image: image, id: id, psp: psp, dir: s.t.TempDir()}
	v.boot()
	return v
}

// boot loses the VM's memory.
func (v *deployedVM) boot() {
	var err error
	if v.run, err = os.MkdirTemp(v.s.shm, "vm-"); err != nil {
		v.s.t.Fatal(err)
	}
}

// certify is the applet certify, on a new launch of the VM.
func (v *deployedVM) certify() (*member.Member, *member.Result, error) {
	p := v.psp.Launch(snpsim.GuestConfig{Measurement: digests[v.image], HostData: [32]byte{v.id}}).Platform()
	policy, err := memberflags.ReadPolicy(filepath.Join(v.s.dir, "domain", "policy.crt"))
	if err != nil {
		v.s.t.Fatal(err)
	}
	cfg := member.Config{Policy: policy, RunDir: v.run, Floor: filepath.Join(v.run, "floor.json"), Logf: v.s.t.Logf,
		OpenStore: func() (store.Store, error) { return onefile.Open(filepath.Join(v.dir, "store")) },
		Sealer: func(ctx context.Context, share *secret.Bytes, escrow []byte) (cryptstore.Sealer, error) {
			c := seal.Config{Platform: p, Domain: "bank.example", Share: share}
			if len(escrow) > 0 {
				if c.EscrowTo, err = recipient.ParsePublicBytes(escrow); err != nil {
					return nil, err
				}
			}
			return seal.New(ctx, c)
		}}
	ctx, cancel := context.WithTimeout(v.s.t.Context(), 20*time.Second)
	defer cancel()
	return member.Certify(ctx, cfg, member.Request{Client: client.Config{Servers: []string{v.s.address}, Platform: p, Logf: v.s.t.Logf},
		Recover: memberflags.Recover([]string{v.s.address}, v.s.t.Logf)})
}

// must certifies, and insists on what became of the store.
func (v *deployedVM) must(store string) *member.Member {
	v.s.t.Helper()
	m, res, err := v.certify()
	if err != nil {
		v.s.t.Fatalf("%s: %v", v.image, err)
	}
	if !strings.HasPrefix(res.Store, store) || !strings.Contains(res.Proof, "is-trusted-for-authentication") {
		v.s.t.Fatalf("%s: store %s, want %s; proof:\n%s", v.image, res.Store, store, res.Proof)
	}
	v.s.t.Cleanup(func() { m.Close() })
	return m
}

func (v *deployedVM) refused(why code.Code) {
	v.s.t.Helper()
	m, _, err := v.certify()
	m.Close()
	if c, _ := code.Of(err); !errors.Is(err, client.ErrRefused) || c != why {
		v.s.t.Errorf("%s: %v, want a refusal with %s", v.image, err, why)
	}
}

func (s *scenario) keys(m *member.Member) client.KeysConfig {
	s.t.Helper()
	trust, err := m.Trust(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return client.KeysConfig{Servers: []string{s.address}, Trust: trust, Certificate: m.Certificate, Now: m.Clock, Learned: m.Learned,
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
}

// get fetches a secret as a VM does.
func (s *scenario) get(m *member.Member, name string) (string, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	v, err := client.Fetch(ctx, s.keys(m), name, 0)
	if err != nil {
		return "", err
	}
	defer v.Value.Zero()
	return string(v.Value.Bytes()), nil
}

func (s *scenario) mustGet(m *member.Member, name string) {
	s.t.Helper()
	if got, err := s.get(m, name); err != nil || got != s.read(name) {
		s.t.Fatalf("%s: %v", name, err)
	}
}

func (s *scenario) mustNot(m *member.Member, name string, want code.Code) {
	s.t.Helper()
	_, err := s.get(m, name)
	if c, _ := code.Of(err); c != want {
		s.t.Errorf("%s: %v, want %s", name, err, want)
	}
}

// TestScenario1Fast goes through the story of docs/scenario1.md in seconds: the
// owner's programs run as processes; what a VM runs is called in this process,
// on the simulated chip, without a kernel.
func TestScenario1Fast(t *testing.T) {
	chip := snpsimtest.PSP(t, snp.Milan)
	s := newScenario(t, chip)
	s.do("policy", "init", "bank.example", "-dir", "domain", "-plain")
	s.do(append([]string{"server", "init", "-enclave-key", s.shm + "/enclave.key", "-new-keys", "-out", "keys"}, s.state()...)...)
	s.sign("policy.txt")
	s.start()
	s.do(append([]string{"certify", "-server", s.address}, s.owner...)...)
	s.paul("-name", "web/session-key", "-rotate", "-alg", "hmac-256")
	s.paul("-name", "db/password", "-rotate", "-alg", "hmac-256")

	// Two images, each with its own secrets and no other's.
	webVM, dbVM := s.vm("web", 1, chip), s.vm("db", 2, chip)
	web, db := webVM.must("created"), dbVM.must("created")
	s.mustGet(web, "web/session-key")
	s.mustGet(db, "db/password")
	s.mustNot(web, "db/password", code.SecretRefused)
	k, err := client.DialKeys(t.Context(), s.keys(db))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(t.Context(), "db/password", ""); !errors.Is(err, client.ErrRefused) {
		t.Errorf("a VM rotated what it may only read: %v", err)
	}
	k.Close()

	// A secret added later; a rotation that reaches a running program.
	s.mustNot(web, "web/report-key", code.SecretUnknown)
	if _, err := s.try("made later", append(append([]string{"fetch-secret", "-key-server", s.address}, s.owner...), "-name", "web/report-key", "-put", "-")...); err != nil {
		t.Fatal(err)
	}
	s.mustGet(web, "web/report-key")
	versions := make(chan uint64, 8)
	ended := make(chan error, 1)
	watching := s.keys(web)
	wctx, stopWatch := context.WithCancel(t.Context())
	defer stopWatch()
	go func() {
		ended <- client.Watch(wctx, watching, "web/session-key", func(v *client.Secret) error {
			versions <- v.Version
			return nil
		})
	}()
	if v := <-versions; v != 1 {
		t.Fatalf("version %d came first", v)
	}
	s.paul("-name", "web/session-key", "-rotate")
	if v := <-versions; v != 2 {
		t.Fatalf("version %d came after the rotation", v)
	}

	// A third image, by policy alone.
	s.paul("-name", "vault/master-key", "-rotate", "-alg", "aes-256")
	vaultVM := s.vm("vault", 3, chip)
	vaultVM.refused(code.CertifyRefused)
	s.sign("vault.txt")
	var vault *member.Member
	s.until("the server takes the policy over", func() bool {
		m, res, err := vaultVM.certify()
		if err != nil {
			return false
		}
		if res.Store != "created" {
			t.Errorf("store %s", res.Store)
		}
		vault = m
		return true
	})
	s.mustGet(vault, "vault/master-key")
	value := secret.Copy([]byte("what the vault keeps"))
	defer value.Zero()
	if _, err := vault.Store().Put(t.Context(), cryptstore.Item{Tag: "kept", Type: cryptstore.Blob, Value: value, Exportable: true}); err != nil {
		t.Fatal(err)
	}
	vault.Close()
	kept := func(m *member.Member) {
		t.Helper()
		b, _, err := m.Store().Get(t.Context(), "kept", cryptstore.Blob, 0)
		if err != nil || !b.Equal(value) {
			t.Fatalf("what the store held is lost: %v", err)
		}
		b.Zero()
	}

	// Another chip of the maker: the store is recovered. Another instance finds
	// nothing in it.
	chip2, err := chip.AnotherChip()
	if err != nil {
		t.Fatal(err)
	}
	old := vaultVM.copyOfDisk()
	vaultVM.psp = chip2
	vaultVM.boot()
	vault = vaultVM.must("recovered")
	kept(vault)
	s.mustGet(vault, "vault/master-key")
	vault.Close()
	thief := s.vm("vault", 4, chip)
	thief.putDisk(old)
	stolen := thief.must("set aside")
	if _, _, err := stolen.Store().Get(t.Context(), "kept", cryptstore.Blob, 0); !errors.Is(err, cryptstore.ErrNotFound) {
		t.Errorf("another instance opened the store: %v", err)
	}

	// An update: the new image's stores are its own, unless policy says that it
	// may succeed.
	before := vaultVM.copyOfDisk()
	vaultVM.image = "vault-2"
	vaultVM.boot()
	vaultVM.refused(code.CertifyRefused)
	s.sign("vault-2.txt")
	s.until("the server takes the policy over", func() bool {
		vaultVM.putDisk(before)
		vaultVM.boot()
		m, res, err := vaultVM.certify()
		if err != nil {
			return false
		}
		defer m.Close()
		if res.Store != "recovered" {
			t.Fatalf("store %s", res.Store)
		}
		kept(m)
		return true
	})

	// Revoked: not admitted, and what was given counts no longer; the others
	// get another certificate.
	cert, err := web.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	s.do("policy", "revoke", "-dir", "domain", "measurement", "web")
	s.sign()
	s.until("the certificate counts no longer", func() bool {
		_, err := s.get(web, "web/session-key")
		return err != nil
	})
	webVM.boot()
	webVM.refused(code.CertifyRefused)
	s.mustNot(db, "db/password", code.AdmissionPolicyVersion) // and learns so
	db, res, err := dbVM.certify()
	if err != nil || !res.New {
		t.Fatalf("db: %+v, %v", res, err)
	}
	defer db.Close()
	s.do(append([]string{"certify", "-force", "-server", s.address}, s.owner...)...)
	s.mustGet(db, "db/password")
	floor := res.Identity.PolicyVersion
	trust := &admission.Trust{Policy: mustPolicy(t, s), Domain: "bank.example", MinPolicyVersion: floor}
	if _, err := trust.Verify(cert.Certificate, time.Now()); !errors.Is(err, admission.ErrPolicyVersion) {
		t.Errorf("a peer that knows the policy accepts the revoked image's certificate: %v", err)
	}
	s.paul("-name", "web/session-key", "-rotate")
	stopWatch()
	<-ended
	select {
	case v := <-versions:
		t.Errorf("version %d reached a revoked image", v)
	default:
	}

	// The deployment machine is lost and restored.
	recovery := s.shm + "/backup.key"
	if err := os.WriteFile(filepath.Join(s.dir, "backup.pub"), []byte(s.do("verifier", "backup-key", "-out", recovery)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.do(append([]string{"verifier", "backup", "-recipient", "backup.pub", "-out", "server.backup"}, s.state()...)...)
	password := s.read("db/password")
	s.stop()
	if err := os.RemoveAll(filepath.Join(s.dir, "state")); err != nil {
		t.Fatal(err)
	}
	s.do(append([]string{"verifier", "restore", "-identity", recovery, "-in", "server.backup"}, s.state()...)...)
	s.start("-audit-restart")
	dbVM.boot()
	again := dbVM.must("opened")
	if got, err := s.get(again, "db/password"); err != nil || got != password {
		t.Errorf("after the restore: %v", err)
	}
	webVM.refused(code.CertifyRefused)
	s.stop()
	if _, err := s.try("", append([]string{"policy-server", "audit", "verify"}, s.state()...)...); err != nil {
		t.Errorf("the audit log: %v", err)
	}
}

func mustPolicy(t *testing.T, s *scenario) *x509.Certificate {
	t.Helper()
	c, err := memberflags.ReadPolicy(filepath.Join(s.dir, "domain", "policy.crt"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (v *deployedVM) copyOfDisk() []byte {
	v.s.t.Helper()
	b, err := os.ReadFile(filepath.Join(v.dir, "store"))
	if err != nil {
		v.s.t.Fatal(err)
	}
	return b
}

func (v *deployedVM) putDisk(b []byte) {
	v.s.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, "store"), b, 0o600); err != nil {
		v.s.t.Fatal(err)
	}
}
