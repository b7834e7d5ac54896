package floor

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestOnlyRises(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "floor")
	if f, err := Read(path); err != nil || f != (Floor{}) {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, tt := range []struct{ give, want Floor }{
		{Floor{100, 1}, Floor{100, 1}},
		{Floor{50, 2}, Floor{100, 2}},
		{Floor{200, 0}, Floor{200, 2}},
		{Floor{}, Floor{200, 2}},
	} {
		got, err := Raise(path, tt.give)
		if err != nil || got != tt.want {
			t.Errorf("raise %+v: %+v, %v", tt.give, got, err)
		}
		if got, err := Read(path); err != nil || got != tt.want {
			t.Errorf("then read: %+v, %v", got, err)
		}
	}
}

func TestConcurrentRaises(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := Raise(path, Floor{int64(i), uint64(20 - i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if f, err := Read(path); err != nil || f != (Floor{19, 20}) {
		t.Errorf("%+v, %v", f, err)
	}
}

// A damaged file is not a floor of zero.
func TestMalformed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	for _, s := range []string{"", "{}x", `{"time":"1"}`, `{"Time":1}`, string(make([]byte, maxSize+1))} {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := Read(path); err == nil {
			t.Errorf("%.20q was read as %+v", s, f)
		}
		if _, err := Raise(path, Floor{1, 1}); err == nil {
			t.Errorf("%.20q was replaced", s)
		}
	}
}

func TestClock(t *testing.T) {
	f := Floor{Time: 1000}
	if got := f.Clock(time.Unix(999, 0)); got.Unix() != 1000 {
		t.Error(got)
	}
	if got := f.Clock(time.Unix(1001, 5)); got != time.Unix(1001, 5) {
		t.Error(got)
	}
}
