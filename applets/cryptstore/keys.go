package cryptstore

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/cryptstore"
	"attestbox/internal/platform"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store/onefile"
)

func runInit(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE {-key FILE | -platform PLATFORM ...}", "cryptstore init"+someStore)
	if err := c.parse(fs, args); err != nil {
		return err
	}
	by, done, err := c.sealer(ctx)
	if err != nil {
		return err
	}
	defer done()
	raw, err := onefile.Open(c.store)
	if err != nil {
		return err
	}
	s, err := cryptstore.Create(ctx, raw, c.name, by, c.options())
	if err != nil {
		return errors.Join(err, raw.Close())
	}
	if c.offline {
		fmt.Fprintln(c.env.Stderr, "sealed offline: no secrecy between instances of one image on one chip, older copies pass unnoticed, no revocation, no recovery")
	}
	return s.Close()
}

func runGenerate(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE -tag TAG -alg ALG [flags]", "cryptstore generate"+someStore+" -tag auth -alg ed25519")
	tag := fs.String("tag", "", "`TAG` of the key")
	alg := fs.String("alg", "", fmt.Sprintf("`ALG`, one of %s", cryptstore.Algs()))
	exportable := fs.Bool("exportable", false, "the key may leave this machine: export, and get of a private key")
	if err := c.parse(fs, args, func(fs *applet.FlagSet) error {
		if err := cryptstore.CheckTag(*tag); err != nil {
			return fs.Usage("-tag: %v", err)
		}
		for _, a := range cryptstore.Algs() {
			if string(a) == *alg {
				return nil
			}
		}
		return fs.Usage("-alg %.20q: one of %s", *alg, cryptstore.Algs())
	}); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		e, err := s.Generate(ctx, *tag, cryptstore.Alg(*alg), *exportable)
		return c.made(ctx, s, e, err)
	})
}

// made reports a new key.
func (c *call) made(ctx context.Context, s *cryptstore.Store, e cryptstore.Entry, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(c.env.Stderr, "made %s, %s\n", e, e.Alg)
	if e.Type == cryptstore.PrivateKey {
		return c.printPublic(ctx, s, e.Tag, e.Version)
	}
	return nil
}

func runRotate(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE [flags]", "cryptstore rotate"+someStore+" -tag auth -type private-key")
	f.register(fs)
	if err := c.parse(fs, args, f.check); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		e, err := s.Rotate(ctx, f.tag, f.t)
		return c.made(ctx, s, e, err)
	})
}

func runExport(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE -recipient PUBKEY [flags]", "cryptstore export"+someStore+" -tag tls/key -type private-key -recipient backup.pub -out tls.export")
	f.register(fs)
	f.withVersion(fs, "`N` of the version (default: the latest)")
	to := fs.String("recipient", "", "public key `FILE`, as verifier backup-key makes it")
	out := fs.String("out", "-", "write the encrypted entry to `FILE`, or to stdout (-)")
	if err := c.parse(fs, args, f.check, required("-recipient", to)); err != nil {
		return err
	}
	b, err := readFile(*to, recipient.MaxFile)
	if err != nil {
		return err
	}
	pub, err := recipient.ParsePublic(b)
	if err != nil {
		return applet.WithHint(fmt.Errorf("%q: %w", *to, err), "make a key pair with: verifier backup-key -out FILE")
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		b, _, err := s.Export(ctx, f.tag, f.t, f.version, pub)
		if err != nil {
			return err
		}
		if *out == "-" {
			_, err = c.env.Stdout.Write(b)
			return err
		}
		return renameio.WriteFile(*out, b, 0o600)
	})
}

func required(flag string, v *string) func(*applet.FlagSet) error {
	return func(fs *applet.FlagSet) error {
		if *v == "" {
			return fs.Usage("%s is missing", flag)
		}
		return nil
	}
}

func runImport(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE -identity KEY -in FILE [flags]", "cryptstore import -store s -key k -identity /dev/shm/backup.key -in tls.export")
	identity := fs.String("identity", "", "private key `FILE`, as verifier backup-key makes it; - is stdin")
	in := fs.String("in", "", "exported entry `FILE`")
	if err := c.parse(fs, args, required("-identity", identity), required("-in", in), c.notBoth("-identity", identity)); err != nil {
		return err
	}
	text, err := c.readSecret(*identity, recipient.MaxFile)
	if err != nil {
		return err
	}
	defer text.Zero()
	by, err := recipient.ParsePrivate(text)
	if err != nil {
		return fmt.Errorf("%q: %w", *identity, err)
	}
	b, err := readFile(*in, cryptstore.MaxExport)
	if err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		e, err := s.Import(ctx, b, by)
		if err == nil {
			fmt.Fprintf(c.env.Stderr, "took %s\n", e)
		}
		return err
	})
}

func runRekey(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE [-new-key FILE] [flags]", "cryptstore rekey"+someStore)
	newKey := fs.String("new-key", "", "seal with this `FILE` of 32 or more random bytes from now on (default: as before, by the present firmware)")
	if err := c.parse(fs, args, c.notBoth("-new-key", newKey)); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, by cryptstore.Sealer) error {
		if *newKey != "" {
			key, err := c.readSecret(*newKey, secret.MaxKeyFile)
			if err != nil {
				return fmt.Errorf("new key file: %w", err)
			}
			defer key.Zero()
			by = cryptstore.KeyFile{Key: key}
		}
		return s.Rekey(ctx, by)
	})
}

func runCheck(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE [flags]", "cryptstore check"+someStore)
	collect := fs.Bool("collect", false, "remove values that no entry names, left by writes that were cut off")
	if err := c.parse(fs, args); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		if *collect {
			if _, err := s.Collect(ctx); err != nil {
				return err
			}
		}
		rep, err := s.Check(ctx)
		if err != nil {
			return err
		}
		h, err := s.Header(ctx)
		if err != nil {
			return err
		}
		w := c.env.Stdout
		fmt.Fprintf(w, "store    %s %x\nepoch    %d\nentries  %d, %d bytes\norphans  %d\nsealed   %s\n", h.Name, h.ID, h.Epoch, rep.Entries, rep.Bytes, rep.Orphans, h.Kind)
		if h.Kind == cryptstore.KindKeyFile {
			return nil
		}
		p, err := seal.ParseParams(h.Kind, h.Params)
		if err != nil {
			return err
		}
		escrow := "none"
		if len(h.Escrow) > 0 {
			escrow = fmt.Sprintf("%d bytes", len(h.Escrow))
		}
		fmt.Fprintf(w, "domain   %s\nserver   %v\nescrow   %s\nmeasured %x\n", p.Domain, p.Shared, escrow, p.Measurement)
		if h.Kind == platform.AMDSEVSNP {
			fmt.Fprintf(w, "instance %x\npolicy   %#x\nsvn      %d\ntcb      %#016x\nchip     %x\n", p.HostData, p.Policy, p.Key.GuestSVN, p.Key.TCBVersion, p.ChipID)
		}
		return nil
	})
}

func runPlatformKey(_ context.Context, c *call, args []string) error {
	fs := c.env.Flags("-out FILE", "cryptstore platform-key -out /dev/shm/platform.key > platform.pub")
	out := fs.String("out", "", "private key `FILE`, on tmpfs; move it to where the deployment machine keeps it, mode 0600. The public key goes to stdout, for policy")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || fs.NArg() > 0 {
		return fs.Usage("want -out and nothing else")
	}
	if _, err := os.Lstat(*out); err == nil {
		return fmt.Errorf("%q exists: a platform key is not replaced", *out)
	}
	text, pub, err := simenclave.GenerateKey()
	if err != nil {
		return err
	}
	defer text.Zero()
	if err := applet.CreateSecretFile(*out, text); err != nil {
		return err
	}
	return writePublic(c.env.Stdout, pub)
}
