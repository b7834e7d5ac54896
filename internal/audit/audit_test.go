package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/code"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func write(t *testing.T, dir string, n int, limit int64) Head {
	t.Helper()
	l, err := Open(dir, Head{}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if limit > 0 {
		l.limit = limit
	}
	for i := range n {
		if err := l.Append("certify", map[string]any{"n": i, "proof": "1. A <b> & c\n2. B"}, testNow.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	head, changed, err := l.Sync()
	if err != nil || !changed || head != l.Head() {
		t.Fatalf("%v %v %v", head, changed, err)
	}
	if _, changed, _ := l.Sync(); changed {
		t.Error("a second Sync has something to do")
	}
	return head
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWriteAndVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	head := write(t, dir, 20, 1000)
	if n := len(files(t, dir)); n < 3 {
		t.Fatalf("%d files: it never rotated", n)
	}
	var seen int
	r, err := Verify(dir, &head, func(e *Event) error { seen++; return nil })
	if err != nil || r.First != 1 || r.Last != head || !r.Sealed || seen != 20 {
		t.Fatalf("%+v, %d events, %v", r, seen, err)
	}
	if r, err := Verify(dir, nil, nil); err != nil || r.Sealed {
		t.Errorf("without a head: %+v %v", r, err)
	}
	// An older head is still in the log; a zero one is that of a new log.
	if _, err := Verify(dir, &Head{}, nil); err != nil {
		t.Error(err)
	}
	// It goes on where it was.
	l, err := Open(dir, head, testNow)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				if err := l.Append("keys", map[string]int{"i": i}, testNow); err != nil {
					t.Error(err)
				}
				l.Sync()
			}
		})
	}
	wg.Wait()
	last := l.Head()
	l.Close()
	if err := l.Append("keys", map[string]int{}, testNow); err == nil {
		t.Error("appended to a closed log")
	}
	if r, err := Verify(dir, &last, nil); err != nil || r.Last.Seq != 180 {
		t.Fatalf("%+v %v", r, err)
	}
	// Its first files moved away.
	os.Remove(files(t, dir)[0])
	if r, err := Verify(dir, &last, nil); err != nil || r.First == 1 || !r.Sealed {
		t.Errorf("%+v %v", r, err)
	}
}

func mustBreak(t *testing.T, what, dir string, head *Head) {
	t.Helper()
	r, err := Verify(dir, head, nil)
	if !errors.Is(err, ErrBroken) {
		t.Fatalf("%s: %+v, %v", what, r, err)
	}
	if c, _ := code.Of(err); c != code.AuditBroken {
		t.Errorf("%s: code %q", what, c)
	}
	if l, err := Open(dir, *head, testNow); err == nil {
		l.Close()
		t.Errorf("%s: opened for writing", what)
	}
}

// changed writes the log anew with its content changed, and verifies.
func TestTampering(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	head := write(t, dir, 6, 0)
	path := files(t, dir)[0]
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		put(bad)
		if _, err := Verify(dir, &head, nil); !errors.Is(err, ErrBroken) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for i := range good {
		put(good[:i])
		if _, err := Verify(dir, &head, nil); !errors.Is(err, ErrBroken) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	lines := strings.SplitAfter(string(good), "\n")
	lines = lines[:len(lines)-1]
	join := func(order ...int) []byte {
		var b strings.Builder
		for _, i := range order {
			b.WriteString(lines[i])
		}
		return []byte(b.String())
	}
	for what, order := range map[string][]int{
		"one deleted": {0, 1, 3, 4, 5}, "first deleted": {1, 2, 3, 4, 5}, "last deleted": {0, 1, 2, 3, 4},
		"two swapped": {0, 1, 3, 2, 4, 5}, "one twice": {0, 1, 2, 2, 3, 4, 5}, "empty": {},
	} {
		put(join(order...))
		mustBreak(t, what, dir, &head)
	}
	put(append(bytes.Clone(good), strings.Repeat("x", MaxLine+10)+"\n"...))
	mustBreak(t, "endless line", dir, &head)
	// A whole new chain under the old one's head.
	other := filepath.Join(t.TempDir(), "audit")
	l, err := Open(other, Head{}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	for range 9 {
		l.Append("forged", struct{}{}, testNow)
	}
	l.Close()
	mustBreak(t, "a new chain", other, &head)
	put(good)
	if _, err := Verify(dir, &head, nil); err != nil {
		t.Error(err)
	}
}

func TestTornLineAndRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	head := write(t, dir, 3, 0)
	path := files(t, dir)[0]
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"seq":4,"pre`)
	f.Close()
	if r, err := Verify(dir, &head, nil); err != nil || r.Torn != 13 {
		t.Fatalf("%+v %v", r, err)
	}
	l, err := Open(dir, head, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if l.Head().Seq != 4 {
		t.Errorf("head %+v: the torn line is not noted", l.Head())
	}
	head = l.Head()
	l.Close()
	if r, err := Verify(dir, &head, nil); err != nil || r.Torn != 0 {
		t.Errorf("%+v %v", r, err)
	}
	// What is not broken is not put aside, whatever its owner asks for.
	if l, err = Restart(dir, head, testNow); err != nil || l.Head() != head {
		t.Fatalf("%+v %v", l, err)
	}
	l.Close()
	os.Truncate(path, 100)
	mustBreak(t, "truncated", dir, &head)
	l, err = Restart(dir, head, testNow)
	if err != nil {
		t.Fatal(err)
	}
	head = l.Head()
	l.Close()
	var first *Event
	if _, err := Verify(dir, &head, func(e *Event) error { first = e; return nil }); err != nil || first.Kind != "restart" || !strings.Contains(string(first.Data), `"seq":4`) {
		t.Errorf("%+v %v", first, err)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "*.broken")); len(m) != 1 {
		t.Errorf("broken files kept: %v", m)
	}
}

// A file whose lines may not be on the disk is not followed by another one.
func TestRotationSyncsFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	head := write(t, dir, 3, 0)
	l, err := Open(dir, head, testNow)
	if err != nil {
		t.Fatal(err)
	}
	l.limit = 10
	l.f.Close() // a disk that fails
	if err := l.Append("certify", map[string]int{}, testNow); err == nil {
		t.Error("appended to a disk that fails")
	}
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files, want the one", n)
	}
	if l, err = Open(dir, head, testNow); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.limit = 10
	if err := l.Append("certify", map[string]int{}, testNow); err != nil {
		t.Error(err)
	}
	if n := len(files(t, dir)); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}

func TestAppendRefuses(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "audit"), Head{}, testNow)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for what, err := range map[string]error{
		"kind":      l.Append("Not A Kind", struct{}{}, testNow),
		"no object": l.Append("certify", 7, testNow),
		"too long":  l.Append("certify", map[string]string{"x": strings.Repeat("x", MaxLine)}, testNow),
		"no JSON":   l.Append("certify", func() {}, testNow),
	} {
		if err == nil {
			t.Errorf("%s: appended", what)
		}
	}
	if l.Head().Seq != 0 {
		t.Error("something was written")
	}
}

func FuzzLines(f *testing.F) {
	e := &Event{Seq: 1, Time: testNow.Format(time.RFC3339Nano), Kind: "certify", Data: []byte(`{"a":1}`)}
	line, err := e.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, '\n'))
	f.Add([]byte("{}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &checker{}
		var again []byte
		c.each = func(e *Event) error {
			line, err := e.marshal()
			again = append(append(again, line...), '\n')
			return err
		}
		if c.lines(bytes.NewReader(b), "fuzz", 1, true) == nil && !bytes.Equal(again, b[:len(b)-c.r.Torn]) {
			t.Fatalf("accepted %q, writes %q", b, again)
		}
	})
}
