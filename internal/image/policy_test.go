package image

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestbox/initramfs/config"
	"attestbox/internal/client/domaintest"
)

// An image whose configuration trusts a policy certificate holds that
// certificate, or is not built.
func TestPolicyCertificate(t *testing.T) {
	dir, m := inputs(t)
	edit(t, m.Config, `"network"`, `"policy":"`+config.PolicyPath+`","network"`)
	if _, err := Build(m, Options{}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without the file: %v", err)
	}
	d := domaintest.New(t, "a.example", time.Now())
	file := filepath.Join(dir, "policy.crt")
	m.Files = append(m.Files, File{Path: config.PolicyPath, Source: file})
	for name, tt := range map[string]struct {
		text []byte
		ok   bool
	}{
		"policy": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Policy.Raw}), true},
		"member": {d.Member(t, d.Identity(1, 1), time.Now(), time.Hour).Certificate[0], false},
		"text":   {[]byte("policy"), false},
	} {
		ok(t, os.WriteFile(file, tt.text, 0o600))
		if _, err := Build(m, Options{}); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
