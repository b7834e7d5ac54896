// Command differential runs `mkimage measure` and the public tool
// sev-snp-measure on the same random launches and compares what they print.
// Every difference is shown; refusals that the other does not share are counted
// by reason. It fails on any difference, and when either tool cannot be run.
//
//	differential [-n 2000] [-seed 1] [-firmware FILE] [-record FILE] MKIMAGE REFERENCE
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"attestbox/internal/measure/measuretest"
)

// maxRecorded bounds what -record keeps: a test goes through them.
const maxRecorded = 300

// Recorded is what the public tool printed for the first cases of a seed, and
// which of them `mkimage measure` refuses: mkimage's TestMeasureRecorded reads it.
type Recorded struct {
	Tool    string   `json:"tool"`
	Seed    uint64   `json:"seed"`
	Digests []string `json:"digests"` // as printed; "refused", or "refused here"
}

func main() {
	n := flag.Uint64("n", 2000, "number of launches")
	seed := flag.Uint64("seed", 1, "of the random launches")
	record := flag.String("record", "", "write what the public tool printed to `FILE`")
	firmware := flag.String("firmware", "", "take this `FILE` in place of random firmware")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "differential: want MKIMAGE REFERENCE")
		os.Exit(2)
	}
	r := &runner{mkimage: flag.Arg(0), reference: flag.Arg(1), seed: *seed, only: map[string]int{}, both: map[string]int{}}
	if *firmware != "" {
		var err error
		if r.firmware, err = os.ReadFile(*firmware); err != nil {
			fmt.Fprintln(os.Stderr, "differential: "+err.Error())
			os.Exit(1)
		}
	}
	if err := r.run(*n, *record); err != nil {
		fmt.Fprintln(os.Stderr, "differential: "+err.Error())
		os.Exit(1)
	}
}

type runner struct {
	mkimage, reference string
	seed               uint64
	firmware           []byte // nil: random

	mu          sync.Mutex
	same, pages int
	refused     int
	differ      int
	only        map[string]int // refused by one of the two, by reason
	both        map[string]int
	recorded    []string
}

func (r *runner) run(n uint64, record string) error {
	version, err := exec.Command(r.reference, "--version").Output()
	if err != nil {
		return fmt.Errorf("running the public tool: %w", err)
	}
	if err := exec.Command(r.mkimage, "measure", "-vcpu-type", "EPYC").Run(); err != nil {
		return fmt.Errorf("running mkimage: %w", err)
	}
	for _, p := range []*string{&r.mkimage, &r.reference} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	r.recorded = make([]string, n)
	dir, err := os.MkdirTemp("", "differential-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	next := make(chan uint64)
	errs := make(chan error, runtime.NumCPU())
	for range runtime.NumCPU() {
		go func() {
			var failed error
			for i := range next {
				if failed == nil {
					failed = r.one(filepath.Join(dir, fmt.Sprint(i)), i)
				}
			}
			errs <- failed
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range runtime.NumCPU() {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	tool := strings.TrimSpace(string(version))
	fmt.Printf("%d launches, seed %d, against %s: %d the same digest (%d with their vCPUs' pages), %d refused by both, %d different\n", n, r.seed, tool, r.same, r.pages, r.refused, r.differ)
	for _, why := range slices.Sorted(maps.Keys(r.only)) {
		fmt.Printf("  %4d %s\n", r.only[why], why)
	}
	for _, why := range slices.Sorted(maps.Keys(r.both)) {
		fmt.Printf("  %4d refused by both: %s\n", r.both[why], why)
	}
	if r.differ > 0 {
		return fmt.Errorf("%d differences", r.differ)
	}
	if record == "" {
		return nil
	}
	b, err := json.MarshalIndent(Recorded{tool, r.seed, r.recorded[:min(n, maxRecorded)]}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(record, append(b, '\n'), 0o644)
}

// one runs one case in a folder of its own.
func (r *runner) one(dir string, i uint64) error {
	c := measuretest.New(r.seed, i)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, data := range c.Files {
		if name == "ovmf.fd" && r.firmware != nil {
			data = r.firmware
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	theirs, theirTalk, theirErr := output(dir, r.reference, c.Args...)
	theirPages, err := vmsas(dir)
	if err != nil {
		return err
	}
	ours, ourTalk, ourErr := output(dir, r.mkimage, append([]string{"measure"}, c.Args...)...)
	ourPages, err := vmsas(dir)
	if err != nil {
		return err
	}
	var exit *exec.ExitError
	for _, err := range []error{theirErr, ourErr} {
		if err != nil && !errors.As(err, &exit) {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case theirErr != nil && ourErr != nil:
		r.refused++
		r.both[reason(ourTalk)]++
		r.recorded[i] = "refused"
	case theirErr != nil:
		r.only["refused by the public tool alone: "+lastLine(theirTalk)]++
		r.recorded[i] = "refused"
	case ourErr != nil:
		r.only["refused here alone: "+reason(ourTalk)]++
		r.recorded[i] = "refused here"
	case ours != theirs || ourPages != theirPages:
		r.differ++
		fmt.Printf("DIFFERENT, case %d: %q\n  here %s\n  there %s\n", i, c.Args, ours, theirs)
	default:
		r.same++
		if ourPages != noPages {
			r.pages++
		}
		r.recorded[i] = theirs
	}
	return nil
}

// noPages is what vmsas gives where --dump-vmsa wrote nothing.
var noPages = sha256.Sum256(nil)

// vmsas hashes the pages that --dump-vmsa wrote, and takes them away.
func vmsas(dir string) ([32]byte, error) {
	h := sha256.New()
	for i := 0; ; i++ {
		name := filepath.Join(dir, fmt.Sprintf("vmsa%d.bin", i))
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return [32]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return [32]byte{}, err
		}
		h.Write(b)
		if err := os.Remove(name); err != nil {
			return [32]byte{}, err
		}
	}
}

func output(dir, name string, args ...string) (printed, talk string, err error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return strings.TrimSpace(out.String()), errOut.String(), err
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// reason is the error of mkimage without the numbers in it, so that equal
// reasons count together.
func reason(talk string) string {
	for line := range strings.SplitSeq(talk, "\n") {
		line, _, _ = strings.Cut(line, " (known: ")
		_, text, ok := strings.Cut(line, "mkimage measure: ")
		if !ok || strings.HasPrefix(text, "hint:") || strings.HasPrefix(text, "INCOMPLETE:") {
			continue
		}
		fields := strings.Fields(text)
		for i, f := range fields {
			if strings.Trim(f, "0123456789abcdefx,;:()") == "" && strings.ContainsAny(f, "0123456789") {
				fields[i] = "N"
			}
		}
		return strings.Join(fields, " ")
	}
	return lastLine(talk)
}
