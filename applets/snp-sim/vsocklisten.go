package snpsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxInbound bounds the connections of one -vsock-listen.
const maxInbound = 64

// listenInbound opens every -vsock-listen. Connections lead to the guest until
// stop is called, which ends them too.
func (l *launch) listenInbound(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	stop = func() { cancel(); all.Wait() }
	for _, in := range l.inbound {
		var lc net.ListenConfig
		nl, err := lc.Listen(ctx, in.network, in.address)
		if err != nil {
			stop()
			return nil, fmt.Errorf("-vsock-listen: %w", err)
		}
		l.logf("listening on %s for the guest's vsock port %d", nl.Addr(), in.port)
		context.AfterFunc(ctx, func() { nl.Close() })
		all.Go(func() { l.accept(ctx, nl, in.port, &all) })
	}
	return stop, nil
}

func (l *launch) accept(ctx context.Context, nl net.Listener, port uint32, all *sync.WaitGroup) {
	places := make(chan struct{}, maxInbound)
	for {
		c, err := nl.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			l.logf("accepting for the guest: %v", err)
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors
			case <-ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			l.logf("%d connections lead to the guest's port %d, which is all", maxInbound, port)
			c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-places }()
			defer c.Close()
			dctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			g, err := l.vsock.DialGuest(dctx, port)
			cancel()
			if err != nil {
				if ctx.Err() == nil {
					l.logf("%v", err)
				}
				return
			}
			defer g.Close()
			splice(ctx, c, g)
		})
	}
}

// splice copies both ways; each direction ends by itself, and both when one is
// cut or ctx ends.
func splice(ctx context.Context, a, b net.Conn) {
	cut := func() { a.Close(); b.Close() }
	defer context.AfterFunc(ctx, cut)()
	copyTo := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if w, ok := dst.(interface{ CloseWrite() error }); err == nil && ok {
			w.CloseWrite()
			return
		}
		cut()
	}
	var both sync.WaitGroup
	both.Go(func() { copyTo(a, b) })
	copyTo(b, a)
	both.Wait()
}
