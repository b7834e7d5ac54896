package client

import (
	"crypto"
	"crypto/x509"
	"errors"
	"time"
)

// checkServing refuses until certificates carry serving claims.
func checkServing(*x509.Certificate, crypto.PublicKey, string, time.Time) error {
	return errors.New("the certificate carries no serving claim")
}
