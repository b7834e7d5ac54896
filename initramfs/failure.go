package initramfs

import (
	"errors"
	"strings"
	"syscall"

	"attestbox/internal/code"
	"attestbox/internal/wire"
)

// hints say what the owner can do about a failure that only he can mend.
var hints = map[code.Code]string{
	code.BootOverride:     "take the word off the kernel command line and measure the image again; see docs/init.md",
	code.BootParameter:    "mkimage build puts the required words on the command line; see docs/init.md",
	code.BootRollback:     "if you restored this disk, say so with 'verifier instance accept-rollback'; if not, the host did: treat it as an attack",
	code.BundleRefused:    "run 'verifier explain' with the exchange where the verifier runs",
	code.BundleVersion:    "the host attached a bundle that this image does not start, an old one perhaps",
	code.BootMedia:        "check the disk that the host gives to this VM, and the image's modules",
	code.BootModule:       "build the image again with the modules of this kernel",
	code.BootNetwork:      "check the host's network or DHCP server, or use attestbox.net",
	code.LaunchRefused:    "run 'verifier explain' with the exchange where the verifier runs",
	code.LUKSHeaderDigest: "the disk is not the one that was registered for this instance; see 'verifier instance show'",
	code.PlatformNone:     "this VM was not started as a SEV-SNP guest, or the image lacks the sev-guest module",
	code.Unreachable:      "check that the verifier runs and that the host lets this VM reach it",
	code.PinMismatch:      "something else answers at the verifier's address, or the image pins an old key",
	code.OutcomeUnsent:    "the verifier was lost after the disk was opened; start the VM again",
}

// failureLine is the one line of a failed boot, and its hint.
func (in *Init) failureLine(err error) {
	text := strings.TrimRight(err.Error(), "\n.")
	if a, ok := errors.AsType[*wire.AnswerError](err); ok {
		// Its code and exchange follow below.
		short := "the verifier refused"
		if a.Seconds > 0 {
			short = "the verifier asks to come back later"
		}
		text = strings.Replace(text, a.Error(), short, 1)
	}
	if c, ok := code.Of(err); ok {
		text += " [" + string(c) + "]"
	}
	if e := in.exchange(err); e != "" {
		text += " (exchange " + e + ")"
	}
	in.log.line("boot failed: %s", text)
	c, ok := code.Of(err)
	switch {
	case hints[c] != "":
		in.log.line("hint: %s", hints[c])
	case ok:
		in.log.line("hint: run 'attestbox explain %s'", c)
	}
}

func (in *Init) exchange(err error) string {
	if a, ok := errors.AsType[*wire.AnswerError](err); ok {
		return a.Exchange.String()
	}
	if in.rel != nil {
		return in.rel.exchange
	}
	return ""
}

// debugShell runs the shell of a debug image. It is reached only where the
// image itself holds the file debugFile.
func (in *Init) debugShell() {
	in.log.line("DEBUG IMAGE: starting /bin/sh; leave it to power off")
	r, ok := in.runner.(*reaper)
	if !ok {
		r = newReaper()
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: cleanEnv(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}}
	_, end, err := r.fork([]string{"/bin/sh"}, attr)
	if err != nil {
		in.log.line("/bin/sh: %v", err)
		return
	}
	in.log.line("/bin/sh %s", <-end)
}
