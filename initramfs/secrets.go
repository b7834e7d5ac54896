package initramfs

import (
	"fmt"
	"os"
	"path/filepath"

	"attestbox/initramfs/config"
	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// Where released secrets lie: on the tmpfs /run, which moves into the real
// system.
const (
	secretsDir  = "/run/attestbox/secrets"
	programsDir = "/run/attestbox/programs"
)

// writeSecrets writes each named secret to a file of its own, mode 0400.
func (in *Init) writeSecrets(p *wire.Payload) error {
	if len(p.Secrets) == 0 {
		return nil
	}
	dir := in.path(secretsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	for _, s := range p.Secrets {
		if err := writeSecret(filepath.Join(dir, s.Name), s); err != nil {
			return err
		}
	}
	return nil
}

// programSecrets gives a program the secrets that its entry names, as files of
// its own user.
func (in *Init) programSecrets(prog *config.Program, p *wire.Payload) error {
	if len(prog.Secrets) == 0 {
		return nil
	}
	uid, gid, err := prog.IDs()
	if err != nil {
		return err
	}
	dir := filepath.Join(in.path(programsDir), prog.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range prog.Secrets {
		found := false
		for _, s := range p.Secrets {
			if s.Name != name {
				continue
			}
			found = true
			file := filepath.Join(dir, name)
			if err := writeSecret(file, s); err != nil {
				return err
			}
			if err := in.deps.chown(file, int(uid), int(gid)); err != nil {
				return err
			}
		}
		if !found {
			return code.Wrap(code.BootRelease, fmt.Errorf("the release holds no secret %q for program %s", name, prog.Name))
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	return in.deps.chown(dir, int(uid), int(gid))
}

// writeSecret makes a new file; one that exists is an error. The name is one
// that wire.ValidSecretName allows, the folder is ours alone.
func writeSecret(file string, s wire.NamedSecret) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	if _, err := f.Write(s.Value.Bytes()); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
