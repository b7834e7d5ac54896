package dial

import "testing"

func TestParse(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"tcp://10.0.2.2:8451", "tcp://10.0.2.2:8451"},
		{"tcp://verifier.example", "tcp://verifier.example:8451"},
		{"tcp://[fd00::1]:99", "tcp://[fd00::1]:99"},
		{"tcp://[fd00::1]", "tcp://[fd00::1]:8451"},
		{"vsock://2:8451", "vsock://2:8451"},
		{"vsock://2", "vsock://2:8451"},
		{"", ""}, {"tcp://", ""}, {"tcp://:1", ""}, {"tcp://h:0", ""}, {"tcp://h:70000", ""}, {"tcp://h:x", ""}, {"tcp://[]:]:1", ""}, {"tcp://[h", ""}, {"tcp://a b:1", ""}, {"tcp://x:y:z", ""}, {"tcp://[::1", ""}, {"tcp://[]", ""},
		{"vsock://host:1", ""}, {"vsock://-1:1", ""}, {"vsock://4294967296", ""}, {"udp://h:1", ""}, {"h:1", ""},
	} {
		a, err := Parse(tc.in)
		if got := a.String(); (err != nil) != (tc.want == "") || err == nil && got != tc.want {
			t.Errorf("Parse(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
}
