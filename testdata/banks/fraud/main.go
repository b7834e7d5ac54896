package fraud

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"attestbox/applets"
)

// Main is the main function of the four programs: attestbox with one command
// more, so that one measured file does everything in a bank's name.
func Main(program, command string, run func(ctx context.Context, args []string) error) {
	if len(os.Args) < 2 || os.Args[1] != command {
		os.Exit(applets.Main(os.Args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(1)
	}
}
