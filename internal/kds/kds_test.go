package kds_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/appraise"
	"attestbox/internal/appraise/appraisetest"
	"attestbox/internal/kds"
	"attestbox/internal/snp"
)

// service is the KDS of one chip, with knobs for what goes wrong.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string
	answer func(w http.ResponseWriter, r *http.Request) // nil: as the KDS does
}

func serve(t *testing.T, c *appraisetest.Chain) *service {
	s := &service{}
	crl := c.CRL(appraisetest.Now, appraisetest.Now.AddDate(1, 0, 0))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.RequestURI())
		answer := s.answer
		s.mu.Unlock()
		switch {
		case answer != nil:
			answer(w, r)
		case strings.HasSuffix(r.URL.Path, "/cert_chain"):
			pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.ASK.Raw})
			pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.ARK.Raw})
		case strings.HasSuffix(r.URL.Path, "/crl"):
			w.Write(crl)
		default:
			w.Write(c.VEK.Raw)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) set(f func(http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// count is how often a path with the given part was asked for.
func (s *service) count(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.asked {
		if strings.Contains(p, part) {
			n++
		}
	}
	return n
}

// clock is a clock that a test turns.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func subject(c *appraisetest.Chain) (snp.Product, [64]byte, uint64) {
	var id [64]byte
	copy(id[:], c.ChipID)
	return c.Product, id, snp.EncodeTCB(c.Product, c.TCB)
}

func all(snp.Product, [64]byte) bool { return true }

func open(t *testing.T, c kds.Config) *kds.Cache {
	t.Helper()
	cache, err := kds.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func TestFetchThenOffline(t *testing.T) {
	for _, p := range []snp.Product{snp.Milan, snp.Genoa, snp.Turin} {
		c := appraisetest.Mint(appraisetest.Config{Product: p})
		s := serve(t, c)
		product, id, tcb := subject(c)
		dir := filepath.Join(t.TempDir(), "kds")
		cache := open(t, kds.Config{Dir: dir, BaseURL: s.URL, Allow: all})
		for range 3 {
			vek, ask, ark, err := cache.VEK(t.Context(), product, id, tcb)
			if err != nil || !bytes.Equal(vek, c.VEK.Raw) || !bytes.Equal(ask, c.ASK.Raw) || !bytes.Equal(ark, c.ARK.Raw) {
				t.Fatalf("%s: %v", p, err)
			}
		}
		if n := s.count("SPL="); n != 1 {
			t.Errorf("%s: asked %d times, want once: %v", p, n, s.asked)
		}
		want := fmt.Sprintf("/vcek/v1/%s/%x?blSPL=03&teeSPL=01&snpSPL=22&ucodeSPL=213", p, id)
		if p == snp.Turin {
			want = fmt.Sprintf("/vcek/v1/Turin/%x?fmcSPL=02&blSPL=03&teeSPL=01&snpSPL=22&ucodeSPL=213", id[:8])
		}
		if s.asked[0] != want {
			t.Errorf("asked %s, want %s", s.asked[0], want)
		}
		s.Close()
		offline := open(t, kds.Config{Dir: dir})
		if e, err := offline.Endorsements(t.Context(), product, id, tcb); err != nil || !bytes.Equal(e.VEK, c.VEK.Raw) || len(e.ASK) == 0 {
			t.Errorf("%s offline: %v", p, err)
		}
		id[1] ^= 1
		if _, _, _, err := offline.VEK(t.Context(), product, id, tcb); !errors.Is(err, kds.ErrNotFound) {
			t.Errorf("%s, another chip, offline: %v", p, err)
		}
	}
}

func TestNetworkOnlyForAllowedChips(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	s := serve(t, c)
	product, id, tcb := subject(c)
	for name, conf := range map[string]kds.Config{
		"switched off": {Allow: all},
		"no list":      {BaseURL: s.URL},
		"not on it":    {BaseURL: s.URL, Allow: func(_ snp.Product, got [64]byte) bool { return got != id }},
	} {
		conf.Dir = t.TempDir()
		if _, _, _, err := open(t, conf).VEK(t.Context(), product, id, tcb); !errors.Is(err, kds.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cache := open(t, kds.Config{Dir: t.TempDir(), BaseURL: s.URL, Allow: all})
	if _, _, _, err := cache.VEK(t.Context(), product, [64]byte{}, tcb); !errors.Is(err, kds.ErrNotFound) {
		t.Errorf("CHIP_ID zero: %v", err)
	}
	if _, _, _, err := cache.VEK(t.Context(), product, id, tcb|1<<24); !errors.Is(err, kds.ErrNotFound) {
		t.Errorf("reserved TCB bytes: %v", err)
	}
	if _, _, _, err := cache.VEK(t.Context(), "../../etc", id, tcb); err == nil {
		t.Error("a product that is a path")
	}
	// On Turin 8 bytes name a chip; the other 56 would give one chip 2^448 names,
	// each with an interval of its own.
	turin := appraisetest.Mint(appraisetest.Config{Product: snp.Turin})
	product, id, tcb = subject(turin)
	id[63] = 1
	if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); !errors.Is(err, kds.ErrNotFound) {
		t.Errorf("CHIP_ID with a tail: %v", err)
	}
	if n := s.count(""); n != 0 {
		t.Errorf("the network was asked %d times", n)
	}
}

// What a hostile or broken service sends is not kept.
func TestBadAnswers(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	other := appraisetest.Mint(appraisetest.Config{ChipID: bytes.Repeat([]byte{9}, 64)})
	older := appraisetest.Mint(appraisetest.Config{TCB: snp.TCB{BootLoader: 1}})
	vlek := appraisetest.Mint(appraisetest.Config{VLEK: true})
	product, id, tcb := subject(c)
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"another chip": func(w http.ResponseWriter, _ *http.Request) { w.Write(other.VEK.Raw) },
		"another TCB":  func(w http.ResponseWriter, _ *http.Request) { w.Write(older.VEK.Raw) },
		"a VLEK":       func(w http.ResponseWriter, _ *http.Request) { w.Write(vlek.VEK.Raw) },
		"garbage":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
		"nothing":      func(http.ResponseWriter, *http.Request) {},
		"too much":     func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) },
		"error":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"throttled": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "99999999")
			w.WriteHeader(429)
		},
		"not its chips": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	} {
		s := serve(t, c)
		s.set(answer)
		dir := t.TempDir()
		_, _, _, err := open(t, kds.Config{Dir: dir, BaseURL: s.URL, Allow: all}).VEK(t.Context(), product, id, tcb)
		later, isLater := errors.AsType[*kds.LaterError](err)
		if !isLater && !errors.Is(err, kds.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if isLater && (later.After <= 0 || later.After > time.Hour) {
			t.Errorf("%s: wait of %v", name, later.After)
		}
		if kept, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(kept) != 0 {
			t.Errorf("%s: kept %v", name, kept)
		}
	}
}

func TestBackoff(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	s := serve(t, c)
	product, id, tcb := subject(c)
	s.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	ck := &clock{t: appraisetest.Now}
	cache := open(t, kds.Config{Dir: t.TempDir(), BaseURL: s.URL, Allow: all, Now: ck.now})
	last := time.Duration(0)
	for i := range 12 {
		_, _, _, err := cache.VEK(t.Context(), product, id, tcb)
		later, ok := errors.AsType[*kds.LaterError](err)
		if !ok || later.After < last && later.After < 50*time.Minute || later.After > time.Hour {
			t.Fatalf("try %d: %v after %v", i, err, last)
		}
		last = later.After
		// Whatever TCB the same chip is claimed to have: no request.
		for guess := range uint64(5) {
			if _, _, _, err := cache.VEK(t.Context(), product, id, guess); err == nil {
				t.Fatal("found")
			}
		}
		if n := s.count("SPL="); n != i+1 {
			t.Fatalf("%d requests after %d turns", n, i+1)
		}
		ck.add(later.After)
	}
	s.set(nil)
	if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); err != nil {
		t.Errorf("when the service is back: %v", err)
	}
}

// Whoever knows a chip's ID can claim it with a TCB that does not exist. That
// costs one request per interval and never more than that interval's wait.
func TestNobodyLocksAChipOut(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	s := serve(t, c)
	product, id, tcb := subject(c)
	s.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	ck := &clock{t: appraisetest.Now}
	cache := open(t, kds.Config{Dir: t.TempDir(), BaseURL: s.URL, Allow: all, Now: ck.now})
	for guess := range uint64(50) {
		if _, _, _, err := cache.VEK(t.Context(), product, id, guess); !errors.Is(err, kds.ErrNotFound) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // and hangs up at once
		ck.add(10 * time.Second)
		if _, _, _, err := cache.VEK(ctx, product, id, guess+100); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		ck.add(10 * time.Second)
	}
	s.set(nil)
	if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); err != nil {
		t.Errorf("the chip's own VCEK: %v", err)
	}
}

func TestSlowService(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	s := serve(t, c)
	s.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	product, id, tcb := subject(c)
	cache := open(t, kds.Config{Dir: t.TempDir(), BaseURL: s.URL, Allow: all, Timeout: 50 * time.Millisecond})
	if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); err == nil {
		t.Error("no error")
	} else if _, ok := errors.AsType[*kds.LaterError](err); !ok {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cache = open(t, kds.Config{Dir: t.TempDir(), BaseURL: s.URL, Allow: all})
	if _, _, _, err := cache.VEK(ctx, product, id, tcb); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFolder(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{Product: snp.Turin})
	product, id, tcb := subject(c)
	dir := t.TempDir()
	cache := open(t, kds.Config{Dir: dir})
	if err := cache.Put(c.VEK.Raw); err != nil {
		t.Fatal(err)
	}
	if err := cache.Put(c.ASK.Raw); err == nil {
		t.Error("an ASK is put among the VCEKs")
	}
	if err := cache.Put(appraisetest.Mint(appraisetest.Config{VLEK: true}).VEK.Raw); err == nil {
		t.Error("a VLEK is put among the VCEKs")
	}
	vek, ask, ark, err := cache.VEK(t.Context(), product, id, tcb)
	if err != nil || !bytes.Equal(vek, c.VEK.Raw) || ask != nil || ark != nil {
		t.Fatalf("%v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "Turin", "*"))
	if len(files) != 1 || filepath.Base(files[0]) != fmt.Sprintf("vcek-%x-%016x.der", id[:8], tcb) {
		t.Fatalf("%v", files)
	}
	// By hand as PEM; cut; of another chip; too large.
	for name, tc := range map[string]struct {
		b  []byte
		ok bool
	}{
		"PEM":          {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.VEK.Raw}), true},
		"cut":          {c.VEK.Raw[:200], false},
		"empty":        {nil, false},
		"another chip": {appraisetest.Mint(appraisetest.Config{Product: snp.Turin, ChipID: []byte("8 bytes!")}).VEK.Raw, false},
		"too large":    {make([]byte, 1<<20), false},
	} {
		if err := os.WriteFile(files[0], tc.b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); (err == nil) != tc.ok || err != nil && !errors.Is(err, kds.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A damaged file is mended from the network.
	if err := os.WriteFile(files[0], c.VEK.Raw[:100], 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, c)
	online := open(t, kds.Config{Dir: dir, BaseURL: s.URL, Allow: all})
	if _, _, _, err := online.VEK(t.Context(), product, id, tcb); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(b, c.VEK.Raw) {
		t.Error("the damaged file stays")
	}
}

func TestCRL(t *testing.T) {
	c := appraisetest.Mint(appraisetest.Config{})
	s := serve(t, c)
	dir := t.TempDir()
	ck := &clock{t: time.Now()}
	if b, err := open(t, kds.Config{Dir: dir}).CRL(t.Context(), snp.Milan); b != nil || err != nil {
		t.Errorf("offline: %d bytes, %v", len(b), err)
	}
	cache := open(t, kds.Config{Dir: dir, BaseURL: s.URL, Now: ck.now})
	first, err := cache.CRL(t.Context(), snp.Milan)
	if err != nil || len(first) == 0 {
		t.Fatal(err)
	}
	if _, err := cache.CRL(t.Context(), snp.Milan); err != nil || s.count("/crl") != 1 {
		t.Errorf("asked %d times, %v", s.count("/crl"), err)
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"older list": func(w http.ResponseWriter, _ *http.Request) {
			w.Write(c.CRL(appraisetest.Now.AddDate(-1, 0, 0), appraisetest.Now.AddDate(1, 0, 0)))
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("x")) },
		"failure": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
	} {
		ck.add(48 * time.Hour)
		s.set(answer)
		before := s.count("/crl")
		if b, err := cache.CRL(t.Context(), snp.Milan); err != nil || !bytes.Equal(b, first) || s.count("/crl") != before+1 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// A service in wrong hands serves what fits to the letter: right names, chip and
// TCB, under a root of its own. None of it is kept, so that nothing has to be
// thrown away when the service is in the right hands again.
func TestForgedAnswersAreNotKept(t *testing.T) {
	for _, bare := range []bool{false, true} { // does the root bring its intermediate?
		c := appraisetest.Mint(appraisetest.Config{})
		forged := appraisetest.Mint(appraisetest.Config{OtherARK: true})
		product, id, tcb := subject(c)
		asks := [][]byte{c.ASK.Raw}
		if bare {
			asks = nil
		}
		root, err := appraise.NewRoot(product, c.ARK.Raw, asks...)
		if err != nil {
			t.Fatal(err)
		}
		roots, err := appraise.NewRoots(root)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		ck := &clock{t: time.Now()}
		s := serve(t, c)
		cache := open(t, kds.Config{Dir: dir, BaseURL: s.URL, Allow: all, Now: ck.now, Check: func(_ context.Context, p snp.Product, e appraise.Endorsements) error {
			return appraise.CheckEndorsements(e, roots, p)
		}})
		future := forged.CRL(ck.now().AddDate(5, 0, 0), ck.now().AddDate(6, 0, 0))
		s.set(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/cert_chain"):
				pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: forged.ASK.Raw})
				pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: forged.ARK.Raw})
			case strings.HasSuffix(r.URL.Path, "/crl"):
				w.Write(future)
			default:
				w.Write(forged.VEK.Raw)
			}
		})
		if _, _, _, err := cache.VEK(t.Context(), product, id, tcb); err == nil {
			t.Error("a forged VCEK was returned")
		} else if _, ok := errors.AsType[*kds.LaterError](err); !ok {
			t.Errorf("%v, want later", err)
		}
		if b, err := cache.CRL(t.Context(), product); err != nil || b != nil {
			t.Errorf("a forged list: %d bytes, %v", len(b), err)
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(files) > 0 {
			t.Errorf("kept: %v", files)
		}
		// A forged list that lies there keeps no genuine one out, and a forged
		// chain is passed over.
		os.MkdirAll(filepath.Join(dir, string(product)), 0o700)
		chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forged.ARK.Raw})
		for name, b := range map[string][]byte{"crl.der": future, "cert_chain.pem": chain} {
			if err := os.WriteFile(filepath.Join(dir, string(product), name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.set(nil)
		ck.add(48 * time.Hour)
		vek, ask, ark, err := cache.VEK(t.Context(), product, id, tcb)
		if err != nil || !bytes.Equal(vek, c.VEK.Raw) || !bytes.Equal(ask, c.ASK.Raw) || !bytes.Equal(ark, c.ARK.Raw) {
			t.Errorf("the genuine ones: %v", err)
		}
		if b, err := cache.CRL(t.Context(), product); err != nil || bytes.Equal(b, future) || len(b) == 0 {
			t.Errorf("the genuine list: %d bytes, %v", len(b), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]kds.Config{
		"no folder":      {},
		"plain http":     {Dir: t.TempDir(), BaseURL: "http://kdsintf.amd.com"},
		"no host":        {Dir: t.TempDir(), BaseURL: "https://"},
		"another scheme": {Dir: t.TempDir(), BaseURL: "ftp://127.0.0.1/"},
	} {
		if _, err := kds.Open(c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := kds.Open(kds.Config{Dir: t.TempDir(), BaseURL: kds.AMD}); err != nil {
		t.Error(err)
	}
}
