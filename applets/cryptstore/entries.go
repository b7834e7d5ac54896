package cryptstore

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/applet"
	"attestbox/internal/cryptstore"
	"attestbox/internal/secret"
)

// entryFlags name an entry.
type entryFlags struct {
	tag, typ string
	version  int
	format   string
	t        cryptstore.Type // of typ
}

func (f *entryFlags) register(fs *applet.FlagSet) {
	fs.StringVar(&f.tag, "tag", "", "`TAG` of the entry, such as db/password")
	fs.StringVar(&f.typ, "type", "", "`TYPE` of the entry: symmetric-key, private-key, x509-cert, x509-chain or blob")
}

func (f *entryFlags) withVersion(fs *applet.FlagSet, usage string) {
	fs.IntVar(&f.version, "version", 0, usage)
}

func (f *entryFlags) withFormat(fs *applet.FlagSet) {
	fs.StringVar(&f.format, "format", "", "`FORMAT` of the value: raw, pem, hex or base64 (default: pem for private keys and certificates, else raw)")
}

func (f *entryFlags) check(fs *applet.FlagSet) (err error) {
	if err := cryptstore.CheckTag(f.tag); err != nil {
		return fs.Usage("-tag: %v", err)
	}
	if f.t, err = cryptstore.ParseType(f.typ); err != nil {
		return fs.Usage("-type: %v", err)
	}
	if f.version < 0 {
		return fs.Usage("-version %d is below 0", f.version)
	}
	if f.format, err = format(f.format, f.t); err != nil {
		return fs.Usage("%v", err)
	}
	return nil
}

// parse parses the flags of a command on an entry.
func (c *call) parse(fs *applet.FlagSet, args []string, checks ...func(*applet.FlagSet) error) error {
	c.register(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, check := range append([]func(*applet.FlagSet) error{c.check}, checks...) {
		if err := check(fs); err != nil {
			return err
		}
	}
	return nil
}

const someStore = " -store /var/lib/attestbox/store -platform snp -domain example.org -share /run/attestbox/share"

func runPut(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE [flags]", "cryptstore put"+someStore+" -tag db/password -type blob < password")
	f.register(fs)
	f.withVersion(fs, "`N` of the new version; it must be above all earlier ones (default: the next)")
	f.withFormat(fs)
	in := fs.String("in", "-", "read the value from `FILE`; - is stdin")
	exportable := fs.Bool("exportable", false, "the entry may leave this machine: export, and get of a private key")
	if err := c.parse(fs, args, f.check, c.notBoth("-in", in)); err != nil {
		return err
	}
	input, err := c.readSecret(*in, maxInput)
	if err != nil {
		return err
	}
	defer input.Zero()
	v, err := decode(input, f.t, f.format)
	if err != nil {
		return err
	}
	defer v.Zero()
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		e, err := s.Put(ctx, cryptstore.Item{Tag: f.tag, Type: f.t, Version: f.version, Exportable: *exportable, Value: v})
		if err == nil {
			fmt.Fprintf(c.env.Stderr, "wrote %s\n", e)
		}
		return err
	})
}

// notBoth refuses stdin for two things.
func (c *call) notBoth(flag string, in *string) func(*applet.FlagSet) error {
	return func(fs *applet.FlagSet) error {
		if *in == "-" && (c.key == "-" || c.share == "-") {
			return fs.Usage("%s and what seals the store cannot both be stdin", flag)
		}
		return nil
	}
}

func runGet(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE [flags]", "cryptstore get"+someStore+" -tag db/password -type blob -out /run/db.password")
	f.register(fs)
	f.withVersion(fs, "`N` of the version (default: the latest)")
	f.withFormat(fs)
	out := fs.String("out", "-", "write the value to `FILE` on tmpfs, mode 0600, or to stdout (-)")
	fd := fs.Int("fd", -1, "write the value to descriptor `N`, which the caller opened")
	public := fs.Bool("public", false, "the public half of a private key, as PEM, to stdout")
	if err := c.parse(fs, args, f.check, func(fs *applet.FlagSet) error {
		if *public && (f.t != cryptstore.PrivateKey || *out != "-" || *fd >= 0) {
			return fs.Usage("-public goes with -type private-key, and to stdout")
		}
		return fs.CheckSecretFD(*fd, *out)
	}); err != nil {
		return err
	}
	if *public {
		return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error { return c.printPublic(ctx, s, f.tag, f.version) })
	}
	put, err := c.output(f.t, *out, *fd)
	if err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		v, _, err := s.Get(ctx, f.tag, f.t, f.version)
		if err != nil {
			return err
		}
		defer v.Zero()
		text, err := encode(v, f.t, f.format)
		if err != nil {
			return err
		}
		defer text.Zero()
		return put(text)
	})
}

// output decides where a value goes before there is one. Certificates are
// nobody's secret.
func (c *call) output(t cryptstore.Type, out string, fd int) (func(*secret.Bytes) error, error) {
	if t.Public() && out != "-" {
		return func(v *secret.Bytes) error { return renameio.WriteFile(out, v.Bytes(), 0o644) }, nil
	}
	if t.Public() && fd < 0 {
		return func(v *secret.Bytes) error { _, err := c.env.Stdout.Write(v.Bytes()); return err }, nil
	}
	sink, err := c.env.SecretSink(out, fd)
	if err != nil {
		return nil, err
	}
	return sink.Put, nil
}

func (c *call) printPublic(ctx context.Context, s *cryptstore.Store, tag string, version int) error {
	k, err := s.Signer(ctx, tag, version)
	if err != nil {
		return err
	}
	defer k.Close()
	return writePublic(c.env.Stdout, k.Public())
}

func writePublic(w io.Writer, pub crypto.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return err
	}
	return pem.Encode(w, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func runList(ctx context.Context, c *call, args []string) error {
	fs := c.env.Flags("-store FILE [flags]", "cryptstore list"+someStore)
	asJSON := fs.Bool("json", false, "as JSON")
	if err := c.parse(fs, args); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		entries, err := s.List(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(c.env.Stdout).Encode(rows(entries))
		}
		for _, e := range entries {
			kept := "kept"
			if e.Exportable {
				kept = "exportable"
			}
			if e.Type.Public() {
				kept = "public"
			}
			alg := string(e.Alg)
			if alg == "" {
				alg = "-"
			}
			fmt.Fprintf(c.env.Stdout, "%-24s %-13s %6d  %s  %-10s %-8s %d bytes\n", e.Tag, e.Type, e.Version, e.Time.Format(time.RFC3339), kept, alg, e.Size)
		}
		return nil
	})
}

// row is an entry in JSON.
type row struct {
	Tag        string `json:"tag"`
	Type       string `json:"type"`
	Version    int    `json:"version"`
	Time       string `json:"time"` // RFC 3339
	Exportable bool   `json:"exportable"`
	Alg        string `json:"alg,omitempty"`
	Size       int    `json:"size"` // bytes
}

func rows(entries []cryptstore.Entry) []row {
	out := []row{}
	for _, e := range entries {
		out = append(out, row{e.Tag, e.Type.String(), e.Version, e.Time.Format(time.RFC3339), e.Exportable, string(e.Alg), e.Size})
	}
	return out
}

func runVersions(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE [flags]", "cryptstore versions"+someStore+" -tag db/password -type blob")
	f.register(fs)
	if err := c.parse(fs, args, f.check); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		first, last, err := s.Versions(ctx, f.tag, f.t)
		if err == nil {
			fmt.Fprintf(c.env.Stdout, "earliest %d\nlatest %d\n", first, last)
		}
		return err
	})
}

func runDelete(ctx context.Context, c *call, args []string) error {
	var f entryFlags
	fs := c.env.Flags("-store FILE -tag TAG -type TYPE {-version N | -all} [flags]", "cryptstore delete"+someStore+" -tag db/password -type blob -version 1")
	f.register(fs)
	f.withVersion(fs, "`N` of the version")
	all := fs.Bool("all", false, "every version")
	if err := c.parse(fs, args, f.check, func(fs *applet.FlagSet) error {
		if *all == (f.version > 0) {
			return fs.Usage("which? -version N, or -all")
		}
		return nil
	}); err != nil {
		return err
	}
	return c.with(ctx, func(s *cryptstore.Store, _ cryptstore.Sealer) error {
		if *all {
			return s.DeleteAll(ctx, f.tag, f.t)
		}
		return s.Delete(ctx, f.tag, f.t, f.version)
	})
}
