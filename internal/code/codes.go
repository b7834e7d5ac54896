package code

// The codes, grouped by who reports them.
const (
	// any applet
	Usage        Code = "usage"
	Failed       Code = "failed"
	NotTmpfs     Code = "not-tmpfs"
	ConfigBad    Code = "config-bad"
	PlatformNone Code = "platform-none"

	// the launch protocol, seen by the guest
	LaunchRefused   Code = "launch-refused"
	LaunchMalformed Code = "launch-malformed"
	LaunchVersion   Code = "launch-version"
	LaunchLater     Code = "launch-later"
	Unreachable     Code = "unreachable"
	PinMismatch     Code = "pin-mismatch"
	IDZero          Code = "id-zero"
)

// table gives each code its one-line meaning.
var table = map[Code]string{
	Usage:        "the command line is wrong",
	Failed:       "something failed that has no code of its own",
	NotTmpfs:     "a secret was to be written to a file system that is not tmpfs or ramfs",
	ConfigBad:    "a configuration file is malformed or names an unknown key",
	PlatformNone: "no attestation device was found",

	LaunchRefused:   "the verifier refused to release anything to this VM",
	LaunchMalformed: "a protocol message was malformed, too large or out of order",
	LaunchVersion:   "client and verifier speak different versions of the protocol",
	LaunchLater:     "the verifier asks to come back later",
	Unreachable:     "no verifier could be reached in time",
	PinMismatch:     "the verifier's key is not the one that the image pins",
	IDZero:          "the report's HOST_DATA holds no instance ID",
}
