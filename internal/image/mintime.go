package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/strictjson"
)

// withMinTime writes the image's build time, SOURCE_DATE_EPOCH, as min_time into
// a configuration that parses and does not say one itself: the clock's floor
// starts there (DESIGN section 10). Everything else stays as its owner wrote it.
// A time below the floor that init has anyway is not written.
func withMinTime(data []byte, epoch uint32) ([]byte, error) {
	if int64(epoch) <= config.DefaultMinTime {
		return data, nil
	}
	var keys map[string]json.RawMessage
	if err := strictjson.Unmarshal(data, &keys); err != nil {
		return nil, err
	}
	if _, ok := keys["min_time"]; ok {
		return data, nil
	}
	at := bytes.IndexByte(data, '{') + 1 // the object that it is; never empty
	out := append(bytes.Clone(data[:at]), fmt.Sprintf("\n  \"min_time\": %d,", epoch)...)
	out = append(out, data[at:]...)
	if _, err := config.Parse(out); err != nil {
		return nil, fmt.Errorf("adding min_time from SOURCE_DATE_EPOCH: %w", err)
	}
	return out, nil
}

func minTimeNote(epoch uint32) string {
	return fmt.Sprintf("the configuration's min_time is SOURCE_DATE_EPOCH, %s", time.Unix(int64(epoch), 0).UTC().Format(time.RFC3339))
}
