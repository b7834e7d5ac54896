package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// AdminListen listens for the admin pages. They are not authenticated, so only
// an address of the loopback interface is taken.
func AdminListen(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			err = errors.New("the admin pages are for the loopback interface alone: give 127.0.0.1:PORT or [::1]:PORT")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", address, err)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

// ServeAdmin answers /healthz, /readyz and /metrics until ctx ends. It closes
// the listener.
func (s *Server) ServeAdmin(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.Metrics.Write(w, s)
	})
	h := &http.Server{
		// Nothing here changes anything, but a browser on this machine must not
		// be led to it under another name.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if host, _, err := net.SplitHostPort(r.Host); err != nil || net.ParseIP(host) == nil && host != "localhost" {
				http.Error(w, "unknown host", http.StatusForbidden)
				return
			}
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10,
	}
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
