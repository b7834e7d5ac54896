package luks

import (
	"errors"
	"fmt"
)

// Rules about the one keyslot, the one digest and the one segment.

func (s *state) ruleKeyslot() error {
	switch k := s.slot; {
	case k.Type != "luks2":
		return fmt.Errorf("keyslot type is %q, want \"luks2\"", clip(k.Type))
	case k.KeySize != uint64(s.suite.KeyBytes):
		return fmt.Errorf("keyslot key size is %d, want %d", k.KeySize, s.suite.KeyBytes)
	case k.Priority != nil:
		return errors.New("keyslot has a priority")
	}
	return nil
}

func (s *state) ruleAF() error {
	if a := s.slot.AF; a != (af{"luks1", afStripes, "sha256"}) {
		return fmt.Errorf("anti-forensic splitter is %q with %d stripes of %q", clip(a.Type), a.Stripes, clip(a.Hash))
	}
	return nil
}

func (s *state) ruleArea() error {
	if a := s.slot.Area; a.Type != "raw" || a.Encryption != Cipher || a.KeySize != slotKeyBytes {
		return fmt.Errorf("keyslot area is %q, %q with %d bytes of key", clip(a.Type), clip(a.Encryption), a.KeySize)
	}
	return nil
}

func (s *state) ruleAreaBounds() error {
	off, err := decimal("area offset", s.slot.Area.Offset)
	if err != nil {
		return err
	}
	size, err := decimal("area size", s.slot.Area.Size)
	if err != nil {
		return err
	}
	if want := uint64(s.suite.areaSize()); size != want || off%areaAlign != 0 {
		return fmt.Errorf("keyslot area of %d bytes at %d, want %d bytes at a multiple of %d", size, off, want, areaAlign)
	}
	lo, hi := 2*s.hdrSize, 2*s.hdrSize+s.keyslotsSize
	if off < lo || off > hi-size {
		return fmt.Errorf("keyslot area at %d lies outside %d to %d", off, lo, hi)
	}
	s.areaOffset = off
	return nil
}

func (s *state) ruleKDF() (err error) {
	k := s.slot.KDF
	switch k.Type {
	case "pbkdf2":
		if k.Hash == nil || *k.Hash != "sha256" || k.Iterations == nil || k.Time != nil || k.Memory != nil || k.CPUs != nil {
			return errors.New("pbkdf2 wants hash sha256, iterations and salt, and nothing else")
		}
	case "argon2id":
		if k.Hash != nil || k.Iterations != nil || k.Time == nil || k.Memory == nil || k.CPUs == nil {
			return errors.New("argon2id wants time, memory, cpus and salt, and nothing else")
		}
	default:
		return fmt.Errorf("key derivation is %q", clip(k.Type))
	}
	s.kdfSalt, err = base64Exact("key derivation's salt", k.Salt, saltSize)
	return err
}

func within(name string, v *uint64, lo, hi uint64) error {
	if v != nil && (*v < lo || *v > hi) {
		return fmt.Errorf("%s is %d, want %d to %d", name, *v, lo, hi)
	}
	return nil
}

func (s *state) ruleKDFCost() error {
	k := s.slot.KDF
	return errors.Join(
		within("pbkdf2 iterations", k.Iterations, minIterations, maxIterations),
		within("argon2id time", k.Time, 1, maxTime),
		within("argon2id memory (KiB)", k.Memory, minMemoryKiB, s.limits.memoryKiB()),
		within("argon2id lanes", k.CPUs, 1, maxLanes),
	)
}

func (s *state) ruleKeyDigest() (err error) {
	d := s.dig
	if d.Type != "pbkdf2" || d.Hash != "sha256" {
		return fmt.Errorf("volume key digest is %q with %q", clip(d.Type), clip(d.Hash))
	}
	if err := within("volume key digest's iterations", &d.Iterations, minIterations, maxIterations); err != nil {
		return err
	}
	if s.digSalt, err = base64Exact("volume key digest's salt", d.Salt, saltSize); err != nil {
		return err
	}
	s.digValue, err = base64Exact("volume key digest", d.Digest, digestSize)
	return err
}

func (s *state) ruleSegment() error {
	if g := s.seg; g.Type != "crypt" || g.Size != "dynamic" || g.IVTweak != "0" {
		return fmt.Errorf("segment is %q of size %q with iv_tweak %q", clip(g.Type), clip(g.Size), clip(g.IVTweak))
	}
	return nil
}

func (s *state) ruleCipher() error {
	if s.seg.Encryption != s.suite.Cipher {
		return fmt.Errorf("cipher is %q, want %q", clip(s.seg.Encryption), s.suite.Cipher)
	}
	return nil
}

func (s *state) ruleSectorSize() error {
	n := s.seg.SectorSize
	if n != 512 && n != 4096 {
		return fmt.Errorf("sector size is %d, want 512 or 4096", n)
	}
	if s.want != nil && n != uint64(s.want.SectorSize) {
		return fmt.Errorf("sector size is %d, registered is %d", n, s.want.SectorSize)
	}
	return nil
}

func (s *state) ruleIntegrity() error {
	found, want := s.seg.Integrity, s.suite.header()
	switch {
	case found == nil && want == nil:
		return nil
	case want == nil:
		return fmt.Errorf("segment names integrity %q, want none", clip(found.Type))
	case found == nil:
		return fmt.Errorf("segment names no integrity, want %q", want.Type)
	case *found != *want:
		return fmt.Errorf("integrity is %q with journal encryption %q and journal integrity %q, want %q, \"none\" and \"none\"",
			clip(found.Type), clip(found.JournalEncryption), clip(found.JournalIntegrity), want.Type)
	}
	return nil
}
