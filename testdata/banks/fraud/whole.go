package fraud

import (
	"bytes"
	"errors"
	"fmt"
)

var errCut = errors.New("the stream was cut")

// mark adds the line that says that all has come.
func mark(text []byte) []byte {
	return fmt.Appendf(bytes.Clone(text), "end,%d\n", bytes.Count(text, []byte("\n")))
}

// whole is the text before that line.
func whole(b []byte) ([]byte, error) {
	i := bytes.LastIndexByte(bytes.TrimSuffix(b, []byte("\n")), '\n') + 1
	if text := b[:i]; bytes.Equal(mark(text), b) {
		return text, nil
	}
	return nil, errCut
}
