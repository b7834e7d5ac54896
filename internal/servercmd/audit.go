package servercmd

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"attestbox/internal/applet"
	"attestbox/internal/audit"
	"attestbox/internal/code"
)

// Audit is the command audit verify: the log against the head that the state
// keeps.
func Audit(ctx context.Context, env *applet.Env, args []string) error {
	if len(args) == 0 || args[0] != "verify" {
		return applet.WithHint(applet.Usage("want: audit verify"), "for example: "+env.Name+" verify -state DIR -seal-key FILE")
	}
	sub := *env
	sub.Name = env.Name + " verify"
	var sf StateFlags
	fs := sub.Flags("-state DIR -seal-key FILE [-print]", sub.Name+" -state /var/lib/attestbox -seal-key /run/credentials/seal.key")
	sf.Register(fs)
	dir := fs.String("dir", "", "the log's `DIR`, if it is not in the state folder")
	show := fs.Bool("print", false, "print the events, JSON lines, as far as they hold")
	noHead := fs.Bool("no-head", false, "only say whether the lines fit together: without the state's head a whole new log goes unnoticed")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case *noHead && *dir == "" && sf.Dir == "":
		return fs.Usage("-no-head needs -dir or -state")
	}
	var head *audit.Head
	if !*noHead {
		if err := sf.Check(fs); err != nil {
			return err
		}
		st, err := sf.Open(ctx, env)
		if err != nil {
			return err
		}
		h, err := st.AuditHead(ctx)
		st.Close()
		if err != nil {
			return err
		}
		head = &h
	}
	if *dir == "" {
		*dir = filepath.Join(sf.Dir, AuditDir)
	}
	enc := json.NewEncoder(env.Stdout)
	enc.SetEscapeHTML(false)
	var each func(*audit.Event) error
	if *show {
		each = func(e *audit.Event) error { return enc.Encode(e) }
	}
	r, err := audit.Verify(*dir, head, each)
	if err != nil {
		return applet.Refused(code.AuditBroken, err)
	}
	if r.Last.Seq == 0 {
		fmt.Fprintf(env.Stderr, "%s: the log is empty\n", *dir)
		return nil
	}
	fmt.Fprintf(env.Stderr, "%s: lines %d to %d in %d files hold together\n", *dir, r.First, r.Last.Seq, r.Files)
	if r.First > 1 {
		fmt.Fprintf(env.Stderr, "the files with lines 1 to %d are not here\n", r.First-1)
	}
	if r.Torn > 0 {
		fmt.Fprintf(env.Stderr, "an unfinished line of %d bytes follows: it is being written, or a crash left it\n", r.Torn)
	}
	if head != nil {
		fmt.Fprintf(env.Stderr, "they are the ones that were written, up to line %d\n", head.Seq)
	} else {
		fmt.Fprintf(env.Stderr, "%s: warning: without the head nothing shows that they are the ones that were written\n", sub.Name)
	}
	return nil
}
