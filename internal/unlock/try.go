package unlock

import (
	"fmt"
	"os"

	"attestbox/internal/luks"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Try recovers the volume key as Unlock does and forgets it: it says whether key
// and record open a disk, an image or a header. It takes key over.
func Try(file string, record *wire.HeaderRecord, key *secret.Bytes) error {
	defer key.Zero()
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("opening disk: %w", err)
	}
	defer f.Close()
	v, err := luks.OpenWithin(f, record, key, limits())
	if err != nil {
		return fmt.Errorf("unlocking %q: %w", file, err)
	}
	v.Close()
	return nil
}
