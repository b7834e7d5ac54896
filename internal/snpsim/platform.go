package snpsim

import (
	"context"
	"errors"

	"attestbox/internal/platform"
	"attestbox/internal/secret"
	"attestbox/internal/wire"
)

// Platform gives the guest's reports in this process, without QEMU: for tests
// of whatever is built on platform.Platform. The evidence carries VCEK and ASK.
func (g *Guest) Platform() platform.Platform { return simPlatform{g} }

type simPlatform struct{ g *Guest }

func (s simPlatform) Name() string { return platform.AMDSEVSNP }

func (s simPlatform) Report(ctx context.Context, reportData [64]byte) (*platform.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := s.g.Report(reportData, s.g.Config.VMPL)
	if err != nil {
		return nil, err
	}
	return &platform.Evidence{
		Platform: platform.AMDSEVSNP,
		Report:   b,
		Endorsements: []wire.Endorsement{
			{Kind: "vek", DER: s.g.psp.VCEK()},
			{Kind: "ask", DER: s.g.psp.ASK()},
		},
	}, nil
}

func (s simPlatform) Close() error { return nil }

// DeriveKey is platform.KeyDeriver's.
func (s simPlatform) DeriveKey(ctx context.Context, q platform.KeyRequest) (*secret.Bytes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := s.g.DerivedKey(KeyRequest{
		RootKeySelect: q.RootKeySelect, GuestFieldSelect: q.FieldSelect, VMPL: q.VMPL, GuestSVN: q.GuestSVN, TCBVersion: q.TCBVersion,
	})
	if err != nil {
		return nil, errors.Join(platform.ErrKeyRefused, err)
	}
	return secret.Take(key[:]), nil
}
