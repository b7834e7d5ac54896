package image

import (
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/initramfs/config"
	"attestbox/internal/strictjson"
	"attestbox/internal/verity"
)

// addVerity writes the record of a read-only root into a configuration, so
// that the image is measured with the root that was built for it.
func (b *builder) addVerity(data []byte) ([]byte, error) {
	text, err := readFile(b.m.Verity, config.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading verity record: %w", err)
	}
	rec, err := verity.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("verity record %q: %w", b.m.Verity, err)
	}
	b.input("verity", b.m.Verity, config.Path, text)
	if data, err = withVerity(data, rec); err != nil {
		return nil, fmt.Errorf("configuration %q: %w", b.m.Config, err)
	}
	return data, nil
}

func withVerity(data []byte, rec *verity.Record) ([]byte, error) {
	var keys, root map[string]json.RawMessage
	if err := strictjson.Unmarshal(data, &keys); err != nil {
		return nil, err
	}
	if keys["root"] == nil {
		return nil, errors.New("it has no root for the verity record")
	}
	if err := strictjson.Unmarshal(keys["root"], &root); err != nil {
		return nil, err
	}
	if root["verity"] != nil {
		return nil, errors.New("its root has a verity record already")
	}
	for _, set := range []struct {
		in    map[string]json.RawMessage
		name  string
		value any
	}{{root, "verity", rec}, {keys, "root", root}} {
		b, err := json.Marshal(set.value)
		if err != nil {
			return nil, err
		}
		set.in[set.name] = b
	}
	out, err := json.MarshalIndent(keys, "", "  ")
	return append(out, '\n'), err
}
