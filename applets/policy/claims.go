package policy

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"attestbox/internal/applet"
	"attestbox/internal/claim"
	"attestbox/internal/code"
	"attestbox/internal/idblock"
	"attestbox/internal/image"
)

// editFlags are what every command that writes claims takes.
type editFlags struct {
	folder
	days int
}

func (e *editFlags) register(fs *applet.FlagSet) {
	e.folder.register(fs, false)
	fs.IntVar(&e.days, "days", 0, "number the claim now, in force for `N` days (default: policy sign numbers it, for 90 days)")
}

// start parses the command line and opens the folder; least is how many
// arguments are needed.
func (e *editFlags) start(env *applet.Env, fs *applet.FlagSet, args []string, least int) ([]string, error) {
	pos, err := parse(fs, args)
	if err != nil {
		return nil, err
	}
	if len(pos) < least || e.days < 0 || e.days > 3660 {
		return nil, fs.Usage("want %d arguments or more, and -days from 1 to 3660", least)
	}
	return pos, e.open(env, fs)
}

// measurement is the entity of hex digits, of a name declared in policy.txt, or
// an image, as mkimage id-block prints it.
func (e *editFlags) measurement(p *claim.Policy, s string) (string, error) {
	if strings.HasPrefix(s, "Image[") {
		st, err := claim.ParseStatement(s + " " + string(claim.IsTrusted))
		if err != nil {
			return "", applet.Usage("%.300q: %v", s, err)
		}
		return st.Clause.Subject.String(), nil
	}
	h := strings.ToLower(s)
	if b, err := hex.DecodeString(h); err == nil && (len(b) == 48 || len(b) == 32) {
		return "Measurement[" + h + "]", nil
	}
	for _, i := range p.Items {
		if i.Measurement != nil && i.Measurement.Name == s {
			return "Measurement[" + i.Measurement.Digest + "]", nil
		}
	}
	return "", applet.WithHint(applet.Usage("%.100q is neither a measurement (96 or 64 hex digits) nor the name of one in policy.txt", s), "name it there with a line: measurement NAME HEX")
}

func runAllow(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var instance, name, ovmf, imageID, familyID string
	var minSVN uint64
	fs := env.Flags("-dir DIR measurement HEX | measurement image DIR [-name NAME] | id-key HEX -image-id ID -min-svn N [-family-id ID] [-with-instance HEX] [-days N]", "policy allow -dir bank measurement image out/web -name web-1")
	e.register(fs)
	fs.StringVar(&instance, "with-instance", "", "only the instance with this ID, 64 `HEX` digits")
	fs.StringVar(&name, "name", "", "call the measurement `NAME` in policy.txt")
	fs.StringVar(&ovmf, "ovmf", "", "firmware `FILE` that the image was measured with, where it was not the synthetic one")
	fs.StringVar(&imageID, "image-id", "", "of id-key: what its owner signs as this image, `ID` of at most 16 characters or 32 hex digits")
	fs.StringVar(&familyID, "family-id", "", "of id-key: only of this family, `ID` of the same form")
	fs.Uint64Var(&minSVN, "min-svn", 0, "of id-key: the least security version that is trusted, 1 or more")
	pos, err := e.start(env, fs, args, 2)
	if err != nil {
		return err
	}
	if pos[0] == "id-key" && len(pos) == 2 && name == "" && ovmf == "" {
		m, err := signedImage(fs, pos[1], imageID, familyID, minSVN)
		if err != nil {
			return err
		}
		return e.trust(m, "", instance)
	}
	if imageID != "" || familyID != "" || minSVN != 0 {
		return fs.Usage("-image-id, -family-id and -min-svn are for: id-key HEX")
	}
	if pos[0] != "measurement" || pos[1] == "image" && len(pos) != 3 || pos[1] != "image" && len(pos) != 2 {
		return fs.Usage("want: measurement HEX, measurement image DIR, or id-key HEX")
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	m := ""
	if pos[1] == "image" {
		digest, err := imageDigest(pos[2], ovmf)
		if err != nil {
			return err
		}
		m = "Measurement[" + digest + "]"
	} else if m, err = e.measurement(p, pos[1]); err != nil {
		return err
	}
	return e.trust(m, name, instance)
}

// signedImage is the entity of what the owner of an ID key signs as an image.
func signedImage(fs *applet.FlagSet, key, image, family string, minSVN uint64) (string, error) {
	id, err := idblock.ParseID(image)
	fam, err2 := idblock.ParseID(family)
	if image == "" || minSVN == 0 || minSVN > 1<<32-1 || err != nil || err2 != nil {
		return "", fs.Usage("id-key wants -image-id, and perhaps -family-id, of at most 16 characters or 32 hex digits, and -min-svn of 1 or more")
	}
	i := claim.Image{IDKey: strings.ToLower(key), ImageID: hex.EncodeToString(id[:]), MinSVN: uint32(minSVN)}
	if fam != [16]byte{} {
		i.FamilyID = hex.EncodeToString(fam[:])
	}
	if _, err := claim.ParseStatement(i.String() + " " + string(claim.IsTrusted)); err != nil {
		return "", fs.Usage("%v", err)
	}
	return i.String(), nil
}

// trust adds the claim that a measurement or an image is trusted, with the
// measurement's name.
func (e *editFlags) trust(m, name, instance string) error {
	_, p, err := e.text()
	if err != nil {
		return err
	}
	var lines []string
	named := claim.MeasurementDecl{Name: name, Digest: strings.TrimSuffix(strings.TrimPrefix(m, "Measurement["), "]")}
	there := slices.ContainsFunc(p.Items, func(i claim.Item) bool { return i.Measurement != nil && *i.Measurement == named })
	if name != "" && !there {
		lines = append(lines, claim.Item{Measurement: &named}.String())
	}
	if instance != "" {
		m += " with-instance[" + strings.ToLower(instance) + "]"
	}
	return e.add(e.days, time.Now(), append(lines, m+" is-trusted")...)
}

// imageDigest computes the launch digest of an image folder from its files. No
// claim is made of a digest that does not cover kernel, initramfs and command
// line.
func imageDigest(dir, ovmf string) (string, error) {
	var firmware []byte
	var err error
	if ovmf != "" {
		if firmware, err = applet.ReadFile(nil, ovmf, 64<<20); err != nil {
			return "", err
		}
	}
	r, err := image.Claimable(dir, firmware)
	if err != nil {
		return "", err
	}
	return r.Digest, nil
}

func runImport(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var name, ovmf string
	fs := env.Flags("-dir DIR CLAIMFILE | image.json", "policy import -dir bank out/web/image.json -name web-1")
	e.register(fs)
	fs.StringVar(&name, "name", "", "call the measurement `NAME` in policy.txt")
	fs.StringVar(&ovmf, "ovmf", "", "firmware `FILE` that the image was measured with, where it was not the synthetic one")
	pos, err := e.start(env, fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) != 1 {
		return fs.Usage("want one file")
	}
	b, err := applet.ReadFile(env, pos[0], 16<<20)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		if pos[0] == "-" || filepath.Base(pos[0]) != image.RecordName {
			return fs.Usage("a record counts beside the files that it is of: name the image.json in its folder")
		}
		digest, err := imageDigest(pos[0], ovmf)
		if err != nil {
			return err
		}
		return e.trust("Measurement["+digest+"]", name, "")
	}
	found := false
	for n, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		st, err := claim.ParseStatement(line)
		m, ok := st.Clause.Subject.(claim.Measurement)
		switch {
		case err != nil:
			return applet.Fail(code.ClaimMalformed, fmt.Errorf("%q, line %d: %w", pos[0], n+1, err))
		case !ok || st.Clause.Verb != claim.IsTrusted || !st.Speaker.IsZero():
			return applet.Refused(code.ClaimMalformed, fmt.Errorf("%q, line %d: an image's claim file says that a measurement is-trusted, and nothing else", pos[0], n+1))
		case found:
			return applet.Refused(code.ClaimMalformed, fmt.Errorf("%q: more than one claim", pos[0]))
		}
		found = true
		if err := e.trust("Measurement["+m.Digest+"]", name, m.Instance); err != nil {
			return err
		}
	}
	if !found {
		return applet.Fail(code.ClaimMalformed, fmt.Errorf("%q holds no claim", pos[0]))
	}
	return nil
}

func runRequire(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	fs := env.Flags("-dir DIR amd-sev-snp PROPERTY...", "policy require -dir bank amd-sev-snp 'product = Genoa' 'tcb.snp >= 22'")
	e.register(fs)
	pos, err := e.start(env, fs, args, 2)
	if err != nil {
		return err
	}
	pf := claim.Platform{Type: pos[0]}
	said := map[string]bool{}
	for _, s := range pos[1:] {
		q, err := claim.ParseProp(s)
		if err != nil {
			return applet.WithHint(applet.Usage("property %.80q: %v", s, err), "known are: "+strings.Join(claim.Properties(), ", "))
		}
		said[q.Name] = true
		pf.Props = append(pf.Props, q)
	}
	for _, always := range []string{"migrate", "debug"} {
		if !said[always] {
			pf.Props = append([]claim.Prop{{Name: always, Op: claim.Is, Values: []string{"no"}}}, pf.Props...)
		}
	}
	return e.add(e.days, time.Now(), pf.String()+" has-trusted-platform-property")
}

func runGrant(_ context.Context, env *applet.Env, args []string) error {
	var e editFlags
	var instance, name string
	fs := env.Flags("-dir DIR HEX|NAME read|write PATTERN | -dir DIR HEX|NAME|KEYFILE serve ROLE | -dir DIR HEX|NAME attest", "policy grant -dir bank web-1 read 'db/*'")
	e.register(fs)
	fs.StringVar(&instance, "with-instance", "", "only the instance with this ID, 64 `HEX` digits")
	fs.StringVar(&name, "name", "", "call the key `NAME` in policy.txt")
	pos, err := e.start(env, fs, args, 2)
	if err != nil {
		return err
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	what := ""
	switch verb := pos[1]; {
	case verb == "read" && len(pos) == 3, verb == "write" && len(pos) == 3:
		what = fmt.Sprintf("may-%s %s", verb, claim.Secret{Pattern: pos[2]})
	case verb == "serve" && len(pos) == 3:
		what = "is-trusted-for-serving " + claim.Role{Name: pos[2]}.String()
	case verb == "attest" && len(pos) == 2:
		what = "is-trusted-for-attestation"
	default:
		return fs.Usage("want: read PATTERN, write PATTERN, serve ROLE, or attest")
	}
	m, err := e.measurement(p, pos[0])
	var lines []string
	if _, statErr := os.Stat(pos[0]); err != nil && pos[1] == "serve" && statErr == nil && instance == "" {
		spki, cert, kerr := publicKey(env, pos[0])
		if kerr != nil {
			return kerr
		}
		if name == "" {
			name = fileName(pos[0])
		}
		var k claim.Key
		if k, lines, err = declare(p, name, spki, cert); err == nil {
			m = k.String()
		}
	}
	if err != nil {
		return err
	}
	if instance != "" {
		m += " with-instance[" + strings.ToLower(instance) + "]"
	}
	return e.add(e.days, time.Now(), append(lines, m+" "+what)...)
}

func runSucceed(_ context.Context, env *applet.Env, args []string) error {
	return newAndOld(env, args, claim.MaySucceed, "policy succeed -dir bank web-2 web-1")
}

func runRenew(_ context.Context, env *applet.Env, args []string) error {
	return newAndOld(env, args, claim.Renews, "policy renew -dir bank web-2 web-1")
}

// newAndOld adds what is said of a newer measurement and an older one.
func newAndOld(env *applet.Env, args []string, verb claim.Verb, example string) error {
	var e editFlags
	fs := env.Flags("-dir DIR NEW OLD", example)
	e.register(fs)
	pos, err := e.start(env, fs, args, 2)
	if err != nil {
		return err
	}
	if len(pos) != 2 {
		return fs.Usage("want NEW and OLD")
	}
	_, p, err := e.text()
	if err != nil {
		return err
	}
	next, err := e.measurement(p, pos[0])
	if err != nil {
		return err
	}
	old, err := e.measurement(p, pos[1])
	if err != nil {
		return err
	}
	return e.add(e.days, time.Now(), next+" "+string(verb)+" "+old)
}
