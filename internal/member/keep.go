package member

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"attestbox/internal/client"
	"attestbox/internal/cryptstore"
	"attestbox/internal/floor"
	"attestbox/internal/secret"
	"attestbox/internal/strictjson"
)

// keep writes what certify got: the key if it is new, floor and proof, and the
// certificate last, since it is what makes the rest count. Cut off anywhere,
// the certificate of before is still the one in use.
func (m *Member) keep(ctx context.Context, a *client.Admitted, fresh crypto.Signer) error {
	f := floor.Floor{Time: a.Time, MinPolicyVersion: a.MinPolicyVersion}
	if err := m.learn(f); err != nil {
		return err
	}
	if fresh != nil {
		if err := m.putKey(ctx, tagKey, fresh, false); err != nil {
			return fmt.Errorf("keeping the authentication key: %w", err)
		}
	}
	kept, err := m.keptFloor(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(kept.Max(f))
	if err != nil {
		return err
	}
	for _, e := range []struct {
		tag   string
		typ   cryptstore.Type
		value []byte
	}{
		{tagFloor, cryptstore.Blob, text},
		{tagProof, cryptstore.Blob, []byte(a.Proof)},
		{tagChain, cryptstore.X509Chain, bytes.Join(a.Chain, nil)},
	} {
		if len(e.value) == 0 {
			continue
		}
		if err := m.put(ctx, e.tag, e.typ, e.value); err != nil {
			return fmt.Errorf("keeping %s: %w", e.tag, err)
		}
	}
	if err := m.forget(ctx); err != nil {
		return err
	}
	// The share last: with it the next start takes the store for this boot's.
	if err := m.writeEpoch(ctx); err != nil {
		return err
	}
	return m.writeShare(a.StoreSecret)
}

func (m *Member) put(ctx context.Context, tag string, t cryptstore.Type, value []byte) error {
	v := secret.Copy(value)
	defer v.Zero()
	_, err := m.cs.Put(ctx, cryptstore.Item{Tag: tag, Type: t, Exportable: t != cryptstore.PrivateKey, Value: v})
	return err
}

// putKey moves a new private key into the store.
func (m *Member) putKey(ctx context.Context, tag string, key crypto.Signer, exportable bool) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	v := secret.Take(der)
	defer v.Zero()
	_, err = m.cs.Put(ctx, cryptstore.Item{Tag: tag, Type: cryptstore.PrivateKey, Exportable: exportable, Value: v})
	if ed, ok := key.(ed25519.PrivateKey); ok && err == nil {
		clear(ed)
	}
	return err
}

// forget removes the versions of our own entries that a newer one has replaced.
func (m *Member) forget(ctx context.Context) error {
	all, err := m.cs.List(ctx)
	if err != nil {
		return err
	}
	latest := map[string]int{}
	for _, e := range all {
		latest[e.Tag+"\x00"+e.Type.String()] = e.Version
	}
	for _, e := range all {
		ours := strings.HasPrefix(e.Tag, "admission/") || strings.HasPrefix(e.Tag, tagSecond)
		if !ours || e.Version == latest[e.Tag+"\x00"+e.Type.String()] {
			continue
		}
		if err := m.cs.Delete(ctx, e.Tag, e.Type, e.Version); err != nil && !errors.Is(err, cryptstore.ErrNotFound) {
			return fmt.Errorf("removing an old version: %w", err)
		}
	}
	return nil
}

func (m *Member) writeShare(share *secret.Bytes) error {
	if old, err := m.share(); err == nil {
		same := old.Equal(share)
		old.Zero()
		if same {
			return nil
		}
	}
	if err := renameio.WriteFile(filepath.Join(m.RunDir, shareFile), share.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keeping the store's share: %w", err)
	}
	return nil
}

func (m *Member) keptFloor(ctx context.Context) (floor.Floor, error) {
	var f floor.Floor
	b, _, err := m.cs.Get(ctx, tagFloor, cryptstore.Blob, 0)
	if errors.Is(err, cryptstore.ErrNotFound) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer b.Zero()
	return f, strictjson.Unmarshal(b.Bytes(), &f)
}
