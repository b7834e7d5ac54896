package verifier

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"attestbox/internal/admission"
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/server"
	"attestbox/internal/servercmd"
	"attestbox/internal/store/sealed"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// A released key has 256 bits of entropy (DESIGN section 9); 512 bytes are
// more than a LUKS key file needs.
const (
	minDiskKey     = 32
	maxDiskKey     = 512
	maxNamedSecret = wire.MaxPayload
)

func runAddInstance(ctx context.Context, env *applet.Env, args []string) error {
	var sf servercmd.StateFlags
	var lf launchFlags
	var headers, secrets applet.Strings
	fs := env.Flags("-state DIR -seal-key FILE -id HEX|new {-image DIR | -id-key HEX -image-id ID -min-svn N} [-disk-key FILE -header FILE] [-secret NAME=FILE]...",
		"verifier add-instance -state /var/lib/attestbox -seal-key /run/credentials/seal.key -id new -image build/ -disk-key /run/disk.key -header disk.json")
	sf.Register(fs)
	lf.register(fs)
	id := fs.String("id", "", "instance ID, 64 `HEX` digits, or new; the host launches the VM with it as HOST_DATA")
	source := fs.String("id-source", server.IDFromHostData, "`WHERE` the VM has its ID from: host-data, or image for one that brings it (mkimage build -instance-id)")
	diskKey := fs.String("disk-key", "", "`FILE` with the LUKS key; - is stdin")
	fs.Var(&headers, "header", "`FILE` with the disk's header record (JSON, from mkimage disk or unlock-luks record), or the disk image or a copy of its LUKS2 header; may be repeated")
	fs.Var(&secrets, "secret", "further secret, `NAME=FILE`; may be repeated")
	takeover := fs.Bool("takeover", false, "a second boot takes over from one that is pending or alive, with an alert (default)")
	quarantine := fs.Bool("quarantine", false, "a second boot is refused until the owner clears the first (verifier instance clear)")
	domain := fs.String("domain", "", "appraise it by the policy of this domain, `NAME`; launch digests then only narrow what the policy trusts, and may be left out")
	var may mayFlags
	may.register(fs)
	bundleMin := fs.Uint64("bundle-min", 0, "the image is a stage 1 (mkimage build with mode bundle): release only behind a bundle of this `VERSION` or a later one, see docs/bundle.md")
	note := fs.String("note", "", "free `TEXT` for people")
	ratchet := fs.Bool("bundle-ratchet", false, "each boot that opened its disk raises that VERSION to its bundle's")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch err := sf.Check(fs); {
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fs.Usage("unexpected argument %q", fs.Arg(0))
	case *source != server.IDFromHostData && *source != server.IDFromImage:
		return fs.Usage("-id-source %q is neither %s nor %s", *source, server.IDFromHostData, server.IDFromImage)
	case *id == "" && *source == server.IDFromHostData:
		return fs.Usage("-id is missing (new makes one)")
	case *ratchet && *bundleMin == 0:
		return fs.Usage("-bundle-ratchet goes with -bundle-min")
	case *id == "new" && *source == server.IDFromImage:
		return fs.Usage("the image says the ID: leave -id out")
	case *takeover && *quarantine:
		return fs.Usage("-takeover and -quarantine exclude each other")
	}
	inst := &server.Instance{OnSecond: server.Takeover, Domain: *domain, Note: *note, BundleFloor: *bundleMin, BundleRatchet: *ratchet, Created: time.Now().Unix()}
	if *quarantine {
		inst.OnSecond = server.Quarantine
	}
	may.given(fs)
	err := may.apply(inst)
	if err != nil {
		return err
	}
	if *id != "" {
		if inst.ID, err = parseID(*id); err != nil {
			return fs.Usage("-id: %v", err)
		}
	}
	if *source == server.IDFromImage {
		inst.IDSource = *source
	}
	switch {
	case *domain != "" && admission.CheckDomain(*domain) != nil:
		return fs.Usage("-domain: %v", admission.CheckDomain(*domain))
	case lf.noDigest() && (*domain != "" || lf.identified()):
		inst.Measurements = []server.Measurement{}
	default:
		if inst.Measurements, err = lf.measurements(); err != nil {
			return err
		}
	}
	if inst.Identities, err = lf.identities(); err != nil {
		return err
	}
	if lf.stage1 && *bundleMin == 0 {
		return fs.Usage("the image is a stage 1, which starts nothing without a bundle floor: -bundle-min VERSION")
	}
	if err := lf.checkSource(*source, &inst.ID); err != nil {
		return err
	}
	sec := &server.Secrets{}
	defer sec.Zero()
	if err := readSecrets(env, sec, *diskKey, secrets); err != nil {
		return err
	}
	if (len(headers) > 0) != (*diskKey != "") {
		return fs.Usage("-disk-key and -header go together: the guest opens nothing but the registered header")
	}
	for _, h := range headers {
		rec, err := readHeader(env, h, sec.DiskKey)
		if err != nil {
			return err
		}
		inst.Headers = append(inst.Headers, *rec)
	}
	st, err := sf.Open(ctx, env)
	if err != nil {
		return err
	}
	defer st.Close()
	if *domain == "" { // whether the firmware is real is the domain's policy otherwise
		if err := lf.refuseSynthetic(ctx, st); err != nil {
			return err
		}
	}
	if err := refuseReleased(&sf, env, sec); err != nil {
		return err
	}
	if err := st.AddInstance(ctx, inst, sec); err != nil {
		return instanceError(inst.ID, err)
	}
	for _, m := range inst.Measurements {
		fmt.Fprintf(env.Stderr, "launch digest %s: %s\n", m.Digest, m.Source)
	}
	for _, i := range inst.Identities {
		fmt.Fprintf(env.Stderr, "signed launch digests: %v\n", i)
	}
	for _, h := range inst.Headers {
		fmt.Fprintf(env.Stderr, "LUKS header %s: %s, sectors of %d bytes, integrity %s\n", h.Digest, h.Cipher, h.SectorSize, h.Integrity)
	}
	if inst.FromImage() {
		fmt.Fprintf(env.Stderr, "registered; the image brings this ID, launch the VM without HOST_DATA:\n")
	} else {
		fmt.Fprintf(env.Stderr, "registered; launch the VM with this HOST_DATA:\n")
	}
	fmt.Fprintln(env.Stdout, inst.ID)
	return nil
}

func parseID(s string) (id wire.Hex32, err error) {
	if s == "new" {
		rand.Read(id[:])
		return id, nil
	}
	if err := id.UnmarshalText([]byte(strings.ToLower(s))); err != nil {
		return id, err
	}
	if id.IsZero() {
		return id, errors.New("an ID of zeros is refused everywhere")
	}
	return id, nil
}

func readSecrets(env *applet.Env, sec *server.Secrets, diskKey string, named applet.Strings) error {
	var err error
	if diskKey != "" {
		if sec.DiskKey, err = applet.ReadSecret(env, diskKey, maxDiskKey); err != nil {
			return fmt.Errorf("disk key: %w", err)
		}
		if n := sec.DiskKey.Len(); n < minDiskKey {
			return applet.WithHint(fmt.Errorf("disk key %q has %d bytes, want %d to %d random ones", diskKey, n, minDiskKey, maxDiskKey), "mkimage disk -key-out makes one")
		}
	}
	for _, s := range named {
		name, file, ok := strings.Cut(s, "=")
		if !ok || !wire.ValidSecretName(name) {
			return applet.Usage("-secret %.80q: want NAME=FILE, NAME of letters, digits, dot, hyphen and underscore", s)
		}
		value, err := applet.ReadSecret(env, file, maxNamedSecret)
		if err != nil {
			return fmt.Errorf("secret %q: %w", name, err)
		}
		sec.Named = append(sec.Named, wire.NamedSecret{Name: name, Value: value})
	}
	return nil
}

// refuseReleased refuses to release what seals the state: whoever has the VM
// would open a copy of the state folder.
func refuseReleased(f *servercmd.StateFlags, env *applet.Env, sec *server.Secrets) error {
	if f.KeyFile == "-" || f.PassFile == "-" {
		return nil // stdin was read once, for the key itself
	}
	key, err := f.Key(env)
	if err != nil {
		return err
	}
	defer servercmd.ZeroKey(key)
	seal := key.File
	switch {
	case f.PlatformKey != "":
		if seal, err = applet.ReadSecret(env, f.PlatformKey, sealed.MaxFileKey); err != nil {
			return fmt.Errorf("reading the platform key: %w", err)
		}
		defer seal.Zero()
	case f.Platform != "":
		return nil // nobody has that key as a file
	case seal.Len() == 0:
		seal = key.Passphrase
	}
	same := sec.DiskKey.Len() > 0 && sec.DiskKey.Equal(seal)
	for _, n := range sec.Named {
		same = same || n.Value.Equal(seal)
	}
	if same {
		return applet.WithHint(applet.Refused(code.SealKey, errors.New("the disk key or a secret is the key that seals the state: the VM would be given it")),
			"mkimage disk -key-out makes a key for the disk alone")
	}
	return nil
}

// readHeader reads a header record, or makes it from a disk or header copy; in
// that case the key must open it too.
func readHeader(env *applet.Env, name string, key *secret.Bytes) (*wire.HeaderRecord, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading header: %w", err)
	}
	defer f.Close()
	first := make([]byte, 1)
	if _, err := f.ReadAt(first, 0); err != nil {
		return nil, fmt.Errorf("reading header %q: %w", name, err)
	}
	if first[0] != 'L' {
		b, err := applet.ReadFile(env, name, 64<<10)
		if err != nil {
			return nil, fmt.Errorf("reading header record: %w", err)
		}
		var rec wire.HeaderRecord
		if err := strictjson.Unmarshal(bytes.TrimSpace(b), &rec); err != nil {
			return nil, applet.WithHint(fmt.Errorf("reading header record %q: %w", name, err), "make one with: unlock-luks record DISK")
		}
		if err := luks.CheckRecord(&rec); err != nil {
			return nil, fmt.Errorf("header record %q: %w", name, err)
		}
		return &rec, nil
	}
	header, err := luks.ReadHeader(f)
	if err != nil {
		return nil, fmt.Errorf("reading header %q: %w", name, err)
	}
	rec, err := luks.RecordOf(header)
	if err != nil {
		return nil, fmt.Errorf("header %q: %w", name, err)
	}
	v, err := luks.Open(f, rec, key)
	if err != nil {
		return nil, fmt.Errorf("header %q and the disk key: %w", name, err)
	}
	v.Close()
	return rec, nil
}

// instanceError gives the state's errors their codes and exits.
func instanceError(id wire.Hex32, err error) error {
	switch c, _ := code.Of(err); {
	case c == code.InstanceSource:
		return applet.WithHint(applet.Refused(c, fmt.Errorf("instance %s: %w", id, err)), "an image that brings an ID belongs to that instance alone; build another with: mkimage build -instance-id new")
	case errors.Is(err, server.ErrImageSays):
		return applet.WithHint(applet.Refused(code.InstanceSource, fmt.Errorf("instance %s: %w", id, err)), "build the image with the ID and name it: verifier instance renew -image DIR "+id.String())
	case errors.Is(err, server.ErrInstanceExists):
		return applet.WithHint(applet.Fail(code.InstanceExists, fmt.Errorf("instance %s: %w", id, err)), "verifier instance allow adds a launch digest to it")
	case errors.Is(err, server.ErrDecommissioned):
		return applet.WithHint(applet.Refused(code.InstanceDecommissioned, fmt.Errorf("instance %s: %w", id, err)), "register the VM under a new ID: -id new")
	case errors.Is(err, server.ErrUnknownInstance):
		return applet.WithHint(applet.Fail(code.InstanceUnknown, err), "verifier instance list shows the IDs")
	}
	return err
}
