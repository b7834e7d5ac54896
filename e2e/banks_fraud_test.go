package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestbox/internal/testenv"
	"attestbox/testdata/banks/fraud"
)

func bankData(t *testing.T, bank string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "testdata", "banks", "data", bank+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The trend has nothing of a row that one bank has no cases in, or that is
// small, and no account.
func TestBanksTrend(t *testing.T) {
	all := map[string][]fraud.Case{}
	for _, bank := range fraud.Banks() {
		cases, err := fraud.ParseCases(bankData(t, bank))
		if err != nil {
			t.Fatal(err)
		}
		all[bank] = cases
	}
	text := string(fraud.Format(fraud.Trend(all)))
	if strings.Count(text, "\n") != 11 || !strings.Contains(text, "2026-09,romance,9,33321.00,0\n") || !strings.Contains(text, "2026-07,card-not-present,9,42931.38,1\n") {
		t.Errorf("%s", text)
	}
	for what, s := range map[string]string{"not every bank has cases": "loan", "too few cases": "2026-07,romance", "account": "XA00", "shared account": "MULE"} {
		if strings.Contains(text, s) {
			t.Errorf("%s: %q is released", what, s)
		}
	}
	all["bank-b"] = nil
	if rows := fraud.Trend(all); len(rows) != 0 {
		t.Errorf("without bank B: %v", rows)
	}
}

func TestBanksParseCases(t *testing.T) {
	const head = "month,category,account,amount\n"
	good := head + "2026-01,loan,XA0012345678,12.30\n"
	if c, err := fraud.ParseCases([]byte(good)); err != nil || len(c) != 1 || c[0].Amount != 1230 {
		t.Errorf("%v, %v", c, err)
	}
	for _, bad := range []string{"", head, head[:5], good[:len(good)-1], good + "\n", good + "2026-13,loan,XA0012345678,1.00\n",
		good + "2026-01,Loan,XA0012345678,1.00\n", good + "2026-01,loan,x,1.00\n", good + "2026-01,loan,XA0012345678,-1.00\n",
		good + "2026-01,loan,XA0012345678,1\n", good + "2026-01,loan,XA0012345678,99999999999.00\n", good + "a,b\n",
		strings.Repeat("x", fraud.MaxBytes+1), head + strings.Repeat("2026-01,loan,XA0012345678,1.00\n", fraud.MaxCases+1)} {
		if _, err := fraud.ParseCases([]byte(bad)); err == nil {
			t.Errorf("accepted %.80q", bad)
		}
	}
}

// A stream that was cut is not taken for a smaller set of cases.
func TestBanksCutStream(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, talk := io.Pipe()
	ready := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		n, err := r.Read(buf)
		if err == nil && !strings.Contains(string(buf[:n]), "waiting for 3 banks") {
			err = fmt.Errorf("said %q", buf[:n])
		}
		ready <- err
		io.Copy(io.Discard, r)
	}()
	done := make(chan error, 1)
	go func() { done <- fraud.Analyse(ctx, talk, []string{"-dir", dir}) }()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	data := string(bankData(t, "bank-c"))
	first := data[:strings.Index(data, "\n2026-08")+1]
	for _, sent := range []string{first, data, data + "end,5\n", "", data + "end,0028\n"} {
		c, err := net.Dial("unix", filepath.Join(dir, "bank-c.sock"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, sent)
		c.(*net.UnixConn).CloseWrite()
		if b, _ := io.ReadAll(c); string(b) != "error: the stream was cut\n" {
			t.Errorf("%d bytes: %q", len(sent), b)
		}
		c.Close()
	}
	var all sync.WaitGroup
	for _, bank := range fraud.Banks() {
		all.Go(func() {
			var out strings.Builder
			err := fraud.Submit(ctx, bank, &out, io.Discard, []string{"-to", filepath.Join(dir, bank+".sock"),
				"-data", filepath.Join(testenv.Root(), "testdata", "banks", "data", bank+".csv")})
			if err != nil || !strings.Contains(out.String(), "2026-09,phishing,9,46788.48,0\n") {
				t.Errorf("%s: %v %q", bank, err, out.String())
			}
		})
	}
	all.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
