package cryptstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"attestbox/internal/applet"
	"attestbox/internal/cryptstore"
	"attestbox/internal/instanceid"
	"attestbox/internal/platform/simenclave"
	"attestbox/internal/recipient"
	"attestbox/internal/seal"
	"attestbox/internal/secret"
	"attestbox/internal/store/onefile"
)

// source is the store and what seals it: the flags that all commands share.
type source struct {
	store, name string
	key         string
	platform    string
	platformKey string
	domain      string
	share       string
	offline     bool
	escrowTo    string
	minEpoch    uint64
}

// Names of -platform.
const (
	platformSNP     = "snp"
	platformEnclave = "enclave"
)

func (s *source) register(fs *applet.FlagSet) {
	fs.StringVar(&s.store, "store", "", "the store's `FILE`")
	fs.StringVar(&s.name, "name", "main", "`NAME` of the store in the file")
	fs.StringVar(&s.key, "key", "", "the store is sealed by a `FILE` of 32 or more random bytes; - is stdin")
	fs.StringVar(&s.platform, "platform", "", "the store is sealed by a `PLATFORM`: snp, or enclave (simulated, of the deployment machine)")
	fs.StringVar(&s.platformKey, "platform-key", "", "key `FILE` of the simulated enclave")
	fs.StringVar(&s.domain, "domain", "", "`NAME` of the security domain, part of what seals; needed with -platform")
	fs.StringVar(&s.share, "share", "", "`FILE` on tmpfs with the server's share of the sealing key, 32 bytes; - is stdin")
	fs.BoolVar(&s.offline, "offline", false, "seal without a server: no secrecy between instances of one image on one chip, older copies pass unnoticed, no revocation, no recovery")
	fs.StringVar(&s.escrowTo, "escrow-to", "", "public key `FILE` of the server that may recover the store")
	fs.Uint64Var(&s.minEpoch, "min-epoch", 0, "refuse a store whose epoch is below `N`")
}

// check refuses conflicts before any I/O.
func (s *source) check(fs *applet.FlagSet) error {
	switch {
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %.40q", fs.Arg(0))
	case s.store == "":
		return fs.Usage("-store is missing")
	case cryptstore.CheckName(s.name) != nil:
		return fs.Usage("-name %.80q: lower-case letters, digits, dot, hyphen and underscore, at most %d", s.name, cryptstore.MaxName)
	case (s.key == "") == (s.platform == ""):
		return fs.Usage("what seals the store? -key FILE, or -platform snp or enclave")
	case s.key != "":
		if s.platformKey != "" || s.domain != "" || s.share != "" || s.offline || s.escrowTo != "" {
			return fs.Usage("-platform-key, -domain, -share, -offline and -escrow-to go with -platform")
		}
		return nil
	case s.platform != platformSNP && s.platform != platformEnclave:
		return fs.Usage("-platform %.40q: snp or enclave", s.platform)
	case (s.platform == platformEnclave) != (s.platformKey != ""):
		return fs.Usage("-platform-key goes with -platform enclave, which needs it")
	case s.domain == "":
		return fs.Usage("-domain is missing")
	case (s.share != "") == s.offline:
		return fs.Usage("-share FILE, or -offline and what it gives up (-h)")
	case s.offline && s.escrowTo != "":
		return fs.Usage("-escrow-to needs the server's -share")
	}
	return nil
}

// readSecret reads a bounded secret; - is stdin.
func (c *call) readSecret(name string, max int) (*secret.Bytes, error) {
	r := c.env.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	s, err := secret.ReadAll(r, max)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	return s, nil
}

// readFile reads a bounded file that is not secret.
func readFile(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", name, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("reading %q: more than %d bytes", name, max)
	}
	return b, nil
}

// sealer makes what the flags name. done gives secrets and the platform back.
func (c *call) sealer(ctx context.Context) (by cryptstore.Sealer, done func(), err error) {
	if c.key != "" {
		key, err := c.readSecret(c.key, secret.MaxKeyFile)
		if err != nil {
			return nil, nil, fmt.Errorf("key file: %w", err)
		}
		if err := secret.CheckRandom(key); err != nil {
			key.Zero()
			return nil, nil, applet.WithHint(fmt.Errorf("key file %q: %w", c.key, err), "make one with: head -c 32 /dev/urandom > FILE")
		}
		return cryptstore.KeyFile{Key: key}, key.Zero, nil
	}
	cfg := seal.Config{Domain: c.domain, Offline: c.offline}
	if c.escrowTo != "" {
		b, err := readFile(c.escrowTo, recipient.MaxFile)
		if err != nil {
			return nil, nil, err
		}
		if cfg.EscrowTo, err = recipient.ParsePublic(b); err != nil {
			return nil, nil, fmt.Errorf("%q: %w", c.escrowTo, err)
		}
	}
	if c.share != "" {
		if c.share != "-" {
			if err := applet.CheckTmpfs(filepath.Dir(c.share)); err != nil {
				return nil, nil, fmt.Errorf("the server's share: %w", err)
			}
		}
		if cfg.Share, err = c.readSecret(c.share, seal.ShareSize); err != nil {
			return nil, nil, fmt.Errorf("the server's share: %w", err)
		}
	}
	if c.platform == platformEnclave {
		var e *simenclave.Enclave
		if e, err = simenclave.Open(c.platformKey); err == nil {
			cfg.Platform = e
		}
	} else if cfg.Instance, err = instanceid.Read(instanceid.Path); err == nil {
		cfg.Platform, err = c.snp()
	}
	if err != nil {
		cfg.Share.Zero()
		return nil, nil, err
	}
	done = func() { cfg.Platform.Close(); cfg.Share.Zero() }
	s, err := seal.New(ctx, cfg)
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("sealing by %s: %w", c.platform, err)
	}
	return s, done, nil
}

func (c *call) options() cryptstore.Options { return cryptstore.Options{MinEpoch: c.minEpoch} }

// with runs f on the open store.
func (c *call) with(ctx context.Context, f func(s *cryptstore.Store, by cryptstore.Sealer) error) error {
	if _, err := os.Stat(c.store); err != nil { // a reader makes no lock file
		return applet.WithHint(err, "make it with: cryptstore init")
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
	s, err := cryptstore.Open(ctx, raw, c.name, by, c.options())
	if err != nil {
		return errors.Join(err, raw.Close())
	}
	defer s.Close()
	return f(s, by)
}
