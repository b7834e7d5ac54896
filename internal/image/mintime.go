package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/strictjson"
	"attestbox/internal/wire"
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
	out := withKey(data, fmt.Sprintf(`"min_time": %d`, epoch))
	if _, err := config.Parse(out); err != nil {
		return nil, fmt.Errorf("adding min_time from SOURCE_DATE_EPOCH: %w", err)
	}
	return out, nil
}

// withKey puts one more member at the beginning of a JSON object that has some.
func withKey(data []byte, member string) []byte {
	at := bytes.IndexByte(data, '{') + 1 // the object that it is; never empty
	out := append(bytes.Clone(data[:at]), "\n  "+member+","...)
	return append(out, data[at:]...)
}

// withInstanceID writes the ID of the one instance that the image is of into a
// configuration that parses.
func withInstanceID(data []byte, text string) ([]byte, error) {
	var id wire.Hex32
	if err := id.UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("instance ID %.80q: %w", text, err)
	}
	c, err := config.Parse(data)
	switch {
	case err != nil:
		return nil, err
	case c.Instance() == id:
		return data, nil
	case !c.Instance().IsZero():
		return nil, fmt.Errorf("it has the instance ID %s already", c.Instance())
	}
	return withKey(data, fmt.Sprintf(`"instance_id": "%s"`, id)), nil
}

func minTimeNote(epoch uint32) string {
	return fmt.Sprintf("the configuration's min_time is SOURCE_DATE_EPOCH, %s", time.Unix(int64(epoch), 0).UTC().Format(time.RFC3339))
}
