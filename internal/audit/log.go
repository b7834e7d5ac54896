package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// segmentBytes is the size at which a new file is begun.
const segmentBytes = 64 << 20

// Log appends events. Its methods may be called concurrently.
type Log struct {
	mu     sync.Mutex
	dir    string
	f      *os.File
	size   int64
	head   Head
	synced Head
	broken error // a write failed half way: nothing more may follow it
	limit  int64
}

// Open opens or makes the log in dir, mode 0700, and verifies it: all of it,
// against the head that was kept elsewhere. A log that is not what was written
// is ErrBroken, and nothing is touched. What a crash left of an unfinished line
// is cut off and noted.
func Open(dir string, head Head, now time.Time) (*Log, error) {
	r, err := Verify(dir, &head, nil)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l := &Log{dir: dir, head: r.Last, limit: segmentBytes}
	segs, err := segments(dir)
	if err != nil {
		return nil, err
	}
	if len(segs) == 0 {
		err = l.next()
	} else {
		err = l.reopen(segs[len(segs)-1].path, r.Torn)
	}
	if err != nil {
		return nil, err
	}
	if r.Torn > 0 {
		if err := l.Append("torn-line", map[string]int{"bytes": r.Torn}, now); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Restart begins a new chain beside one that is broken, by its owner's
// decision: the broken files are renamed to end in ".broken", and the first
// event says which head was wanted. A log that is not broken is opened as it is.
func Restart(dir string, head Head, now time.Time) (*Log, error) {
	if l, err := Open(dir, head, now); !errors.Is(err, ErrBroken) {
		return l, err
	}
	segs, err := segments(dir)
	if err != nil {
		return nil, err
	}
	for _, s := range segs {
		to := fmt.Sprintf("%s.%d.broken", s.path, now.Unix())
		if _, err := os.Lstat(to); err == nil {
			return nil, fmt.Errorf("restarting the audit log: %q is there already", to)
		}
		if err := os.Rename(s.path, to); err != nil {
			return nil, fmt.Errorf("restarting the audit log: %w", err)
		}
	}
	l, err := Open(dir, Head{}, now)
	if err != nil {
		return nil, err
	}
	if err := l.Append("restart", map[string]Head{"wanted": head}, now); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) reopen(path string, torn int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	st, err := f.Stat()
	if err == nil && torn > 0 {
		err = f.Truncate(st.Size() - int64(torn))
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("opening the audit log: %w", err)
	}
	l.f, l.size = f, st.Size()-int64(torn)
	return nil
}

// next begins a new file. All lines of the one before are on the disk first, so
// that a crash leaves no gap before it; and its name and folder entry are there
// before anything is written to it.
func (l *Log) next() error {
	if l.f != nil {
		if err := l.f.Sync(); err != nil {
			return fmt.Errorf("closing a file of the audit log: %w", err)
		}
	}
	path := filepath.Join(l.dir, segmentName(l.head.Seq+1))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	d, err := os.Open(l.dir)
	if err == nil {
		err = d.Sync()
		d.Close()
	}
	if err != nil {
		f.Close()
		os.Remove(path) // or the next attempt would find it
		return fmt.Errorf("opening the audit log: %w", err)
	}
	if l.f != nil {
		l.f.Close() // synced above
	}
	l.f, l.size = f, 0
	return nil
}

// Append writes one event. It is on the disk for certain after the next Sync.
func (l *Log) Append(kind string, data any, now time.Time) error {
	b, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broken != nil:
		return fmt.Errorf("writing the audit log: an earlier write failed: %w", l.broken)
	case l.f == nil:
		return errors.New("writing the audit log: it is closed")
	}
	e := &Event{Seq: l.head.Seq + 1, Prev: l.head.Hash, Time: now.UTC().Format(time.RFC3339Nano), Kind: kind, Data: b}
	line, err := e.marshal()
	if err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if l.size > 0 && l.size+int64(len(line)) >= l.limit {
		if err := l.next(); err != nil {
			return err
		}
	}
	hash := hashLine(line)
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		// Half a line may stand there now. Take it back, or write no more.
		if terr := l.f.Truncate(l.size); terr != nil {
			l.broken = err
		}
		return fmt.Errorf("writing the audit log: %w", err)
	}
	l.size += int64(len(line)) + 1
	l.head = Head{e.Seq, hash}
	return nil
}

// Head is the last line that was appended.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Sync puts everything appended so far on the disk and returns the head of
// that; changed is false where nothing was appended since the last Sync.
func (l *Log) Sync() (head Head, changed bool, err error) {
	l.mu.Lock()
	f, head, before := l.f, l.head, l.synced
	l.mu.Unlock()
	if f == nil || head == before {
		return head, false, nil
	}
	// Files before this one were synced when they were closed.
	if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		return before, false, fmt.Errorf("writing the audit log to the disk: %w", err)
	}
	l.mu.Lock()
	l.synced = head
	l.mu.Unlock()
	return head, true, nil
}

// Close syncs and closes the log.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := errors.Join(l.f.Sync(), l.f.Close())
	l.f = nil
	return err
}
