package verifier

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/recipient"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
	"attestbox/internal/store"
)

func runBackupKey(_ context.Context, env *applet.Env, args []string) error {
	fs := env.Flags("-out FILE", "verifier backup-key -out /dev/shm/backup.key > backup.pub")
	out := fs.String("out", "", "private key `FILE`, on tmpfs; move it to where the owner keeps keys offline. The public key goes to stdout")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || fs.NArg() > 0 {
		return fs.Usage("want -out and nothing else")
	}
	private, public, err := recipient.New()
	if err != nil {
		return err
	}
	defer private.Zero()
	if err := applet.CreateSecretFile(*out, private); err != nil {
		return err
	}
	_, err = env.Stdout.Write(public)
	return err
}

func runBackup(ctx context.Context, env *applet.Env, args []string) error {
	var sf servercmd.StateFlags
	fs := env.Flags("-state DIR -seal-key FILE -recipient PUBKEY -out FILE", "verifier backup -state /var/lib/attestbox -seal-key /run/credentials/seal.key -recipient backup.pub -out verifier.backup")
	sf.Register(fs)
	pubFile := fs.String("recipient", "", "public key `FILE` from verifier backup-key")
	out := fs.String("out", "", "backup `FILE`; - is stdout")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch err := sf.Check(fs); {
	case err != nil:
		return err
	case *pubFile == "" || *out == "" || fs.NArg() > 0:
		return fs.Usage("want -recipient and -out, and nothing else")
	}
	pub, err := applet.ReadFile(env, *pubFile, 64<<10)
	if err != nil {
		return err
	}
	to, err := recipient.ParsePublic(pub)
	if err != nil {
		return applet.WithHint(fmt.Errorf("%q: %w", *pubFile, err), "make a key pair with: verifier backup-key -out FILE")
	}
	if *out != "-" {
		if in, err := servercmd.Lies(sf.Dir, filepath.Dir(*out)); err != nil {
			return fmt.Errorf("writing the backup: %w", err)
		} else if in {
			return fs.Usage("-out %q lies in the state folder, and would be lost with it", *out)
		}
	}
	st, err := sf.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	b, err := st.Backup(ctx, to, time.Now())
	if err != nil {
		return err
	}
	if *out == "-" {
		_, err = env.Stdout.Write(b)
		return err
	}
	if err := renameio.WriteFile(*out, b, 0o600); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	fmt.Fprintf(env.Stderr, "wrote %s, %d bytes; only the private key opens it\n", *out, len(b))
	return nil
}

func runRestore(ctx context.Context, env *applet.Env, args []string) error {
	var sf servercmd.StateFlags
	fs := env.Flags("-state NEWDIR -seal-key FILE -identity KEY -in FILE", "verifier restore -state /var/lib/attestbox -seal-key /run/credentials/seal.key -identity /dev/shm/backup.key -in verifier.backup")
	sf.Register(fs)
	identity := fs.String("identity", "", "private key `FILE` from verifier backup-key; - is stdin")
	in := fs.String("in", "", "backup `FILE`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch err := sf.Check(fs); {
	case err != nil:
		return err
	case *identity == "" || *in == "" || fs.NArg() > 0:
		return fs.Usage("want -identity and -in, and nothing else")
	}
	private, err := applet.ReadSecret(env, *identity, 64<<10)
	if err != nil {
		return fmt.Errorf("reading backup key: %w", err)
	}
	defer private.Zero()
	by, err := recipient.ParsePrivate(private)
	if err != nil {
		return fmt.Errorf("%q: %w", *identity, err)
	}
	backup, err := applet.ReadFile(env, *in, server.MaxBackup+64<<10)
	if err != nil {
		return err
	}
	key, err := sf.Key(env)
	if err != nil {
		return err
	}
	defer servercmd.ZeroKey(key)
	var made time.Time
	st, err := servercmd.CreateState(ctx, sf.Dir, func(raw store.Store) (st *server.State, err error) {
		st, made, err = server.Restore(ctx, raw, key, backup, by)
		return st, err
	})
	switch {
	case errors.Is(err, server.ErrBackup):
		return applet.Refused(code.BackupMalformed, fmt.Errorf("%q: %w", *in, err))
	case errors.Is(err, server.ErrRecipient):
		return applet.Refused(code.BackupRecipient, fmt.Errorf("%q: %w", *in, err))
	case err != nil:
		return err
	}
	defer st.Close()
	_, pin, err := st.Certificate(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "restored %s as of %s; boot counters and decommissioned IDs are those of that time\n", filepath.Clean(sf.Dir), made.UTC().Format(time.RFC3339))
	fmt.Fprintln(env.Stdout, pin)
	return nil
}
