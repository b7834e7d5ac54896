package claim

import (
	"fmt"
	"strings"
)

// Limits of names.
const (
	maxName   = 64
	maxSecret = 255
	maxDomain = 253
)

const wordChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func isWord(s string) bool { return s != "" && strings.Trim(s, wordChars) == "" }

// checkName refuses what cannot name a key or a measurement: what is too long,
// has other characters than letters, digits, dots, hyphens and underscores, or
// could be taken for a digest.
func checkName(s string) error {
	if len(s) > maxName || !isWord(s) || isDigest(s) {
		return fmt.Errorf("name %.80q: want 1 to %d letters, digits, dots, hyphens or underscores, and not a digest", s, maxName)
	}
	return nil
}

// CheckName refuses what is no name of a key or a measurement.
func CheckName(s string) error { return checkName(s) }

// isDigest says that s is lower-case hex of a measurement's length.
func isDigest(s string) bool { return isHex(s, 64) || isHex(s, 96) }

// isHex says that s is n lower-case hex digits.
func isHex(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }

// zeros says that a hex string is all zeros, which names nothing.
func zeros(s string) bool { return strings.Trim(s, "0") == "" }

// validSecret checks a secret's name: 1 to 255 characters, parts of letters,
// digits, dots, hyphens and underscores between slashes, none of them empty,
// "." or "..".
func validSecret(s string, pattern bool) bool {
	if s == "" || len(s) > maxSecret {
		return false
	}
	for _, part := range strings.Split(s, "/") {
		chars := wordChars
		if pattern {
			chars += "*"
		}
		if part == "" || part == "." || part == ".." || strings.Trim(part, chars) != "" {
			return false
		}
	}
	return true
}

// ValidSecretName says whether a secret can have this name.
func ValidSecretName(s string) bool { return validSecret(s, false) }

// ValidRole says whether a role can have this name: 1 to 32 lower-case letters,
// digits and hyphens.
func ValidRole(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// ValidDomain says whether a security domain can have this name: a DNS name in
// lower case.
func ValidDomain(s string) bool {
	if s == "" || len(s) > maxDomain {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// chipID is the one form of a CHIP_ID. Turin's has 8 bytes, and reports and
// tools pad it with zeros to 64: both name the same chip, and a revocation of
// either must find it.
func chipID(s string) string {
	if isHex(s, 128) && zeros(s[16:]) {
		return s[:16]
	}
	return s
}
