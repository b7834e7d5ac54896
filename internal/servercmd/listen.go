package servercmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/mdlayher/vsock"

	"attestbox/internal/wire"
)

func listenOn(ctx context.Context, address string) (net.Listener, string, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "tcp":
		if _, _, err := net.SplitHostPort(rest); err != nil {
			rest = net.JoinHostPort(strings.Trim(rest, "[]"), fmt.Sprint(wire.DefaultPort))
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", rest)
		if err != nil {
			return nil, "", fmt.Errorf("listening on %q: %w", address, err)
		}
		return l, "tcp://" + l.Addr().String(), nil
	case "vsock":
		var port uint32
		_, p, _ := strings.Cut(rest, ":")
		if p == "" {
			port = wire.DefaultPort
		} else if _, err := fmt.Sscanf(p, "%d", &port); err != nil {
			return nil, "", fmt.Errorf("listening on %q: port %q", address, p)
		}
		l, err := vsock.Listen(port, nil)
		if err != nil {
			return nil, "", fmt.Errorf("listening on %q: %w", address, err)
		}
		return l, fmt.Sprintf("vsock://:%d", port), nil
	}
	return nil, "", fmt.Errorf("listening on %q: %w", address, errors.New("want tcp://host:port or vsock://:port"))
}
