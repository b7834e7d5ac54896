package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"attestbox/initramfs/config"
)

// ErrCmdline is a command line that an image must not have.
var ErrCmdline = errors.New("kernel command line refused")

// required are the parameters that must be on the measured command line
// (DESIGN section 10), with the reason.
var required = map[string]string{
	"init_on_free":             "freed memory keeps secrets",
	"sysctl.kernel.sysrq":      "the host can send SysRq over the serial line",
	"panic":                    "a panic has to end the machine",
	"noresume":                 "a hibernation image would come from the host",
	"rng_core.default_quality": "a generator that the host feeds must not count as entropy",

	"systemd.import_credentials": "the host would pass files, units and passwords to the real system",
	"systemd.gpt_auto":           "the real system would use partitions that the host made",
	"accept_memory":              "the bundle's kernel would be loaded into memory that the guest has not accepted",
	"efi":                        "the real system would take options from the host's EFI variables",
}

// refusedParams would undo the required ones or take the image's init away.
// What init itself refuses (config.CheckCommandLine) is refused beside these.
var refusedParams = map[string]string{
	"--":                   "what follows it would not count as kernel parameters",
	"init":                 "the configuration in the image names the real system's init",
	"initrd":               "the initramfs is the image's own",
	"kgdboc":               "the host could debug the kernel over the serial line",
	"kgdbwait":             "the host could debug the kernel over the serial line",
	"noinitrd":             "the initramfs is the image's own",
	"rdinit":               "/init is the image's own",
	"resume":               "a hibernation image would come from the host",
	"resume_offset":        "a hibernation image would come from the host",
	"sysctl.kernel.panic":  "a panic has to end the machine",
	"sysrq_always_enabled": "the host can send SysRq over the serial line",
}

// maxCmdline is COMMAND_LINE_SIZE of x86 less the NUL and what OVMF adds.
const maxCmdline = 2047 - len("initrd=initrd ")

// Cmdline adds the required parameters that appended lacks behind it, and
// refuses a command line that contradicts them, that takes the image's init
// away, that init would refuse at boot, or that the kernel would cut. It
// returns the exact bytes to boot with, without newline or NUL; white space is
// made single spaces.
func Cmdline(appended string) (string, error) {
	return completeCmdline(appended, slices.Concat(config.Required, config.Recommended))
}

// noRuntime keeps the kernel from EFI's runtime services. A kernel that has none
// hands no EFI tables to the one that it starts, which then finds neither the
// secrets page nor the CPUID page of an SNP guest (setup_efi_state in
// arch/x86/kernel/kexec-bzimage64.c). So a stage 1 goes without it; no system
// runs there that would read the host's EFI variables.
const noRuntime = "efi=noruntime"

// eagerMemory has the kernel accept all memory of an SNP guest at its start, and
// not when it is first used: before 6.15 a kernel is loaded into memory that was
// not accepted yet, and dies there (caeb8ba598f0).
const eagerMemory = "accept_memory=eager"

// Stage1Cmdline is Cmdline for a stage 1, whose kernel of this release has to be
// able to start another one.
func Stage1Cmdline(appended, release string) (string, error) {
	for _, word := range strings.Fields(appended) {
		name := strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(word), "-", "_"), "/", ".")
		switch key, _, _ := strings.Cut(name, "="); {
		case key == "efi", key == "noefi":
			return "", fmt.Errorf("%w: %q: the bundle's kernel would not find the tables of an SNP guest", ErrCmdline, word)
		case key == "sysctl.kernel.kexec_load_disabled", key == "lockdown":
			return "", fmt.Errorf("%w: %q: a stage 1 has to start the bundle's kernel", ErrCmdline, word)
		}
	}
	must := slices.DeleteFunc(slices.Concat(config.Required, config.Recommended), func(w string) bool { return w == noRuntime })
	if atLeast(release, minKexec) && !atLeast(release, goodKexec) {
		must = append(must, eagerMemory)
	}
	return completeCmdline(appended, must)
}

func completeCmdline(appended string, must []string) (string, error) {
	refuse := func(err error) (string, error) { return "", fmt.Errorf("%w: %w", ErrCmdline, err) }
	if strings.ContainsFunc(appended, func(r rune) bool { return r < ' ' || r > '~' || r == '"' }) {
		return refuse(errors.New("it holds a quotation mark, or bytes that are not printable ASCII"))
	}
	words := strings.Fields(appended)
	for _, word := range words {
		key, _, _ := strings.Cut(word, "=")
		// As the kernel compares names; a sysctl's may be written with slashes.
		if key = strings.ReplaceAll(strings.ToLower(key), "-", "_"); word == "--" {
			key = word
		} else if strings.HasPrefix(key, "sysctl") {
			key = strings.ReplaceAll(key, "/", ".")
		}
		if why, bad := refusedParams[key]; bad {
			return refuse(fmt.Errorf("%q: %s", word, why))
		}
		for _, r := range must {
			if name, _, _ := strings.Cut(r, "="); name == key && word != r {
				return refuse(fmt.Errorf("%q contradicts the required %q: %s", word, r, required[key]))
			}
		}
	}
	for _, r := range must {
		if !slices.Contains(words, r) {
			words = append(words, r)
		}
	}
	line := strings.Join(words, " ")
	if len(line) > maxCmdline {
		return refuse(fmt.Errorf("it has %d bytes, the kernel takes %d beside what OVMF adds", len(line), maxCmdline))
	}
	if _, err := config.CheckCommandLine(line); err != nil {
		return refuse(err)
	}
	return line, nil
}
