package launchcfg

import (
	"testing"

	"attestbox/internal/code"
)

// Whatever is accepted names a server and a pin; everything else has a code.
func FuzzConfig(f *testing.F) {
	const pin = `"sha256:6a3f00112233445566778899aabbccddeeff00112233445566778899aabbccdd"`
	f.Add("fetch-secret.json", []byte(`{"servers":["tcp://a:1"],"pins":[`+pin+`],"timeout":"10s"}`))
	f.Add("fetch-secret.json", []byte(`{"servers":["tcp://a:1"],"pins":[]}`))
	f.Add("fetch-secret.json", []byte(`{"servers":["tcp://a:1"],"policy":"/etc/attestbox/policy.crt"}`))
	f.Add("init.json", []byte(`{"mode":"switch-root","servers":["tcp://a:1"],"pins":[`+pin+`],"network":{"method":"dhcp"},"root":{"device":"/dev/vda","name":"root","fstype":"ext4"}}`))
	f.Add("init.json", []byte(`{"mode":"run","network":{"method":"none"},"programs":[{"name":"a","argv":["/a"],"user":"root","restart":"never","required":true}]}`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		c, err := Parse(name, b)
		if err != nil {
			if got, _ := code.Of(err); got != code.ConfigBad {
				t.Errorf("%v has code %q", err, got)
			}
			return
		}
		if len(c.Servers) == 0 || len(c.Pins) == 0 && c.Policy == "" || c.Timeout < 0 {
			t.Errorf("accepted: %+v", c)
		}
	})
}
