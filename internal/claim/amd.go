package claim

// amdRoots are the SHA-256 of the SubjectPublicKeyInfo of AMD's root keys
// (ARK), as the KDS serves them at /vcek/v1/<product>/cert_chain.
var amdRoots = map[string]string{
	"9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9": "Milan",
	"429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831": "Genoa",
	"4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08": "Turin",
}

// amdProduct is the product whose root key of AMD's k is; empty for others.
func amdProduct(k Key) string {
	if k.Alg != RSA {
		return ""
	}
	return amdRoots[k.ID]
}

// AMDRoot is AMD's root key of a product, named as AMD names it; false for an
// unknown product.
func AMDRoot(product string) (Key, bool) {
	for id, p := range amdRoots {
		if p == product {
			return Key{RSA, "ARK-" + p, id}, true
		}
	}
	return Key{}, false
}
