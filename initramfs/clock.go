package initramfs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// floorFile tells later programs what the clock and the policy version must
// not fall below.
const floorFile = "/run/attestbox/floor"

// floor is what authenticated answers have taught; it only rises.
type floor struct {
	Time             int64  `json:"time"` // Unix seconds
	MinPolicyVersion uint64 `json:"min_policy_version"`
}

// raiseClock sets the clock forward to t, never back: the RTC is the host's.
func (in *Init) raiseClock(t int64) error {
	in.floor.Time = max(in.floor.Time, t)
	now := in.sys.Now()
	if now.Unix() >= in.floor.Time {
		return nil
	}
	in.log.step("clock", "set forward from %s to %s", now.UTC().Format(time.DateTime), time.Unix(in.floor.Time, 0).UTC().Format(time.DateTime))
	if err := in.sys.SetTime(time.Unix(in.floor.Time, 0)); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// learn takes the time and policy version of an authenticated answer.
func (in *Init) learn(t int64, policy uint64) error {
	in.floor.MinPolicyVersion = max(in.floor.MinPolicyVersion, policy)
	if err := in.raiseClock(t); err != nil {
		return err
	}
	b, err := json.Marshal(in.floor)
	if err != nil {
		return err
	}
	file := in.path(floorFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(file, append(b, '\n'), 0o444)
}
