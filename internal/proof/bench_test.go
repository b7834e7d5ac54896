package proof

import "testing"

// One proof with its check: what certification costs beside the cryptography.
func BenchmarkProve(b *testing.B) {
	p := policy(b, trustWeb, trustRoot, require, trustProgram, trustDeploy, web.String()+` is-trusted-for-serving Role["key-server"]`)
	e := hardware(role("key-server"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Prove(p, e, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMayRead(b *testing.B) {
	a := NewAuthorizer(policy(b, trustWeb, trustRoot, require, web.String()+` may-read Secret["db/*"]`))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := a.MayRead(as(web), "db/password", now); !ok {
			b.Fatal("refused")
		}
	}
}
