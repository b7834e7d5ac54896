package config

import (
	"strings"
	"testing"

	"attestbox/internal/code"
)

const debianPin = `"sha256:6a3f00112233445566778899aabbccddeeff00112233445566778899aabbccdd"`

func TestParseDebian(t *testing.T) {
	good := `{"servers":["tcp://a:1"],"pins":[` + debianPin + `],"network":{"method":"dhcp"}}`
	c, err := ParseDebian([]byte(good))
	if err != nil || c.Mode != Debian || c.MinTime != DefaultMinTime || c.Timeout == 0 || c.OnFailure.Reboot {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, bad := range []string{
		``, `{}`, `[]`, good + `x`,
		`{"servers":[],"pins":[` + debianPin + `],"network":{"method":"dhcp"}}`,
		`{"servers":["tcp://a:1"],"network":{"method":"dhcp"}}`,
		`{"servers":["tcp://a:1"],"pins":[` + debianPin + `]}`,
		`{"servers":["tcp://a:1"],"pins":[` + debianPin + `],"network":{"method":"none"}}`,
		`{"servers":["tcp://a:1"],"policy":"/tmp/p","network":{"method":"dhcp"}}`,
		strings.Replace(good, "{", `{"mode":"debian",`, 1),
		strings.Replace(good, "{", `{"root":null,`, 1),
		strings.Replace(good, "{", `{"min_time":-1,`, 1),
	} {
		_, err := ParseDebian([]byte(bad))
		if c, _ := code.Of(err); c != code.ConfigBad {
			t.Errorf("%s: %v", bad, err)
		}
	}
	// An image of our own cannot be of that mode.
	if _, err := Parse([]byte(strings.Replace(good, "{", `{"mode":"debian",`, 1))); err == nil {
		t.Error("init.json with Debian's mode was taken")
	}
}

const crypttabLine = "root /dev/vda none luks,header=/run/attestbox/root.hdr,tries=1,keyscript=/usr/lib/attestbox/keyscript\n"

func TestParseCrypttab(t *testing.T) {
	for _, good := range []string{
		crypttabLine,
		"# a comment with keyscript=/usr/lib/attestbox/keyscript\nswap /dev/vdb /dev/urandom swap\n\n" + crypttabLine,
		"root\t/dev/vda  none\ttries=1,initramfs,keyscript=/usr/lib/attestbox/keyscript,header=/run/attestbox/root.hdr,luks",
	} {
		c, err := ParseCrypttab([]byte(good))
		if err != nil || c.Line() != crypttabLine {
			t.Errorf("%q: %v, %v", good, c, err)
		}
	}
	change := func(old, new string) string { return strings.Replace(crypttabLine, old, new, 1) }
	for _, bad := range []string{
		"", "root /dev/vda none luks\n", crypttabLine + crypttabLine,
		change("/dev/vda", "UUID=01234567-89ab-cdef-0123-456789abcdef"), change("/dev/vda", "LABEL=root"), change("/dev/vda", "PARTUUID=1"),
		change("/dev/vda", "/dev/disk/by-id/x"), change("/dev/vda", "/dev/mapper/x"), change("/dev/vda", "/etc/passwd"),
		change("none", "/key"), change("luks,", ""), change("luks,", "plain,"), change("luks,", "luks,plain,"), change("header=/run/attestbox/root.hdr,", ""),
		change("root.hdr", "other.hdr"), change("tries=1", "tries=3"), change("tries=1,", ""), change("tries=1", "tries=1,tries=1"),
		change("luks,", "luks,discard,"), change("luks,", "luks,noauto,"), change("luks,", "luks,keyslot=1,"),
		change("root ", "Root "), change("root ", "ro\\040ot "), change("root ", "control "), change("root ", "../x "), change("\n", " extra\n"),
		change("keyscript\n", "keyscript2\n"),
	} {
		c, err := ParseCrypttab([]byte(bad))
		if got, _ := code.Of(err); got != code.ConfigBad {
			t.Errorf("%q: %v, %v", bad, c, err)
		}
	}
}

// What is accepted is one line that reads back as itself.
func FuzzCrypttab(f *testing.F) {
	f.Add(crypttabLine)
	f.Add("# none\n")
	f.Add("a b c d\n" + crypttabLine)
	f.Fuzz(func(t *testing.T, table string) {
		c, err := ParseCrypttab([]byte(table))
		if err != nil {
			return
		}
		again, err := ParseCrypttab([]byte(c.Line()))
		if err != nil || *again != *c {
			t.Errorf("%q became %q: %v", table, c.Line(), err)
		}
	})
}

func FuzzDebianConfig(f *testing.F) {
	f.Add([]byte(`{"servers":["tcp://a:1"],"pins":[` + debianPin + `],"network":{"method":"dhcp"},"timeout":"1m"}`))
	f.Add([]byte(`{"servers":["vsock://2:8451"],"policy":"/etc/attestbox/policy.crt","network":{"method":"none"},"on_failure":"reboot:30s"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseDebian(b)
		if err != nil {
			if got, _ := code.Of(err); got != code.ConfigBad {
				t.Errorf("%v has code %q", err, got)
			}
			return
		}
		if c.Mode != Debian || len(c.Servers) == 0 || len(c.Pins) == 0 && c.Policy == "" || c.Root != nil || len(c.Programs) > 0 || c.State != nil {
			t.Errorf("accepted: %+v", c)
		}
	})
}
