package unlockluks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"attestbox/internal/applet"
	"attestbox/internal/client"
	"attestbox/internal/code"
	"attestbox/internal/launchcfg"
	"attestbox/internal/luks"
	"attestbox/internal/rekey"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// enroll turns a disk that opens by a passphrase into one with a random key.
func enroll(ctx context.Context, env *applet.Env, args []string, open opener) error {
	fs := env.Flags("-backup FILE (-register | -key-out FILE) [-key-fd N] [flags] DEVICE",
		"unlock-luks enroll -backup /root/vda.header -register /dev/vda")
	var from launchcfg.Flags
	from.Register(fs)
	backup := fs.String("backup", "", "write the header as it is to this new `FILE`, mode 0600, before anything else; with it and the passphrase the disk opens as before")
	registered := fs.Bool("register", false, "in the running VM: take the key from the verifier, and register the header there")
	keyOut := fs.String("key-out", "", "on the owner's machine: write the new key to `FILE` on tmpfs, for verifier add-instance; an existing one is used")
	fd := fs.Int("key-fd", 0, "descriptor from which the passphrase is read to the end of its line; 0 is stdin")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() != 1:
		return fs.Usage("one device or image is required")
	case *backup == "":
		return fs.Usage("-backup is required")
	case *registered == (*keyOut != ""):
		return fs.Usage("one of -register and -key-out is required")
	case *fd < 0 || *fd == 1 || *fd == 2:
		return fs.Usage("-key-fd %d is no descriptor to read a passphrase from", *fd)
	}
	if *keyOut != "" {
		if err := applet.CheckTmpfs(filepath.Dir(*keyOut)); err != nil {
			return err
		}
	}
	j, done, err := job(env, fs.Arg(0))
	if err != nil {
		return err
	}
	defer done()
	if err := enrollable(j); err != nil {
		return err
	}
	passphrase, err := readPassphrase(env, *fd)
	if err != nil {
		return err
	}
	defer passphrase.Zero()
	if err := saveBackup(j, *backup); err != nil {
		return err
	}
	if !*registered {
		rec, err := enrollOffline(j, passphrase, *keyOut)
		if err != nil {
			return classify(err)
		}
		return printRecord(env, rec)
	}
	return online(ctx, env, &from, open, func(ctx context.Context, cfg client.Config) (*wire.HeaderRecord, error) {
		return j.Enroll(ctx, cfg, passphrase)
	})
}

func enrollOffline(j *rekey.Job, passphrase *secret.Bytes, keyOut string) (*wire.HeaderRecord, error) {
	key, err := readNewKey(keyOut)
	if errors.Is(err, os.ErrNotExist) {
		key = secret.Random(32)
		err = applet.CreateSecretFile(keyOut, key)
	}
	if err != nil {
		return nil, err
	}
	defer key.Zero()
	return j.Offline(passphrase, key)
}

// readPassphrase reads a line, as cryptsetup does from a pipe.
func readPassphrase(env *applet.Env, fd int) (*secret.Bytes, error) {
	all, err := readKey(env, fd)
	if err != nil {
		return nil, err
	}
	line, _, cut := bytes.Cut(all.Bytes(), []byte("\n"))
	if !cut {
		return all, nil
	}
	defer all.Zero()
	if len(line) == 0 {
		return nil, errors.New("reading passphrase: it is empty")
	}
	return secret.Copy(line), nil
}

// saveBackup writes the backup, or finds that an earlier call which was cut
// short wrote it.
func saveBackup(j *rekey.Job, name string) error {
	area, err := luks.ReadHeader(j.Disk)
	if err != nil {
		return err
	}
	known, err := luks.KnownRecords(area)
	if err != nil {
		return classify(err)
	}
	err = rekey.SaveBackup(name, area[:known[0].Size])
	if !errors.Is(err, os.ErrExist) {
		if err == nil {
			j.Said("the header as it was is in %s", name)
		}
		return err
	}
	old, err := applet.ReadFile(nil, name, luks.MaxHeaderArea)
	if err == nil {
		err = rekey.SameDisk(old, area)
	}
	if err != nil {
		return applet.WithHint(fmt.Errorf("the backup %q exists and is not overwritten: %w", name, err), "name another file")
	}
	j.Said("%s is a backup of this disk's header already, and stays", name)
	return nil
}

// mend says what to do about a rule that an installer's header may break.
var mend = map[code.Code]string{
	code.LUKSVersion:      "cryptsetup convert --type luks2 DEVICE, while the disk is closed",
	code.LUKSTokens:       "cryptsetup token remove --token-id N DEVICE, for each token that luksDump shows; what they unlock by (TPM2, FIDO2, recovery) goes too",
	code.LUKSObjects:      "one keyslot stays: cryptsetup luksKillSlot DEVICE N, for each other one that luksDump shows",
	code.LUKSReference:    "one keyslot stays: cryptsetup luksKillSlot DEVICE N, for each other one that luksDump shows",
	code.LUKSRequirements: "cryptsetup refresh --persistent NAME without other options takes flags away; a requirement belongs to a re-encryption, which has to end first",
	code.LUKSReencrypt:    "cryptsetup reencrypt --resume-only DEVICE",
	code.LUKSKeyslot:      "cryptsetup config --priority normal --key-slot N DEVICE",
	code.LUKSAF:           "cryptsetup luksConvertKey --hash sha256 --pbkdf argon2id DEVICE",
	code.LUKSArea:         "cryptsetup luksConvertKey --keyslot-cipher aes-xts-plain64 --keyslot-key-size 512 --pbkdf argon2id DEVICE",
	code.LUKSKDF:          "cryptsetup luksConvertKey --pbkdf argon2id DEVICE",
	code.LUKSKDFCost:      "cryptsetup luksConvertKey --pbkdf argon2id --pbkdf-memory 1048576 DEVICE",
}

// enrollable names every rule that the header breaks, with what mends it. A
// header that is on its way from an earlier call keeps them in one copy.
func enrollable(j *rekey.Job) error {
	area, err := luks.ReadHeader(j.Disk)
	if err != nil {
		return err
	}
	_, err = luks.KnownRecords(area)
	if err == nil {
		return nil
	}
	results, _ := luks.Check(area, nil, j.Limits)
	var broken []luks.Result
	for _, r := range results {
		if r.Reached && r.Err != nil {
			broken = append(broken, r)
		}
	}
	if len(broken) == 0 {
		return classify(err)
	}
	var rules, said []string
	for _, r := range broken {
		rules = append(rules, fmt.Sprintf("%s (%s): %v", r.Rule, r.Code, r.Err))
	}
	err = applet.Refused(broken[0].Code, fmt.Errorf("the header breaks %d rules: %s", len(rules), strings.Join(rules, "; ")))
	for _, r := range slices.Backward(broken) {
		hint, ok := mend[r.Code]
		if !ok {
			hint = "nothing mends this in place: format the disk anew (mkimage disk) and copy the files"
		}
		if hint = string(r.Code) + ": " + hint; !slices.Contains(said, hint) {
			said = append(said, hint)
			err = applet.WithHint(err, hint)
		}
	}
	return err
}
