package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"attestbox/internal/code"
)

// ErrBroken is a log that is not what was written: a line was changed, taken
// out, put in or moved, or the end is missing.
var ErrBroken = errors.New("the audit log is not what was written")

// Result is what Verify found in a log that holds together.
type Result struct {
	First uint64 // number of the first line that is there; 0: none
	Last  Head
	Files int
	// Torn are the bytes of an unfinished last line: being written, or left by
	// a crash.
	Torn int
	// Sealed says that the head was given and found.
	Sealed bool
}

type segment struct {
	path  string
	first uint64
}

// segments lists a log's files in order; a log that has no folder has none.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	var list []segment
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "audit-")
		digits, ok2 := strings.CutSuffix(digits, ".jsonl")
		if !ok || !ok2 {
			continue // a person's notes disturb nothing
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || n == 0 || segmentName(n) != e.Name() {
			return nil, fmt.Errorf("reading the audit log: file name %q", e.Name())
		}
		list = append(list, segment{filepath.Join(dir, e.Name()), n})
	}
	slices.SortFunc(list, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return list, nil
}

func segmentName(first uint64) string { return fmt.Sprintf("audit-%020d.jsonl", first) }

// Verify reads a log from its first line to its last. head, if not nil, is the
// one that was kept elsewhere. each, if not nil, gets every event in order,
// before it is known whether what follows holds.
func Verify(dir string, head *Head, each func(*Event) error) (*Result, error) {
	segs, err := segments(dir)
	if err != nil {
		return nil, err
	}
	c := &checker{head: head, each: each}
	if head != nil && head.Seq == 0 {
		c.r.Sealed = true
	}
	for i, s := range segs {
		if err := c.file(s, i == len(segs)-1); err != nil {
			return nil, err
		}
	}
	if !c.r.Sealed && head != nil {
		return nil, broken("it ends at line %d, and line %d was written", c.r.Last.Seq, head.Seq)
	}
	return &c.r, nil
}

func broken(format string, a ...any) error {
	return code.Wrap(code.AuditBroken, fmt.Errorf("%w: "+format, append([]any{ErrBroken}, a...)...))
}

type checker struct {
	head *Head
	each func(*Event) error
	r    Result
}

func (c *checker) file(s segment, last bool) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("reading the audit log: %w", err)
	}
	defer f.Close()
	c.r.Files++
	name := filepath.Base(s.path)
	if c.r.First != 0 && s.first != c.r.Last.Seq+1 {
		return broken("%s follows line %d: lines are missing, or are there twice", name, c.r.Last.Seq)
	}
	return c.lines(f, name, s.first, last)
}

func (c *checker) lines(r io.Reader, name string, first uint64, last bool) error {
	br := bufio.NewReaderSize(r, MaxLine+1)
	for want := first; ; want++ {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return broken("%s, line %d: longer than %d bytes", name, want, MaxLine)
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF) && last:
			c.r.Torn = len(line)
			return nil
		case errors.Is(err, io.EOF):
			return broken("%s, line %d: cut off", name, want)
		case err != nil:
			return fmt.Errorf("reading the audit log: %w", err)
		}
		if err := c.line(line[:len(line)-1], name, want); err != nil {
			return err
		}
	}
}

func (c *checker) line(line []byte, name string, want uint64) error {
	e, err := parseLine(line)
	switch {
	case err != nil:
		return broken("%s, line %d: %v", name, want, err)
	case e.Seq != want:
		return broken("%s: line %d stands where line %d belongs", name, e.Seq, want)
	case c.r.First == 0 && want > 1: // the files before are not there
	case e.Prev != c.r.Last.Hash:
		return broken("%s, line %d: it was written after another line than the one before it", name, want)
	}
	if c.r.First == 0 {
		c.r.First = e.Seq
	}
	c.r.Last = Head{e.Seq, hashLine(line)}
	if c.head != nil && c.head.Seq == e.Seq {
		if c.head.Hash != c.r.Last.Hash {
			return broken("%s, line %d: another line was written with this number", name, want)
		}
		c.r.Sealed = true
	}
	if c.each != nil {
		return c.each(e)
	}
	return nil
}
