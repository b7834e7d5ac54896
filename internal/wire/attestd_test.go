package wire

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// Nothing that attestd signs can be the content of a TLS signature, a
// certificate, a CSR or an SSH authentication, and no two inputs give the same
// message.
func TestAttestdMessages(t *testing.T) {
	seen := map[string]string{}
	add := func(what string, m []byte) {
		if n := binary.LittleEndian.Uint32(m); !strings.HasPrefix(string(m[4:4+n]), "attestbox/attestd/") {
			t.Errorf("%s begins with %q", what, m[:4+n])
		}
		// RFC 8446 4.4.3, X.690 SEQUENCE, RFC 4252 section 7 (a length below 2^24).
		for _, other := range [][]byte{bytes.Repeat([]byte(" "), 64), {0x30}, {0}} {
			if bytes.HasPrefix(m, other) {
				t.Errorf("%s begins like another protocol's message: %x", what, other)
			}
		}
		if before, ok := seen[string(m)]; ok {
			t.Errorf("%s and %s give the same message", what, before)
		}
		seen[string(m)] = what
	}
	add("signed", AttestdSigned([]byte("p"), []byte("c"), []byte("d")))
	add("signed, other split", AttestdSigned([]byte("p"), []byte("cd"), nil))
	add("signed, other split", AttestdSigned([]byte("pc"), nil, []byte("d")))
	add("statement", AttestdStatement([]byte("p"), []byte("c"), 1, 2))
	add("statement, other times", AttestdStatement([]byte("p"), []byte("c"), 2, 1))
	add("seal", AttestdSealInfo("seal", []byte("p"), nil, []byte("c")))
	add("seal, other user", AttestdSealInfo("seal", []byte("p"), []byte{0, 0, 0, 0}, []byte("c")))
	add("seal, other purpose", AttestdSealInfo("key", []byte("p"), nil, []byte("c")))

	want := AttestdReportData([]byte("p"), []byte("d"))
	for _, other := range [][2]string{{"p", ""}, {"pd", ""}, {"", "pd"}, {"p", "e"}} {
		if AttestdReportData([]byte(other[0]), []byte(other[1])) == want {
			t.Errorf("%q and %q give the same REPORT_DATA", other, "p, d")
		}
	}
}
