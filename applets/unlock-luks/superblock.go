package unlockluks

import (
	"fmt"
	"io"
	"os"

	"attestbox/internal/applet"
	"attestbox/internal/code"
	"attestbox/internal/luks"
)

// checkSuperblock reports on dm-integrity's superblock behind a header that
// keeps every rule; for a copy of the header alone there is nothing to report.
func checkSuperblock(env *applet.Env, name string, header []byte) error {
	r, err := luks.RecordOf(header)
	if err != nil {
		return err
	}
	suite, err := luks.SuiteNamed(r.Integrity)
	if err != nil || suite.TagBytes == 0 {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("reading superblock: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("reading superblock: %w", err)
	}
	const rule = "dm-integrity's superblock is what a disk of this size has"
	if size == r.Size {
		fmt.Fprintf(env.Stdout, "skip  %-20s %s: this is a copy of the header alone\n", code.LUKSSuperblock, rule)
		return nil
	}
	l, err := luks.NewLayout(suite, r.SectorSize, r.SegmentOffset, size)
	if err == nil {
		b := make([]byte, luks.SuperblockBytes)
		if _, err = f.ReadAt(b, r.SegmentOffset); err != nil {
			return fmt.Errorf("reading superblock: %w", err)
		}
		err = l.CheckSuperblock(b)
	}
	if err != nil {
		c, _ := code.Of(err)
		fmt.Fprintf(env.Stdout, "FAIL  %-20s %s: %v\n", c, rule, err)
		return applet.Refused(c, fmt.Errorf("superblock of %q breaks a rule", name))
	}
	fmt.Fprintf(env.Stdout, "pass  %-20s %s\n", code.LUKSSuperblock, rule)
	return nil
}
