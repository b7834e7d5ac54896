package wire

import "time"

// Version is the protocol version that begin names and the transcript binds.
const Version = 1

// ALPN protocol identifiers (RFC 7301).
const (
	ALPNLaunch   = "attestbox-launch/1"
	ALPNCertify  = "attestbox-certify/1"
	ALPNKeys     = "attestbox-keys/1"
	ALPNMaintain = "attestbox-maintain/1"
	ALPNBundle   = "attestbox-bundle/1"
	ALPNTunnel   = "attestbox-tunnel/1" // no messages: the bytes of one stream
)

// DefaultPort is the port on TCP and on AF_VSOCK.
const DefaultPort = 8451

// Limits of the protocol.
const (
	// MaxFrame bounds one frame's JSON, in bytes.
	MaxFrame = 64 << 10
	// MaxPayload bounds the payload before it is sealed, so that its base64
	// fits into one frame.
	MaxPayload = 44 << 10
	// MaxEndorsements bounds the certificates and lists that come with a report.
	MaxEndorsements = 8
	// MaxHeaders bounds the header records in one payload: a rotation has four,
	// the header area before and after it and one for each header copy between.
	MaxHeaders = 4
	// MaxSecrets bounds the further named secrets in one payload.
	MaxSecrets = 64
	// MaxSecretName bounds a secret's name, in bytes.
	MaxSecretName = 128

	// ExchangeTimeout bounds begin to release; the nonce lives no longer.
	ExchangeTimeout = 10 * time.Second
	// OutcomeTimeout bounds the wait for the outcome on the same connection.
	// A guest that needs longer reports on a later one.
	OutcomeTimeout = 30 * time.Second
	// MaxLater bounds the seconds that a later answer may ask for.
	MaxLater = 300
)

// Domain strings: each begins one hash or MAC, and no two may be equal. A test
// keeps the table closed.
const (
	domainLaunch  = "attestbox/launch/1"
	domainOutcome = "attestbox/outcome/1"
	domainPayload = "attestbox/payload/1"
	domainLearnID = "attestbox/learn-id/1"
	domainCertify = "attestbox/certify/1"
	domainAttestd = "attestbox/attestd/1"
	domainPolicy  = "attestbox/policy/1"
	domainClaim   = "attestbox/claim/1"

	domainAttestdSign = "attestbox/attestd/sign/1"
	domainAttestdKey  = "attestbox/attestd/key/1"
	domainAttestdSeal = "attestbox/attestd/seal/1"

	domainAttestdCertify = "attestbox/attestd/certify/1"
	domainAttestdProgram = "attestbox/attestd/program/1"

	domainMaintain = "attestbox/maintain/1"
	domainKeep     = "attestbox/maintain/keep/1"

	domainBundle     = "attestbox/bundle/1"
	domainBundleSign = "attestbox/bundle/sign/1"
	domainApprove    = "attestbox/bundle/approve/1"

	exporterBundle   = "EXPORTER-attestbox-bundle-1"
	exporterMaintain = "EXPORTER-attestbox-maintain-1"
	exporterLaunch   = "EXPORTER-attestbox-launch-1"
	exporterCertify  = "EXPORTER-attestbox-certify-1"
)

func domains() []string {
	return []string{domainLaunch, domainOutcome, domainPayload, domainLearnID, domainCertify, domainAttestd, domainPolicy, domainClaim,
		domainAttestdSign, domainAttestdKey, domainAttestdSeal, domainAttestdCertify, domainAttestdProgram,
		domainMaintain, domainKeep, domainBundle, domainBundleSign, domainApprove,
		exporterLaunch, exporterCertify, exporterMaintain, exporterBundle}
}
