package wire

// PolicyMessage is what the policy key signs of a policy file: the domain
// string and the exact text, each preceded by its length.
func PolicyMessage(text []byte) []byte { return lengthPrefixed([]byte(domainPolicy), text) }

// ClaimMessage is what a key signs of a claim that travels alone.
func ClaimMessage(text []byte) []byte { return lengthPrefixed([]byte(domainClaim), text) }
