package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// maxQMPMessage bounds one message of QEMU's.
const maxQMPMessage = 4 << 20

// ErrQMPClosed says that QEMU has closed its monitor: it has ended.
var ErrQMPClosed = errors.New("QEMU's monitor is closed")

// QMPError is QEMU's refusal of a command.
type QMPError struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *QMPError) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Desc) }

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	Data json.RawMessage
}

type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *QMPError       `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

// QMP is a client of QEMU's machine protocol (docs/interop/qmp-spec), safe for
// concurrent use.
type QMP struct {
	conn    net.Conn
	onEvent func(Event)

	mu      sync.Mutex
	next    uint64
	pending map[string]chan qmpMessage
	closed  chan struct{}
}

// DialQMP connects to a QMP Unix socket, such as Machine.QMPPath's.
func DialQMP(ctx context.Context, path string) (*QMP, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to QMP: %w", err)
	}
	q := newQMP(conn, nil)
	if err := q.negotiate(ctx); err != nil {
		q.Close()
		return nil, err
	}
	return q, nil
}

func newQMP(conn net.Conn, onEvent func(Event)) *QMP {
	q := &QMP{conn: conn, onEvent: onEvent, pending: make(map[string]chan qmpMessage), closed: make(chan struct{})}
	go q.read()
	return q
}

func (q *QMP) read() {
	defer close(q.closed)
	sc := bufio.NewScanner(q.conn)
	sc.Buffer(make([]byte, 0, 4096), maxQMPMessage)
	for sc.Scan() {
		var m qmpMessage
		if json.Unmarshal(sc.Bytes(), &m) != nil {
			return // not QMP: nothing after it can be trusted to be framed
		}
		if m.Event != "" {
			if q.onEvent != nil {
				q.onEvent(Event{m.Event, m.Data})
			}
			continue
		}
		q.mu.Lock()
		ch := q.pending[m.ID]
		delete(q.pending, m.ID)
		q.mu.Unlock()
		if ch != nil {
			ch <- m // has room for one
		}
	}
}

// negotiate leaves QMP's first mode, in which it takes no commands.
func (q *QMP) negotiate(ctx context.Context) error {
	_, err := q.Execute(ctx, "qmp_capabilities", nil)
	return err
}

// Execute runs a QMP command and returns its result. args may be nil.
func (q *QMP) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	ch := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.next++
	id := strconv.FormatUint(q.next, 10)
	msg["id"] = id
	b, err := json.Marshal(msg)
	if err == nil {
		q.pending[id] = ch
		_, err = q.conn.Write(append(b, '\n'))
	}
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.pending, id)
		q.mu.Unlock()
	}()
	if err != nil {
		return nil, fmt.Errorf("sending QMP command %s: %w", command, err)
	}
	select {
	case m := <-ch:
		return m.result(command)
	case <-q.closed:
		select { // the answer may have come just before the end
		case m := <-ch:
			return m.result(command)
		default:
			return nil, fmt.Errorf("QMP command %s: %w", command, ErrQMPClosed)
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("QMP command %s: %w", command, context.Cause(ctx))
	}
}

func (m *qmpMessage) result(command string) (json.RawMessage, error) {
	if m.Error != nil {
		m.Error.Command = command
		return nil, m.Error
	}
	return m.Return, nil
}

// Close drops the connection; QEMU goes on.
func (q *QMP) Close() error { return q.conn.Close() }

// Status is QEMU's run state, such as "running" or "paused".
func (q *QMP) Status(ctx context.Context) (string, error) {
	b, err := q.Execute(ctx, "query-status", nil)
	if err != nil {
		return "", err
	}
	var s struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return "", fmt.Errorf("reading QEMU's status: %w", err)
	}
	return s.Status, nil
}

// Quit ends QEMU at once, as pulling the plug would.
func (q *QMP) Quit(ctx context.Context) error {
	_, err := q.Execute(ctx, "quit", nil)
	if errors.Is(err, ErrQMPClosed) {
		return nil
	}
	return err
}

// Powerdown presses the guest's power button.
func (q *QMP) Powerdown(ctx context.Context) error {
	_, err := q.Execute(ctx, "system_powerdown", nil)
	return err
}

// Stop halts the vCPUs; Continue lets them run again.
func (q *QMP) Stop(ctx context.Context) error {
	_, err := q.Execute(ctx, "stop", nil)
	return err
}

// Continue undoes Stop.
func (q *QMP) Continue(ctx context.Context) error {
	_, err := q.Execute(ctx, "cont", nil)
	return err
}

// SendBreak sends a serial BREAK on the machine's console, which a Linux guest
// takes as the SysRq key.
func (q *QMP) SendBreak(ctx context.Context) error {
	_, err := q.Execute(ctx, "chardev-send-break", map[string]any{"id": "console"})
	return err
}

// DumpMemory writes the guest's whole RAM to a new file as an ELF core (every
// RAM block, physical addresses). QEMU halts the guest meanwhile.
func (q *QMP) DumpMemory(ctx context.Context, path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("dumping guest memory: %w", err)
	}
	_, err = q.Execute(ctx, "dump-guest-memory", map[string]any{"paging": false, "protocol": "file:" + abs})
	return err
}

// SaveMemory writes size bytes of guest-physical memory from addr to a file.
func (q *QMP) SaveMemory(ctx context.Context, path string, addr, size uint64) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("saving guest memory: %w", err)
	}
	_, err = q.Execute(ctx, "pmemsave", map[string]any{"val": addr, "size": size, "filename": abs})
	return err
}

// shutdownReason reads the SHUTDOWN event: "guest-shutdown", "guest-reset",
// "host-signal", "host-qmp-quit" and so on.
func shutdownReason(e Event) string {
	var d struct {
		Reason string `json:"reason"`
	}
	if strings.ToUpper(e.Name) != "SHUTDOWN" || json.Unmarshal(e.Data, &d) != nil {
		return ""
	}
	return d.Reason
}
