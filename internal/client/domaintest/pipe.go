package domaintest

import (
	"io"
	"net"
	"sync"
	"time"
)

// Pipe is net.Pipe whose second end writes as a socket does: into a buffer that
// is still delivered after Close. Without it a server's last alert meets a
// client that is writing, and both wait.
func Pipe() (net.Conn, net.Conn) {
	mine, theirs := net.Pipe()
	b := &buffered{Conn: mine, queue: make(chan []byte, 256), done: make(chan struct{})}
	go b.pump()
	return theirs, b
}

type buffered struct {
	net.Conn
	queue chan []byte
	done  chan struct{}
	once  sync.Once
}

func (b *buffered) pump() {
	defer b.Conn.Close()
	for {
		select {
		case p := <-b.queue:
			if _, err := b.Conn.Write(p); err != nil {
				return
			}
		case <-b.done:
			b.Conn.SetWriteDeadline(time.Now().Add(time.Second))
			for {
				select {
				case p := <-b.queue:
					if _, err := b.Conn.Write(p); err != nil {
						return
					}
				default:
					return
				}
			}
		}
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	select {
	case <-b.done:
		return 0, io.ErrClosedPipe
	case b.queue <- append([]byte(nil), p...):
		return len(p), nil
	}
}

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.done) })
	go io.Copy(io.Discard, b.Conn) // as a kernel does, until the pump has closed it
	return nil
}
