package sevguest

import (
	"context"
	"fmt"

	"github.com/google/go-sev-guest/client/linuxabi"

	"attestbox/internal/code"
	"attestbox/internal/platform"
	"attestbox/internal/secret"
)

var (
	_ platform.KeyDeriver = (*device)(nil)
	_ platform.KeyDeriver = (*tsm)(nil)
)

// DeriveKey asks by SNP_GET_DERIVED_KEY. An answer with a status other than 0
// is platform.ErrKeyRefused; a failed request is not.
func (d *device) DeriveKey(ctx context.Context, q platform.KeyRequest) (*secret.Bytes, error) {
	req := &linuxabi.SnpDerivedKeyReqABI{
		RootKeySelect: q.RootKeySelect, GuestFieldSelect: q.FieldSelect, Vmpl: q.VMPL, GuestSVN: q.GuestSVN, TCBVersion: q.TCBVersion,
	}
	resp := new(linuxabi.SnpDerivedKeyRespABI)
	defer clear(resp.Data[:])
	_, err := d.ioctl(ctx, linuxabi.IocSnpGetDerivedKey, req, resp)
	switch {
	case resp.Status != 0:
		return nil, fmt.Errorf("SNP_GET_DERIVED_KEY: %w: status %#x", platform.ErrKeyRefused, resp.Status)
	case err != nil:
		return nil, fmt.Errorf("SNP_GET_DERIVED_KEY: %w", err)
	case resp.Data == [32]byte{}:
		return nil, fmt.Errorf("SNP_GET_DERIVED_KEY: the key is all zeros")
	}
	return secret.Take(resp.Data[:]), nil
}

// DeriveKey goes to /dev/sev-guest: configfs-tsm has reports only.
func (t *tsm) DeriveKey(ctx context.Context, q platform.KeyRequest) (*secret.Bytes, error) {
	p, err := openDevice(DevicePath)
	if err != nil {
		return nil, code.Wrap(code.PlatformNone, fmt.Errorf("derived keys need the sev-guest device: %w", err))
	}
	defer p.Close()
	return p.(*device).DeriveKey(ctx, q)
}
