package appraise

import "bytes"

// SPKIs are the SubjectPublicKeyInfo in DER of the three keys of the chain.
func (v *Verified) SPKIs() (ark, ask, vek []byte) {
	c := v.chain
	return bytes.Clone(c.root.cert.RawSubjectPublicKeyInfo), bytes.Clone(c.ask.RawSubjectPublicKeyInfo), bytes.Clone(c.vek.RawSubjectPublicKeyInfo)
}

// SPKI is the SubjectPublicKeyInfo in DER of the root's key.
func (r *Root) SPKI() []byte { return bytes.Clone(r.cert.RawSubjectPublicKeyInfo) }

// List is the roots of the set.
func (s *Roots) List() []*Root {
	if s == nil {
		return nil
	}
	return append([]*Root(nil), s.list...)
}
