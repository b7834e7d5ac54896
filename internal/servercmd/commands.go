package servercmd

import (
	"context"
	"fmt"
	"io"
	"strings"

	"attestbox/internal/applet"
)

// Command is a subcommand of an applet.
type Command struct {
	Name, Summary string
	Run           func(ctx context.Context, env *applet.Env, args []string) error
}

// Main runs a server applet: its subcommands, or the server itself where flags
// follow the name.
func Main(ctx context.Context, env *applet.Env, args []string, o ServeOptions) error {
	commands := []Command{
		{"init", "make a state folder with new keys; writes the public ones", Init},
		{"keys", "write the public keys again", Keys},
		{"serve", "serve; also without the word", func(ctx context.Context, env *applet.Env, args []string) error { return Serve(ctx, env, args, o) }},
		{"explain", "say why an exchange ended as it did", Explain},
		{"audit", "audit verify: check the audit log against its sealed head", Audit},
	}
	switch {
	case len(args) == 0:
		list(env.Stderr, env.Name, commands)
		return applet.Usage("which command?")
	case args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help":
		list(env.Stdout, env.Name, commands)
		return nil
	case strings.HasPrefix(args[0], "-"):
		return Serve(ctx, env, args, o)
	}
	var names []string
	for _, c := range commands {
		if c.Name == args[0] {
			sub := *env
			sub.Name = env.Name + " " + c.Name
			return c.Run(ctx, &sub, args[1:])
		}
		names = append(names, c.Name)
	}
	return applet.WithHint(applet.Usage("there is no command %.40q", args[0]), "one of "+strings.Join(names, ", "))
}

func list(w io.Writer, name string, commands []Command) {
	fmt.Fprintf(w, "usage: %s COMMAND [flags] (each takes -h)\n\ncommands:\n", name)
	for _, c := range commands {
		fmt.Fprintf(w, "  %-10s %s\n", c.Name, c.Summary)
	}
}
