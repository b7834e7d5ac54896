// Package relay is the store driver that asks the process which holds the
// state: a server has it open, and the owner's tools change it meanwhile
// through a Unix socket in the state folder. Values pass as they are stored,
// sealed; whoever asks needs the seal key to read one.
//
// A frame is a 4-byte big-endian length and one JSON object, a request or its
// response, one after the other on one connection. Only the socket's owner and
// root are answered (SO_PEERCRED), whatever the file's mode.
package relay

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"attestbox/internal/store"
	"attestbox/internal/strictjson"
)

// maxFrame holds two values in base64, or a full list of keys.
const maxFrame = 1 << 20

// idle is how long the server waits for a request, and the client for an answer.
const idle = time.Minute

// maxClients bounds the tools at work at once.
const maxClients = 16

type request struct {
	Op    string `json:"op"`
	Key   string `json:"key"` // of list: the prefix
	Old   []byte `json:"old"`
	Value []byte `json:"value"`
	After string `json:"after"`
	Limit int    `json:"limit"`
}

// normal writes absent values as empty ones: null is not allowed.
func (q *request) normal() {
	if q.Old == nil {
		q.Old = []byte{}
	}
	if q.Value == nil {
		q.Value = []byte{}
	}
}

type response struct {
	Error string   `json:"error"` // "" or a kind below
	Text  string   `json:"text"`
	Value []byte   `json:"value"`
	Keys  []string `json:"keys"`
}

var kinds = map[string]error{
	"not-found": store.ErrNotFound, "exists": store.ErrExists, "conflict": store.ErrConflict, "invalid": store.ErrInvalid,
}

func writeFrame(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes, at most %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return strictjson.Unmarshal(b, v)
}

// short is a path to a socket that fits into sockaddr_un whatever the folder's
// length: through a descriptor of the folder.
func short(path string) (string, io.Closer, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path), dir, nil
}

// Listen makes the socket, mode 0600, in place of one that a dead process
// left. The caller holds the state's lock, so nobody alive listens there.
func Listen(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("making socket %q: something else is there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("making socket %q: %w", path, err)
		}
	}
	p, dir, err := short(path)
	if err != nil {
		return nil, fmt.Errorf("making socket %q: %w", path, err)
	}
	defer dir.Close()
	l, err := net.Listen("unix", p)
	if err != nil {
		return nil, fmt.Errorf("making socket %q: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the short path is gone by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("making socket %q: %w", path, err)
	}
	return l, nil
}

// Serve answers until ctx ends. It closes the listener, not the store.
func Serve(ctx context.Context, l net.Listener, s store.Store) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer stop()
	places := make(chan struct{}, maxClients)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors
			case <-ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			if allowed(conn) {
				serve(ctx, conn, s)
			}
		})
	}
}

func allowed(conn net.Conn) bool {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return false
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

func serve(ctx context.Context, conn net.Conn, s store.Store) {
	for {
		conn.SetDeadline(time.Now().Add(idle))
		var q request
		if err := readFrame(conn, &q); err != nil {
			return
		}
		if err := writeFrame(conn, answer(ctx, s, &q)); err != nil {
			return
		}
	}
}

func answer(ctx context.Context, s store.Store, q *request) *response {
	a := &response{Keys: []string{}}
	var err error
	switch q.Op {
	case "get":
		a.Value, err = s.Get(ctx, q.Key)
	case "create":
		err = s.Create(ctx, q.Key, q.Value)
	case "replace":
		err = s.Replace(ctx, q.Key, q.Old, q.Value)
	case "delete":
		err = s.Delete(ctx, q.Key, q.Old)
	case "list":
		a.Keys, err = s.List(ctx, q.Key, q.After, q.Limit)
	default:
		err = fmt.Errorf("unknown operation %.32q", q.Op)
	}
	if err != nil {
		a.Error, a.Text = "other", err.Error()
		for kind, target := range kinds {
			if errors.Is(err, target) {
				a.Error = kind
			}
		}
	}
	if a.Keys == nil {
		a.Keys = []string{}
	}
	if a.Value == nil {
		a.Value = []byte{}
	}
	return a
}
