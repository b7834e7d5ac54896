package wire

import (
	"encoding/json"
	"errors"
	"fmt"

	"attestbox/internal/code"
	"attestbox/internal/form"
)

// MaxReport bounds a report, in bytes; an SNP report has 1184.
const MaxReport = 16 << 10

func checkCode(c code.Code) error {
	if len(c) > 64 || !form.Hyphenated(string(c)) {
		return errors.New("code is not lower case with hyphens")
	}
	return nil
}

// check is what a message must satisfy beyond its shape.
func check(m Message, body []byte) error {
	// Required fields: an absent one would read as zero.
	var present map[string]json.RawMessage
	if err := json.Unmarshal(body, &present); err != nil {
		return err
	}
	for _, f := range fields(m) {
		if _, ok := present[f]; !ok {
			return fmt.Errorf("field %q is missing", f)
		}
	}
	switch m := m.(type) {
	case interface{ check() error }:
		return m.check()
	case *Begin:
		if m.Version < 1 {
			return fmt.Errorf("version %d", m.Version)
		}
		if len(m.Key) == 0 || len(m.Key) > 4096 || len(m.Suite) > 64 {
			return fmt.Errorf("HPKE key of %d bytes, suite of %d characters", len(m.Key), len(m.Suite))
		}
	case *Evidence:
		if len(m.Report) == 0 || len(m.Report) > MaxReport {
			return fmt.Errorf("report of %d bytes", len(m.Report))
		}
		if len(m.Platform) > 64 {
			return fmt.Errorf("platform of %d characters", len(m.Platform))
		}
		if len(m.Endorsements) > MaxEndorsements {
			return fmt.Errorf("%d endorsements, at most %d", len(m.Endorsements), MaxEndorsements)
		}
		for _, e := range m.Endorsements {
			switch e.Kind {
			case "vek", "ask", "ark", "crl":
			default:
				return fmt.Errorf("endorsement of kind %.16q", e.Kind)
			}
		}
	case *Refused:
		return checkCode(m.Code)
	case *Later:
		if m.Seconds < 1 || m.Seconds > MaxLater {
			return fmt.Errorf("%d seconds, allowed are 1 to %d", m.Seconds, MaxLater)
		}
		return checkCode(m.Code)
	case *Outcome:
		switch {
		case m.Result == ResultOpened && m.Reason != "":
			return errors.New("opened, yet with a reason")
		case m.Result == ResultFailed:
			if err := checkCode(m.Reason); err != nil {
				return err
			}
		case m.Result != ResultOpened:
			return fmt.Errorf("result %.16q", m.Result)
		}
		if len(m.Headers) > MaxHeaders {
			return fmt.Errorf("%d headers, at most %d", len(m.Headers), MaxHeaders)
		}
	}
	return nil
}

func fields(m Message) []string {
	switch m.(type) {
	case *Begin:
		return []string{"type", "version", "id", "suite", "key"}
	case *Challenge:
		return []string{"type", "exchange", "nonce"}
	case *Evidence:
		return []string{"type", "platform", "report", "endorsements"}
	case *Release:
		return []string{"type", "sealed"}
	case *Refused:
		return []string{"type", "exchange", "code"}
	case *Later:
		return []string{"type", "exchange", "code", "seconds"}
	case *Outcome:
		return []string{"type", "id", "report_id", "boot", "result", "reason", "headers", "mac"}
	case *Ack:
		return []string{"type", "exchange", "boot", "time", "min_policy_version"}
	case *CertifyBegin:
		return []string{"type", "version", "domain", "role", "csr", "suite", "key", "store_epoch"}
	case *Admission:
		return []string{"type", "exchange", "chain", "proof", "sealed", "time", "min_policy_version"}
	case *KeyRequest:
		return []string{"type", "op", "name", "version", "kind", "value", "key"}
	case *KeyReply:
		return []string{"type", "exchange", "code", "name", "version", "kind", "value", "names", "time", "min_policy_version"}
	case *MaintainBegin:
		return []string{"type", "version", "id", "purpose", "suite", "key"}
	case *MaintainState:
		return []string{"type", "exchange", "headers", "has_key", "rotation", "allowed", "nominations", "time", "min_policy_version"}
	case *RegisterHeaders:
		return []string{"type", "add", "drop"}
	case *Rotate:
		return []string{"type"}
	case *RotateEnd:
		return []string{"type", "keep", "mac"}
	case *Nominate:
		return []string{"type", "digest", "kernel", "initrd", "cmdline", "source"}
	case *BundleBegin:
		return []string{"type", "version", "id", "bundle", "bundle_version"}
	case *BundleApproved:
		return []string{"type", "exchange", "bundle", "bundle_version", "time", "min_policy_version"}
	}
	return nil
}
