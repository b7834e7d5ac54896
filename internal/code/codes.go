package code

// The codes, grouped by who reports them.
const (
	// any applet
	Usage        Code = "usage"
	Failed       Code = "failed"
	NotTmpfs     Code = "not-tmpfs"
	ConfigBad    Code = "config-bad"
	PlatformNone Code = "platform-none"
	KeySocket    Code = "key-socket"

	// the launch protocol, seen by the guest
	LaunchRefused   Code = "launch-refused"
	LaunchMalformed Code = "launch-malformed"
	LaunchVersion   Code = "launch-version"
	LaunchLater     Code = "launch-later"
	BundleRefused   Code = "bundle-refused"
	Unreachable     Code = "unreachable"
	PinMismatch     Code = "pin-mismatch"
	IDZero          Code = "id-zero"
	HostDataSet     Code = "host-data-set"
	ServerUntrusted Code = "server-untrusted"

	// certify, keys and tunnels, seen by a member of the domain
	AdmissionRefused Code = "admission-refused"
	CertifyAnswer    Code = "certify-answer"
	NotCertified     Code = "not-certified"
	TunnelPeer       Code = "tunnel-peer"

	// disks
	LUKSRecord       Code = "luks-record"
	LUKSRead         Code = "luks-read"
	LUKSHeaderDigest Code = "luks-header-digest"
	LUKSTruncated    Code = "luks-truncated"
	LUKSMagic        Code = "luks-magic"
	LUKSVersion      Code = "luks-version"
	LUKSHeaderSize   Code = "luks-header-size"
	LUKSHeaderOffset Code = "luks-header-offset"
	LUKSPadding      Code = "luks-padding"
	LUKSChecksum     Code = "luks-checksum"
	LUKSUUID         Code = "luks-uuid"
	LUKSSecondary    Code = "luks-secondary"
	LUKSJSON         Code = "luks-json"
	LUKSObjects      Code = "luks-objects"
	LUKSReference    Code = "luks-reference"
	LUKSTokens       Code = "luks-tokens"
	LUKSRequirements Code = "luks-requirements"
	LUKSReencrypt    Code = "luks-reencrypt"
	LUKSKeyslot      Code = "luks-keyslot"
	LUKSAF           Code = "luks-af"
	LUKSArea         Code = "luks-area"
	LUKSAreaBounds   Code = "luks-area-bounds"
	LUKSKDF          Code = "luks-kdf"
	LUKSKDFCost      Code = "luks-kdf-cost"
	LUKSKeyDigest    Code = "luks-key-digest"
	LUKSSegment      Code = "luks-segment"
	LUKSCipher       Code = "luks-cipher"
	LUKSSectorSize   Code = "luks-sector-size"
	LUKSIntegrity    Code = "luks-integrity"
	LUKSGeometry     Code = "luks-geometry"
	LUKSWrongKey     Code = "luks-wrong-key"

	LUKSSuperblock      Code = "luks-superblock"
	LUKSSuperblockFlags Code = "luks-superblock-flags"
	LUKSSuperblockTag   Code = "luks-superblock-tag"
	LUKSSuperblockSize  Code = "luks-superblock-size"

	VolumeExists     Code = "volume-exists"
	VolumeDevice     Code = "volume-device"
	VolumeUnknown    Code = "volume-unknown"
	VolumeUnfinished Code = "volume-unfinished"
	VolumeMount      Code = "volume-mount"

	DMUnavailable Code = "dm-unavailable"
	DMTable       Code = "dm-table"

	VerityRecord    Code = "verity-record"
	VerityRootHash  Code = "verity-root-hash"
	VerityTruncated Code = "verity-truncated"

	// bundles
	BundleMalformed Code = "bundle-malformed"
	BundleSignature Code = "bundle-signature"
	BundleVersion   Code = "bundle-version"

	// attestd
	AttestdBusy       Code = "attestd-busy"
	AttestdCaller     Code = "attestd-caller"
	AttestdMalformed  Code = "attestd-malformed"
	AttestdNoIdentity Code = "attestd-no-identity"
	AttestdServer     Code = "attestd-server"
	AttestdUnmeasured Code = "attestd-unmeasured"
	AttestdUnseal     Code = "attestd-unseal"

	// launch digests
	MeasureDiffers  Code = "measure-differs"
	MeasureFirmware Code = "measure-firmware"
	MeasureIGVM     Code = "measure-igvm"
	MeasureNoHashes Code = "measure-no-kernel-hashes"

	// init
	BootBundle    Code = "boot-bundle"
	BootCounter   Code = "boot-counter"
	BootInstance  Code = "boot-instance"
	BootMedia     Code = "boot-media"
	BootModule    Code = "boot-module"
	BootMount     Code = "boot-mount"
	BootNetwork   Code = "boot-network"
	BootOverride  Code = "boot-override"
	BootParameter Code = "boot-parameter"
	BootProgram   Code = "boot-program"
	BootRandom    Code = "boot-random"
	BootRelease   Code = "boot-release"
	BootRollback  Code = "boot-rollback"
	BootStage     Code = "boot-stage"
	BootSwitch    Code = "boot-switch"
	BootTimeout   Code = "boot-timeout"
	OutcomeUnsent Code = "outcome-unsent"

	// images
	ImageCmdline    Code = "image-cmdline"
	IDBlock         Code = "id-block"
	ImageDigest     Code = "image-digest"
	ImageInput      Code = "image-input"
	ImageModule     Code = "image-module"
	ImagePrivateKey Code = "image-private-key"
	ImageRebuild    Code = "image-rebuild"
	ImageRefused    Code = "image-refused"

	// appraisal of SNP evidence, seen on the verifier's side only
	AppraisalPolicy     Code = "appraisal-policy"
	ChipNotAllowed      Code = "chip-not-allowed"
	CRLBad              Code = "crl-bad"
	GuestDebug          Code = "guest-debug"
	GuestIDBlock        Code = "guest-id-block"
	GuestMigratable     Code = "guest-migratable"
	GuestPolicy         Code = "guest-policy"
	GuestVMPL           Code = "guest-vmpl"
	HostDataMismatch    Code = "host-data-mismatch"
	MeasurementUnknown  Code = "measurement-unknown"
	PlatformAliasCheck  Code = "platform-alias-check"
	PlatformInfo        Code = "platform-info"
	PlatformMitigations Code = "platform-mitigations"
	ProductNotAllowed   Code = "product-not-allowed"
	ReportDataMismatch  Code = "report-data-mismatch"
	ReportMalformed     Code = "report-malformed"
	ReportMasked        Code = "report-masked"
	ReportProduct       Code = "report-product"
	ReportSignature     Code = "report-signature"
	ReportVersion       Code = "report-version"
	TCBFloor            Code = "tcb-floor"
	VEKChain            Code = "vek-chain"
	VEKChip             Code = "vek-chip"
	VEKCSP              Code = "vek-csp"
	VEKExtension        Code = "vek-extension"
	VEKKind             Code = "vek-kind"
	VEKRevoked          Code = "vek-revoked"
	VEKRoot             Code = "vek-root"
	VEKTCB              Code = "vek-tcb"
	VEKValidity         Code = "vek-validity"

	// cryptstore and sealing
	CryptstoreExport        Code = "cryptstore-export"
	CryptstoreNoEntry       Code = "cryptstore-no-entry"
	CryptstoreNotExportable Code = "cryptstore-not-exportable"
	CryptstoreRecovery      Code = "cryptstore-recovery"
	CryptstoreRollback      Code = "cryptstore-rollback"
	CryptstoreSealed        Code = "cryptstore-sealed"
	CryptstoreTampered      Code = "cryptstore-tampered"
	EnclaveKey              Code = "enclave-key"

	// the verifier, in its log and on its command line
	BackupMalformed        Code = "backup-malformed"
	BackupRecipient        Code = "backup-recipient"
	BootNotCurrent         Code = "boot-not-current"
	BootOutcome            Code = "boot-outcome"
	BootQuarantined        Code = "boot-quarantined"
	BootSpent              Code = "boot-spent"
	BootTooOften           Code = "boot-too-often"
	CollateralMissing      Code = "collateral-missing"
	InstanceDecommissioned Code = "instance-decommissioned"
	InstanceExists         Code = "instance-exists"
	InstanceUnknown        Code = "instance-unknown"
	InstanceSource         Code = "instance-source"
	BundleFloor            Code = "bundle-floor"
	BundleSecond           Code = "bundle-second"
	BundleUnapproved       Code = "bundle-unapproved"
	BundleUnexpected       Code = "bundle-unexpected"
	MaintainHeaders        Code = "maintain-headers"
	MaintainNominate       Code = "maintain-nominate"
	MaintainRefused        Code = "maintain-refused"
	MaintainRotation       Code = "maintain-rotation"
	LaunchDiffers          Code = "launch-differs"
	MeasurementIncomplete  Code = "measurement-incomplete"
	MeasurementRenewed     Code = "measurement-renewed"
	PlatformRefused        Code = "platform-refused"
	SealKey                Code = "seal-key"
	StateLocked            Code = "state-locked"
	VerifierBusy           Code = "verifier-busy"
	AuditBroken            Code = "audit-broken"

	// admission certificates
	AdmissionBad           Code = "admission-bad"
	AdmissionPolicyVersion Code = "admission-policy-version"
	AdmissionRevoked       Code = "admission-revoked"
	AdmissionRole          Code = "admission-role"
	AdmissionValidity      Code = "admission-validity"

	// certify and keys, on the server's side; clients learn certify-refused
	// and the codes of secrets
	CertifyRefused  Code = "certify-refused"
	CertifyRequest  Code = "certify-request"
	DomainUnknown   Code = "domain-unknown"
	EnclaveEvidence Code = "enclave-evidence"
	ProgramEvidence Code = "program-evidence"
	SecretExists    Code = "secret-exists"
	SecretInvalid   Code = "secret-invalid"
	SecretRefused   Code = "secret-refused"
	SecretUnknown   Code = "secret-unknown"

	// a domain's policy: claims and proofs
	ClaimExpired     Code = "claim-expired"
	ClaimMalformed   Code = "claim-malformed"
	ClaimRevoked     Code = "claim-revoked"
	ClaimScope       Code = "claim-scope"
	ClaimSignature   Code = "claim-signature"
	ClaimUndelegated Code = "claim-undelegated"
	PolicyKey        Code = "policy-key"
	PolicyMalformed  Code = "policy-malformed"
	PolicyMixedRoots Code = "policy-mixed-roots"
	PolicyRollback   Code = "policy-rollback"
	PolicySignature  Code = "policy-signature"
	ProofAttester    Code = "proof-attester"
	ProofMeasurement Code = "proof-measurement"
	ProofPlatform    Code = "proof-platform"
	ProofRole        Code = "proof-role"
)

// table gives each code its one-line meaning.
var table = map[Code]string{
	Usage:        "the command line is wrong",
	Failed:       "something failed that has no code of its own",
	NotTmpfs:     "a secret was to be written to a file system that is not tmpfs or ramfs",
	ConfigBad:    "a configuration file is malformed or names an unknown key",
	PlatformNone: "no attestation device was found",
	KeySocket:    "the disk key was not given over the key socket",

	LaunchRefused:   "the verifier refused to release anything to this VM",
	LaunchMalformed: "a protocol message was malformed, too large or out of order",
	LaunchVersion:   "client and verifier speak different versions of the protocol",
	BundleMalformed: "a file or disk holds no bundle of the known format",
	BundleSignature: "a bundle is not signed by the owner's key, or was changed since",
	BundleVersion:   "a bundle is older than the image allows, has another name, or is outside its dates",
	BundleRefused:   "the verifier does not let this VM start this bundle",
	LaunchLater:     "the verifier asks to come back later",
	Unreachable:     "no verifier could be reached in time",
	PinMismatch:     "the verifier's key is not the one that the image pins",
	HostDataSet:     "HOST_DATA is set, and the image brings its instance ID",
	IDZero:          "the report's HOST_DATA holds no instance ID",
	ServerUntrusted: "policy does not trust the server's key for the role that it was asked in",

	AdmissionRefused: "the peer does not accept this machine's admission certificate",
	CertifyAnswer:    "the certificate that the policy server gave is not the one that was asked for",
	NotCertified:     "this machine holds no admission certificate that it can use",
	TunnelPeer:       "the other end of a tunnel is not one that -peer allows",

	LUKSRecord:       "the registered header record is malformed or asks for something unsupported",
	LUKSRead:         "the LUKS header could not be read from the device",
	LUKSHeaderDigest: "the LUKS header on the device is not the registered one",
	LUKSTruncated:    "the device or file ends inside the LUKS header area",
	LUKSMagic:        "the device does not begin with a LUKS2 header",
	LUKSVersion:      "the LUKS header's version is not 2",
	LUKSHeaderSize:   "the LUKS header's size is not one that LUKS2 allows",
	LUKSHeaderOffset: "the LUKS header names another place than where it was found",
	LUKSPadding:      "bytes of the LUKS header that must be zero are not",
	LUKSChecksum:     "the LUKS header's own checksum is wrong or not SHA-256",
	LUKSUUID:         "the LUKS header's UUID is malformed or not the registered one",
	LUKSSecondary:    "the secondary LUKS header is not a copy of the primary one",
	LUKSJSON:         "the LUKS metadata is not strict JSON or has fields that are not known",
	LUKSObjects:      "the LUKS metadata does not hold exactly one keyslot, one segment and one digest",
	LUKSReference:    "keyslot, segment and digest do not refer to each other",
	LUKSTokens:       "the LUKS metadata holds a token",
	LUKSRequirements: "the LUKS metadata holds flags or requirements",
	LUKSReencrypt:    "the LUKS metadata describes a re-encryption",
	LUKSKeyslot:      "the keyslot has another type, priority or key size than allowed",
	LUKSAF:           "the keyslot's anti-forensic splitter is not luks1, 4000 stripes, SHA-256",
	LUKSArea:         "the keyslot's area is not raw, aes-xts-plain64, 64 bytes",
	LUKSAreaBounds:   "the keyslot's area lies outside the keyslot area of the disk",
	LUKSKDF:          "the keyslot's key derivation is not pbkdf2-sha256 or argon2id with a 32-byte salt",
	LUKSKDFCost:      "the keyslot's key derivation costs more or less than allowed",
	LUKSKeyDigest:    "the volume key's digest is not pbkdf2-sha256 with 32-byte salt and digest",
	LUKSSegment:      "the data segment is not the whole rest of the device",
	LUKSCipher:       "the data segment's cipher is not the registered one",
	LUKSSectorSize:   "the data segment's sector size is not the registered one",
	LUKSIntegrity:    "the data segment's integrity is not the registered one",
	LUKSGeometry:     "the LUKS header's sizes and offsets do not fit together or differ from the registered ones",
	LUKSWrongKey:     "the key does not open this disk",

	LUKSSuperblock:      "dm-integrity's superblock is not one that this program or cryptsetup writes",
	LUKSSuperblockFlags: "dm-integrity's superblock has flags that are not allowed",
	LUKSSuperblockTag:   "dm-integrity's superblock names another size of tags or blocks than the record's integrity has",
	LUKSSuperblockSize:  "dm-integrity's superblock names other sizes than the device gives",

	VolumeExists:     "the store promises a volume of that name already",
	VolumeDevice:     "the device for a new volume is not blank",
	VolumeUnknown:    "the store has no volume of that name",
	VolumeUnfinished: "the volume was promised and never finished",
	VolumeMount:      "the volume's file system could not be made or mounted",

	DMUnavailable: "the kernel's device-mapper could not be used",
	DMTable:       "the kernel's mapping is not the one that was asked for",

	VerityRecord:    "the description of a verity root is malformed",
	VerityRootHash:  "the read-only root is not the one that the image was measured with",
	VerityTruncated: "the device of the read-only root ends before its data and hash tree",

	BootBundle:    "a signed bundle could not be read, or not be started",
	BootCounter:   "the boot counter in the volume is malformed or could not be written",
	BootInstance:  "the volume belongs to another instance",
	BootMedia:     "a disk that the image's configuration names did not appear",
	BootModule:    "a kernel module of the image could not be loaded",
	BootMount:     "a file system could not be mounted, or is not the one that was opened",
	BootNetwork:   "the network could not be brought up",
	BootOverride:  "the kernel command line says something that only the measured configuration may say",
	BootParameter: "the kernel command line lacks a required parameter",
	BootProgram:   "a required program could not be started or failed",
	BootRandom:    "the kernel's random number generator did not become ready",
	BootRelease:   "the release does not hold what this image needs",
	BootRollback:  "the volume is an older copy, or the verifier's state is",
	BootStage:     "the scripts of a distribution's initramfs did not run as they should",
	BootSwitch:    "the real system could not be started",
	BootTimeout:   "the boot took longer than the image's configuration allows",
	OutcomeUnsent: "the verifier did not acknowledge the outcome of this boot",

	ImageCmdline:    "the image's kernel command line is one that init or the guest's safety rules refuse",
	IDBlock:         "an ID block is malformed, not signed as it must be, or not one for this launch",
	ImageDigest:     "an image's files or its launch digest are not what its record says",
	ImageInput:      "an input by which an image could be built again was not found",
	ImageModule:     "a kernel module that the image needs is missing",
	ImagePrivateKey: "an input of the image is or holds a private key",
	ImageRebuild:    "an image built again from its inputs is not the recorded one",
	ImageRefused:    "an input has no place in an image",

	AttestdBusy:       "attestd has too much to do, or this user asks too often",
	AttestdCaller:     "attestd cannot tell which program asks",
	AttestdMalformed:  "a message to or from attestd does not follow its protocol",
	AttestdNoIdentity: "attestd has no store or no valid certificate, so it can neither seal nor sign",
	AttestdServer:     "what listens on attestd's socket is not run by root",
	AttestdUnmeasured: "the calling program is not measured and may only attest",
	AttestdUnseal:     "sealed data does not open for this program, user and context",

	MeasureDiffers:  "the report's launch digest is not that of the launch described",
	MeasureFirmware: "the firmware image is malformed or has no SEV metadata, so that no launch digest exists",
	MeasureIGVM:     "the IGVM file is malformed, is not for SEV-SNP, or may be loaded in more than one way",
	MeasureNoHashes: "the firmware cannot hash a kernel, so that a launch digest would not cover it",

	AppraisalPolicy:     "the appraisal policy is malformed, contradicts itself or lacks what it must say",
	ChipNotAllowed:      "the report comes from a chip that policy does not list",
	CRLBad:              "the revocation list is missing, stale, malformed or not signed by the root",
	GuestDebug:          "the guest was launched with debugging allowed",
	GuestIDBlock:        "FAMILY_ID, IMAGE_ID, GUEST_SVN or a key digest of the ID block is not what policy names",
	GuestMigratable:     "the guest was launched with a migration agent allowed",
	GuestPolicy:         "the guest policy of the launch is not the one that policy asks for",
	GuestVMPL:           "the report was asked for from a privilege level that policy does not accept",
	HostDataMismatch:    "HOST_DATA is not the instance ID that was claimed",
	MeasurementUnknown:  "the launch digest is not one that policy trusts",
	PlatformAliasCheck:  "the platform did not complete its check for memory aliases",
	PlatformInfo:        "PLATFORM_INFO has unknown bits, or bits that policy does not accept",
	PlatformMitigations: "mitigations that policy asks for were not active",
	ProductNotAllowed:   "the report comes from a product that policy does not list",
	ReportDataMismatch:  "REPORT_DATA is not the hash of this exchange",
	ReportMalformed:     "the report has another length or form than AMD defines",
	ReportMasked:        "the host masks the chip ID, so that the report proves nothing",
	ReportProduct:       "the product that the report names is unknown or not the one asked for",
	ReportSignature:     "the signature of the report is wrong",
	ReportVersion:       "the version of the report is not accepted",
	TCBFloor:            "firmware or microcode of the platform is older than policy asks for",
	VEKChain:            "the certificates of the signing key do not form a valid chain",
	VEKChip:             "the certificate belongs to another chip than the report",
	VEKCSP:              "the VLEK belongs to a provider that policy does not name",
	VEKExtension:        "the certificate of the signing key lacks or garbles one of AMD's extensions",
	VEKKind:             "the report was signed with another kind of key than accepted",
	VEKRevoked:          "a certificate of the chain is revoked",
	VEKRoot:             "the chain does not end in a trusted root of the product",
	VEKTCB:              "the certificate belongs to another TCB than the report",
	VEKValidity:         "a certificate of the chain is not valid at this time",

	CryptstoreExport:        "an exported entry was changed, is for another recipient or is none",
	CryptstoreNoEntry:       "the cryptstore has no such entry, or not that version of it",
	CryptstoreNotExportable: "the entry may be used on this machine and not be given out",
	CryptstoreRecovery:      "the escrow copy does not give this VM the store key",
	CryptstoreRollback:      "the cryptstore is older than what was seen or acknowledged",
	CryptstoreSealed:        "the cryptstore does not open here: another image, chip, instance, policy or key sealed it",
	CryptstoreTampered:      "the cryptstore was changed or damaged",
	EnclaveKey:              "the simulated enclave's platform key is missing, unreadable for others or malformed",

	AuditBroken:            "the audit log is not what was written",
	BackupMalformed:        "the backup was changed, cut or is not one",
	BackupRecipient:        "the backup was made for another recipient key",
	BootNotCurrent:         "another boot of the instance is current, or this one did not report that it opened its disk",
	BootOutcome:            "an outcome does not belong to the instance's current boot",
	BootQuarantined:        "another boot of the instance is pending or alive, and the instance is set to quarantine",
	BootSpent:              "this boot was already released its secrets and is over, or another boot took over",
	BootTooOften:           "this boot asked for its release more often than allowed",
	CollateralMissing:      "no certificate is at hand for the key that signed the report",
	InstanceDecommissioned: "the instance is decommissioned, and its ID is refused for good",
	InstanceExists:         "an instance with this ID exists already",
	InstanceSource:         "the image does not have its instance ID from where the instance's record says",
	InstanceUnknown:        "no instance with this ID is registered",
	BundleFloor:            "the version of the bundle is below the instance's floor",
	BundleSecond:           "another bundle was approved for this boot",
	BundleUnapproved:       "the instance starts from bundles, and this boot had none approved",
	BundleUnexpected:       "a bundle was named for an instance that has no bundle floor",
	LaunchDiffers:          "a launch that is asked for is not the one that was measured",
	MaintainHeaders:        "header records that a running VM asked to register are not acceptable",
	MaintainNominate:       "a launch digest that a running VM nominated is not acceptable",
	MaintainRefused:        "the verifier refused to maintain anything for this VM",
	MaintainRotation:       "the disk key of this VM may not be changed now, or not by the VM",
	MeasurementRenewed:     "the instance was seen as an image that renews this one, and does not go back",
	MeasurementIncomplete:  "nothing shows that the launch digest covers kernel, initramfs and command line",
	PlatformRefused:        "evidence of this platform is not accepted",
	SealKey:                "the seal key does not open the verifier's state, or must not lie where it does",
	StateLocked:            "another process works on the verifier's state",
	VerifierBusy:           "the verifier has too much to do, or this instance asks too often",

	AdmissionBad:           "a peer's certificate is not an admission certificate of this domain",
	AdmissionPolicyVersion: "an admission certificate was made under a policy that is no longer accepted",
	AdmissionRevoked:       "the domain's policy takes this admission back",
	AdmissionRole:          "the peer's admission certificate does not grant the role that is needed",
	AdmissionValidity:      "an admission certificate is not valid at this time",

	ClaimExpired:     "a claim that would be enough is not in force at this time",
	ClaimMalformed:   "a claim that travels alone has another form than the language has",
	ClaimRevoked:     "the policy revokes a measurement, key, chip, claim or certificate that is needed",
	ClaimScope:       "a claim says something else than what it is used for",
	ClaimSignature:   "a claim's signature is wrong, or another key made it",
	ClaimUndelegated: "a claim is signed by a key that the policy does not let say it",
	PolicyKey:        "the policy key cannot be used: wrong passphrase or recipient key, or it is not this policy's",
	PolicyMalformed:  "a policy file is not in the language, or has drafts where it must not",
	PolicyMixedRoots: "a policy trusts an AMD root and another hardware root beside it",
	PolicyRollback:   "a policy is older than one that was in force",
	PolicySignature:  "a policy's signature is wrong, or another key made it",
	ProofAttester:    "the policy does not trust the key or root that attests, or not for this platform or measurement",
	ProofMeasurement: "the policy does not trust the measurement",
	ProofPlatform:    "the platform lacks a property that the policy requires",
	ProofRole:        "the policy does not grant the role",

	CertifyRefused:  "the policy server refused to admit this machine to the domain",
	CertifyRequest:  "a certification request is malformed, or its key is of a kind that is not certified",
	DomainUnknown:   "the server does not serve the domain that was asked for",
	EnclaveEvidence: "the evidence of a simulated enclave is malformed or wrongly signed",
	ProgramEvidence: "the evidence about a program is malformed, stale or wrongly signed",
	SecretExists:    "this version of the secret exists already, or a higher one did",
	SecretInvalid:   "the key server does not keep such a secret, or cannot do this with it",
	SecretRefused:   "no claim of the policy lets this machine do that with this secret",
	SecretUnknown:   "there is no secret of this name, or not in this version",
}
