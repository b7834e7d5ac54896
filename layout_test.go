package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "attestbox/"

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,Imports,Deps"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
	return pkgs
}

func below(path, prefix string) bool {
	return path == module+prefix || strings.HasPrefix(path, module+prefix+"/")
}

// Who may import whom.
func TestImportRules(t *testing.T) {
	all := list(t, "./...")
	for _, p := range all {
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module+"applets/") && p.ImportPath != module+"applets" && imp != p.ImportPath {
				t.Errorf("%s imports the applet %s", p.ImportPath, imp)
			}
			if below(imp, "internal/snpsim") && !below(p.ImportPath, "internal/snpsim") &&
				p.ImportPath != module+"applets/snp-sim" && p.ImportPath != module+"applets/snp-sim-device" {
				t.Errorf("%s imports the simulator, %s", p.ImportPath, imp)
			}
			if below(p.ImportPath, "internal/server") && (imp == module+"internal/store/file" || imp == module+"internal/store/bolt") {
				t.Errorf("%s imports a driver of store, %s", p.ImportPath, imp)
			}
			if strings.HasSuffix(imp, "/luks.go") {
				t.Errorf("%s imports %s: it is the oracle of tests and may not read a host's header", p.ImportPath, imp)
			}
			if imp == "testing" && !strings.HasSuffix(p.ImportPath, "test") && p.ImportPath != module+"internal/testenv" {
				t.Errorf("%s imports testing", p.ImportPath)
			}
		}
		if below(p.ImportPath, "internal") && slices.ContainsFunc(p.Imports, func(i string) bool { return strings.HasPrefix(i, module+"mkimage") }) {
			t.Errorf("%s imports mkimage", p.ImportPath)
		}
	}
	if len(all) < 20 {
		t.Errorf("only %d packages were seen", len(all))
	}
}

// bundle, claim, proof, appraise, admission, measure (and measure/igvm), luks, snp and idblock have no network, no
// clock and no files: time and roots are arguments.
func TestPurePackages(t *testing.T) {
	clock := regexp.MustCompile(`\btime\.(Now|Since|Until|Sleep|After|Tick|NewTimer|NewTicker)\(`)
	seen := 0
	for _, p := range list(t, "./internal/...") {
		name := strings.TrimPrefix(p.ImportPath, module+"internal/")
		if !slices.Contains([]string{"bundle", "claim", "proof", "appraise", "admission", "measure", "measure/igvm", "luks", "snp", "idblock"}, name) {
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if imp == "crypto/tls" && name == "admission" {
				continue // it describes channels between members and opens none
			}
			switch imp {
			case "net", "net/http", "os", "os/exec", "os/signal", "syscall", "golang.org/x/sys/unix", "flag", "log", "log/slog":
				t.Errorf("%s imports %s", p.ImportPath, imp)
			}
		}
		for _, f := range p.GoFiles {
			src, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			if m := clock.Find(src); m != nil {
				t.Errorf("%s/%s calls %s", p.ImportPath, f, m)
			}
		}
	}
	if seen < 4 {
		t.Errorf("only %d pure packages were seen", seen)
	}
}

// What must not be in the binary that goes into an image, and why.
func TestGuestContents(t *testing.T) {
	forbidden := []struct{ prefix, why string }{
		{module + "internal/server", "a server"},
		{module + "internal/store/bolt", "the owner's state; a cryptstore lies in store/onefile"},
		{module + "internal/store/file", "the owner's state"},
		{module + "internal/store/sealed", "the owner's state"},
		{module + "internal/store/relay", "the owner's state"},
		{module + "internal/appraise", "the verifier's side"},
		{module + "internal/kds", "the verifier's side"},
		{module + "internal/snpsim", "simulation code"},
		{module + "internal/measure", "the image builder's side"},
		{module + "internal/image", "the image builder's side"},
		{module + "applets/verifier", "a server"},
		{module + "applets/snp-sim", "simulation code"},
		{"go.etcd.io/", "a database"},
		{"net/http", "a web stack that nothing in a guest needs"},
		{"testing", "test code"},
		{"google.golang.org/protobuf", "size; only the owner's side reads protobuf forms"},
		{"github.com/google/go-sev-guest/verify", "the verifier's side"},
		{"github.com/anatol/luks.go", "it must never read a header that the host can write"},
		{"html", "a web stack"},
		{"github.com/vishvananda/netlink", "200 KB; initramfs/rtnl asks for what init needs"},
		{"regexp", "240 KB with its tables; internal/form checks names"},
		{"text/template", "size, and it keeps every method alive"},
	}
	guest := list(t, "-tags", "guest", ".")[strings.TrimSuffix(module, "/")]
	if len(guest.Deps) < 50 {
		t.Fatalf("only %d dependencies were seen", len(guest.Deps))
	}
	for _, dep := range guest.Deps {
		for _, f := range forbidden {
			if dep == f.prefix || strings.HasPrefix(dep, strings.TrimSuffix(f.prefix, "/")+"/") {
				t.Errorf("the guest binary contains %s: %s", dep, f.why)
			}
		}
	}
}

// The budget of DESIGN section 4: 8 MiB stripped, static, built as by make.
func TestGuestSize(t *testing.T) {
	out := filepath.Join(t.TempDir(), "attestbox-guest")
	cmd := exec.Command("go", append(append([]string{"build", "-tags", "guest", "-trimpath", "-ldflags=-s -w -buildid="}, guestFlags(t)...), "-o", out, ".")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, b)
	}
	st, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 8<<20 {
		t.Errorf("the guest binary has %d bytes, budget is %d", st.Size(), 8<<20)
	}
	t.Logf("%d bytes", st.Size())
}

// guestFlags are those of the Makefile.
func guestFlags(t *testing.T) []string {
	t.Helper()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(makefile), "\nGUESTNOINLINE := ")
	list, _, _ = strings.Cut(list, "\n")
	var flags []string
	for _, p := range strings.Fields(list) {
		flags = append(flags, "-gcflags="+p+"=-l")
	}
	if !ok || len(flags) == 0 {
		t.Fatal("no GUESTNOINLINE in the Makefile")
	}
	return flags
}
