package luks

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
	"attestbox/internal/testenv"
)

var update = flag.Bool("update", false, "write docs/luks-conformance.md")

// generated is one of cryptsetup's changed headers and what became of it.
type generated struct {
	name    string
	loads   bool // what cryptsetup's own test expects
	ownBase bool // made from cryptsetup's image: it changes what ours has not
	asIs    string
	mended  string // with both copies changed alike; empty where none was damaged
}

// needTheirs change a second keyslot, which a conforming header has not.
var needTheirs = map[string]bool{
	"overlapping-areas-c0-json0": true, "overlapping-areas-c1-json0": true, "overlapping-areas-c2-json0": true,
	"argon2-leftover-params": true, "pbkdf2-leftover-params-0": true, "pbkdf2-leftover-params-1": true,
	"metadata-size-64k-inv-area-c1": true,
}

// TestCryptsetupGenerators runs the generators of changed headers of cryptsetup's
// own tests on a header that all our rules accept, so that what is refused is
// refused for the change. Most of them damage the other copy as well, for which
// alone it is refused here; so it is looked at again with both copies changed
// alike. What must fail in cryptsetup must fail in both forms.
func TestCryptsetupGenerators(t *testing.T) {
	src := os.Getenv("ATTESTBOX_CRYPTSETUP_SRC")
	if src == "" {
		testenv.Skip(t, "cryptsetup's source: eval \"export $(scripts/cryptsetup-src.sh)\"")
	}
	for prog, pkg := range map[string]string{"bash": "bash", "jq": "jq", "xxd": "xxd", "xz": "xz-utils"} {
		testenv.Tool(t, prog, pkg)
	}
	cases := expectations(t, src)
	ours, theirs := bases(t, src)
	dir := t.TempDir()
	next := make(chan *generated)
	var wg sync.WaitGroup
	for worker := range 2 {
		wg.Go(func() {
			for c := range next {
				base := ours
				if c.ownBase = needTheirs[c.name]; c.ownBase {
					base = theirs
				}
				c.run(t, src, filepath.Join(dir, fmt.Sprint(worker)), base)
			}
		})
	}
	for i := range cases {
		next <- &cases[i]
	}
	close(next)
	wg.Wait()
	seen := map[code.Code]bool{}
	for i := range cases {
		c := &cases[i]
		for _, verdict := range []string{c.asIs, c.mended} {
			if verdict == accepted && !c.loads {
				t.Errorf("%s: cryptsetup refuses it and we do not", c.name)
			}
			seen[code.Code(verdict)] = true
		}
	}
	if len(cases) < 80 || len(seen) < 12 {
		t.Errorf("%d generators reached %d rules", len(cases), len(seen))
	}
	if v := version(t, src); v != conformanceVersion && !*update {
		t.Logf("cryptsetup %s: docs/luks-conformance.md is of %s and was not compared", v, conformanceVersion)
		return
	}
	golden(t, filepath.Join(testenv.Root(), "docs", "luks-conformance.md"), conformancePage(cases))
}

// conformanceVersion of cryptsetup is the one that the page is about, Debian 12's.
const conformanceVersion = "2.6.1"

func version(t *testing.T, src string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(src, "configure.ac"))
	m := regexp.MustCompile(`AC_INIT\(\[cryptsetup\],\[([0-9.]+)\]\)`).FindSubmatch(b)
	if m == nil {
		t.Fatalf("no version in configure.ac, %v", err)
	}
	return string(m[1])
}

// expectations reads cryptsetup's own list: each image, and whether it has to load.
func expectations(t *testing.T, src string) []generated {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(src, "tests", "luks2-validation-test"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []generated
	for _, m := range regexp.MustCompile(`(?m)^RUN luks2-(\S+)\.img\s+"([RF])"`).FindAllStringSubmatch(string(script), -1) {
		cases = append(cases, generated{name: m[1], loads: m[2] == "R"})
	}
	scripts, err := filepath.Glob(filepath.Join(src, "tests", "generators", "generate-luks2-*.img.sh"))
	if err != nil || len(scripts) != len(cases) {
		t.Fatalf("%d generators and %d expectations, %v", len(scripts), len(cases), err)
	}
	return cases
}

// bases are two images of equal layout: 16 KiB headers, data at 4 MiB. Ours
// conforms; cryptsetup's has eight keyslots.
func bases(t *testing.T, src string) (ours, theirs string) {
	t.Helper()
	header, v, _, err := Format(testKey(t), Params{UUID: testUUID, Integrity: IntegrityNone, HeaderArea: 4 << 20, SectorSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	if verdict := verdictOf(header); verdict != accepted {
		t.Fatalf("our own base: %s", verdict)
	}
	ours = write(t, "ours.img", header, make([]byte, generatedSize-len(header)))
	image, err := exec.Command("xz", "-dkc", filepath.Join(src, "tests", "luks2_valid_hdr.img.xz")).Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs = write(t, "theirs.img", image)
	for _, img := range []string{ours, theirs} {
		if out, err := cryptsetup(t, "luksDump", img); err != nil {
			t.Fatalf("cryptsetup does not load the base: %v\n%s", err, out)
		}
	}
	return ours, theirs
}

const (
	generatedSize = 17 << 20 // headers of 4 MiB, data at 16 MiB
	accepted      = "accepted"
)

// run makes the changed image from base and notes the verdicts.
func (c *generated) run(t *testing.T, src, dir, base string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "./generate-luks2-"+c.name+".img.sh", dir, base)
	cmd.Dir, cmd.Env = filepath.Join(src, "tests", "generators"), append(os.Environ(), "srcdir="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: the generator: %v\n%s", c.name, err, out)
		return
	}
	img := filepath.Join(dir, "luks2-"+c.name+".img")
	defer os.Remove(img)
	h, err := os.ReadFile(img)
	if err != nil {
		t.Error(err)
		return
	}
	if was, err := os.ReadFile(base); err != nil || bytes.Equal(was, h) {
		t.Errorf("%s: the generator changed nothing, %v", c.name, err)
	}
	// cryptsetup itself, on what was made here: the list is about its own base.
	// Its repairs write to the image, which was read before.
	dumpErr := exec.CommandContext(ctx, "cryptsetup", "luksDump", img).Run()
	if (dumpErr == nil) != c.loads {
		t.Errorf("%s: cryptsetup luksDump: %v; its test expects loading: %v", c.name, dumpErr, c.loads)
	}
	c.asIs = verdictOf(h)
	if m := mended(h); m != nil {
		c.mended = verdictOf(m)
	}
}

// verdictOf is the code of the first rule that refuses a header, without a record
// and, if it has none, with one that somebody registered for it.
func verdictOf(h []byte) string {
	record, err := RecordOf(h)
	if err == nil {
		if _, err = parse(h, record, Limits{}); err == nil {
			return accepted
		}
	}
	c, ok := code.Of(err)
	if !ok {
		return "no code: " + err.Error()
	}
	return string(c)
}

// mended is h with a destroyed copy made anew from the other one, nil if none is
// destroyed. The generators destroy by writing over the magic.
func mended(h []byte) []byte {
	destroyed := []byte("VACUUM")
	m := bytes.Clone(h)
	at := func(offset, size uint64) []byte { return m[offset:][:size] }
	if !bytes.HasPrefix(m, destroyed) {
		size := binary.BigEndian.Uint64(m[offHdrSize:])
		if !validHdrSize(size) || !bytes.HasPrefix(m[size:], destroyed) {
			return nil
		}
		copy(at(size, size), at(0, size))
		copy(m[size:], magicSecondary)
		binary.BigEndian.PutUint64(m[size+offHdrOffset:], size)
		fix(m, int(size))
		return m
	}
	for size := uint64(minHdrSize); size <= maxHdrSize; size *= 2 {
		if bytes.HasPrefix(m[size:], []byte(magicSecondary)) && binary.BigEndian.Uint64(m[size+offHdrSize:]) == size {
			copy(at(0, size), at(size, size))
			copy(m, magicPrimary)
			binary.BigEndian.PutUint64(m[offHdrOffset:], 0)
			fix(m, int(size))
			return m
		}
	}
	return nil
}

func golden(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s is not what the test finds (%v); with -update it is written anew:\n%s", path, err, want)
	}
}

func conformancePage(cases []generated) string {
	var b strings.Builder
	refused, beyond, taken := 0, 0, 0
	var rows strings.Builder
	for _, c := range cases {
		expected := "fails"
		if c.loads {
			expected = "loads"
		}
		own := c.mended
		if own == "" {
			own = c.asIs
		}
		switch {
		case !c.loads:
			refused++
		case own == accepted:
			taken++
		default:
			beyond++
		}
		name := c.name
		if c.ownBase {
			name += " (1)"
		}
		quote := func(s string) string {
			if s == accepted || s == "" {
				return s
			}
			return "`" + s + "`"
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", name, expected, quote(c.asIs), quote(c.mended))
	}
	fmt.Fprintf(&b, conformanceHead, len(cases), refused, taken, beyond)
	b.WriteString(rows.String())
	b.WriteString(conformanceTail)
	return b.String()
}

const conformanceHead = "# cryptsetup's own header tests, run against ours\n" + `
cryptsetup's source has a generator for each header that its reader has to refuse, repair or accept
(tests/generators; here of version ` + conformanceVersion + `). ` + "`TestCryptsetupGenerators`" + ` runs all %d of them on a header that every
one of our rules accepts and looks at the result; it wrote this page (` + "`go test ./internal/luks -run Generators -update`" + `,
after ` + "`eval \"export $(scripts/cryptsetup-src.sh)\"`" + `).

- Of those that must fail in cryptsetup, %d, all fail here. cryptsetup itself is asked about each as well.
- Of those that must load there, %d are accepted here and %d are refused, by the rule named: ours wants one
  keyslot, one segment and two sound copies, and repairs nothing.

"As made": most generators destroy one copy of the header beside the change, and a header with one copy is refused
here for that alone. "In both copies": the destroyed copy made anew from the changed one, with valid checksums, so
that the rule named is the one that stops the change itself. Empty where no copy was destroyed.

| header | in cryptsetup | here, as made | here, in both copies |
|---|---|---|---|
`

const conformanceTail = `
(1) Made from cryptsetup's image with eight keyslots, since it changes the second one or a later one. A header with more
than one keyslot is refused here for that alone; bounds of areas and left-over parameters of a KDF are attacked in our
own suite.
`
