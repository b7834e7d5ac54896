package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNeverPrints(t *testing.T) {
	s := Copy([]byte("hunter2hunter2"))
	defer s.Zero()
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("m", "key", s)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "key", s, "in", struct{ K *Bytes }{s})
	js, err := json.Marshal(map[string]any{"k": s})
	if err != nil {
		t.Fatal(err)
	}
	out := logged.String() + string(js)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p"} {
		out += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, struct{ K *Bytes }{s})
	}
	for _, leak := range []string{"hunter2", "68756e74657232", "104 117"} {
		if strings.Contains(out, leak) {
			t.Errorf("secret leaked as %q in %q", leak, out)
		}
	}
	if !strings.Contains(string(js), redacted) {
		t.Errorf("JSON = %s, want %s", js, redacted)
	}
}

func TestZero(t *testing.T) {
	src := []byte{1, 2, 3}
	s := Take(src)
	if !bytes.Equal(src, []byte{0, 0, 0}) {
		t.Errorf("Take left the source as %v", src)
	}
	if !bytes.Equal(s.Bytes(), []byte{1, 2, 3}) {
		t.Errorf("Bytes = %v", s.Bytes())
	}
	s.Zero()
	s.Zero()
	if s.Len() != 0 || s.Bytes() != nil {
		t.Errorf("after Zero: %d bytes", s.Len())
	}
	var none *Bytes
	none.Zero()
	if none.Len() != 0 {
		t.Error("nil secret has a length")
	}
}

func TestEqual(t *testing.T) {
	a, b, c, empty := Copy([]byte("abc")), Copy([]byte("abc")), Copy([]byte("abd")), New(0)
	for _, tc := range []struct {
		x, y *Bytes
		want bool
	}{{a, b, true}, {a, c, false}, {a, empty, false}, {empty, New(0), false}, {nil, nil, false}} {
		if got := tc.x.Equal(tc.y); got != tc.want {
			t.Errorf("Equal = %v, want %v", got, tc.want)
		}
	}
}

func TestReadAll(t *testing.T) {
	s, err := ReadAll(strings.NewReader("1234"), 4)
	if err != nil || string(s.Bytes()) != "1234" {
		t.Fatalf("ReadAll = %q, %v", s.Bytes(), err)
	}
	if _, err := ReadAll(strings.NewReader("12345"), 4); !errors.Is(err, ErrTooLong) {
		t.Errorf("5 bytes into 4: %v", err)
	}
	if s, err := ReadAll(strings.NewReader(""), 4); err != nil || s.Len() != 0 {
		t.Errorf("empty input: %d bytes, %v", s.Len(), err)
	}
}
