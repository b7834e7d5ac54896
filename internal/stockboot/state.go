package stockboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/initramfs/config"
	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
)

// Dir is the folder between Fetch and Finish.
const Dir = "/run/attestbox/boot"

// Files in Dir.
const (
	HeaderFile  = "header"
	stateFile   = "state"
	outcomeFile = "outcome"
)

// KeySocket is where systemd-cryptsetup gets the key.
const KeySocket = Dir + "/key.sock"

// Crypttab is the line by which systemd-cryptsetup opens the disk: one try, no
// question, and the header that Fetch left. With "luks" it never becomes plain
// dm-crypt, and without the header file it fails.
func Crypttab(c *config.Config) (string, error) {
	if c.Mode != config.SwitchRoot {
		return "", modeError(c)
	}
	return fmt.Sprintf("%s %s %s luks,header=%s/%s,tries=1,headless=1,x-initrd.attach", c.Root.Name, c.Root.Device, KeySocket, Dir, HeaderFile), nil
}

func modeError(c *config.Config) error {
	return code.Wrap(code.ConfigBad, fmt.Errorf("mode is %q, a distribution's initramfs needs %q", c.Mode, config.SwitchRoot))
}

const maxState = 16 << 10

// state is what Finish must know of Fetch's release.
type state struct {
	Volume    string            `json:"volume"`
	Device    string            `json:"device"`
	Record    wire.HeaderRecord `json:"record"` // of the header that was handed on
	ID        wire.Hex32        `json:"id"`
	Boot      uint64            `json:"boot"`
	Committed uint64            `json:"committed"`
}

// MakeDir makes dir for root alone, on tmpfs. One that is there already must be
// that, and empty of a former boot's files: nobody but us has written there.
func MakeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("making the folder of the boot: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the folder of the boot: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("looking at %q: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Getuid()) || st.Mode&0o077 != 0 {
		return code.Wrap(code.BootRelease, fmt.Errorf("%q is not a folder of root's with mode 0700", dir))
	}
	return applet.CheckTmpfs(dir)
}

func (s *state) save(dir string) error {
	js, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b := secret.Take(append(js, '\n'))
	defer b.Zero()
	return applet.CreateSecretFile(filepath.Join(dir, stateFile), b)
}

func readState(dir string) (*state, error) {
	f, err := os.Open(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, code.Wrap(code.BootRelease, fmt.Errorf("nothing was fetched in this boot: %w", err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, fmt.Errorf("reading what was fetched: %w", err)
	}
	s := new(state)
	if err := strictjson.Unmarshal(b, s); err != nil {
		return nil, code.Wrap(code.BootRelease, fmt.Errorf("what was fetched is malformed: %w", err))
	}
	return s, nil
}
