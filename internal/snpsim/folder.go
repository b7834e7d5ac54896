package snpsim

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"attestbox/internal/snp"
	"attestbox/internal/strictjson"
)

// Files of a chip's folder. The folder has mode 0700; keys and the chip's
// secret have 0600. They vouch for nothing outside tests, so they may lie on a
// disk.
const (
	FileChip   = "chip.json"      // product, CHIP_ID, TCBs: what State holds
	FileARK    = "ark.pem"        // the root to give to a verifier
	FileChain  = "cert_chain.pem" // ASK and ARK, as KDS serves them
	FileVCEK   = "vcek.der"       // the VCEK, as KDS serves it
	FileSecret = "chip.secret"    // 32 bytes, fused into the chip
	FileARKKey = "ark.key"        // PKCS #8, PEM
	FileASKKey = "ask.key"        // PKCS #8, PEM
)

// ErrExists is returned by Save for a folder that holds a chip already.
var ErrExists = errors.New("the folder holds a chip already")

type chipFile struct {
	Product       string  `json:"product"`
	ChipID        string  `json:"chip_id"`
	ReportVersion uint32  `json:"report_version"`
	Current       tcbFile `json:"current_tcb"`
	Committed     tcbFile `json:"committed_tcb"`
	Reported      tcbFile `json:"reported_tcb"`
	Firmware      [3]int  `json:"firmware"` // major, minor, build
	Platform      uint64  `json:"platform_info"`
	MitVector     uint64  `json:"mit_vector"`
	MaskChipID    bool    `json:"mask_chip_id"`
	MaskChipKey   bool    `json:"mask_chip_key"`
}

type tcbFile struct {
	FMC        uint8 `json:"fmc"`
	BootLoader uint8 `json:"boot_loader"`
	TEE        uint8 `json:"tee"`
	SNP        uint8 `json:"snp"`
	Microcode  uint8 `json:"microcode"`
}

func toFile(t snp.TCB) tcbFile { return tcbFile{t.FMC, t.BootLoader, t.TEE, t.SNP, t.Microcode} }

func (f tcbFile) tcb(p snp.Product) snp.TCB {
	return snp.TCB{BootLoader: f.BootLoader, TEE: f.TEE, SNP: f.SNP, Microcode: f.Microcode, FMC: f.FMC, HasFMC: p == snp.Turin}
}

// Save writes the chip into a folder, which is made if it does not exist. A
// folder that holds a chip is ErrExists and stays as it is.
func (p *PSP) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("saving a chip: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("saving a chip: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, FileChip)); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = ErrExists
		}
		return fmt.Errorf("saving a chip in %q: %w", dir, err)
	}
	chip, err := p.chipJSON()
	if err != nil {
		return err
	}
	arkKey, err := keyPEM(p.ca.arkKey)
	if err != nil {
		return err
	}
	askKey, err := keyPEM(p.ca.askKey)
	if err != nil {
		return err
	}
	ark, ask := certPEM(p.ARK()), certPEM(p.ASK())
	return writeFiles(dir, []file{
		{FileSecret, p.secret[:], 0o600},
		{FileARKKey, arkKey, 0o600},
		{FileASKKey, askKey, 0o600},
		{FileARK, ark, 0o644},
		{FileChain, append(ask, ark...), 0o644},
		{FileVCEK, p.VCEK(), 0o644},
		{FileChip, chip, 0o644}, // last: with it the folder holds a chip
	})
}

// SaveState writes the chip's state and its VCEK into the folder that the chip
// came from: after SameChip, as a firmware update leaves them.
func (p *PSP) SaveState(dir string) error {
	chip, err := p.chipJSON()
	if err != nil {
		return err
	}
	return writeFiles(dir, []file{{FileChip, chip, 0o644}, {FileVCEK, p.VCEK(), 0o644}})
}

func (p *PSP) chipJSON() ([]byte, error) {
	s := &p.state
	b, err := json.MarshalIndent(chipFile{
		Product: string(p.product), ChipID: hex.EncodeToString(p.chipID[:]), ReportVersion: s.ReportVersion,
		Current: toFile(s.Current), Committed: toFile(s.Committed), Reported: toFile(s.Reported),
		Firmware: [3]int{int(s.Firmware.Major), int(s.Firmware.Minor), int(s.Firmware.Build)},
		Platform: uint64(s.Platform), MitVector: s.MitVector, MaskChipID: s.MaskChipID, MaskChipKey: s.MaskChipKey,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("saving a chip: %w", err)
	}
	return append(b, '\n'), nil
}

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

func writeFiles(dir string, files []file) error {
	for _, f := range files {
		if err := renameio.WriteFile(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("saving a chip: %w", err)
		}
	}
	return nil
}

// Load reads a chip from its folder and checks that its files belong together.
func Load(dir string) (*PSP, error) {
	p, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the chip in %q: %w", dir, err)
	}
	return p, nil
}

func load(dir string) (*PSP, error) {
	data, err := readFile(dir, FileChip)
	if err != nil {
		return nil, err
	}
	var c chipFile
	if err := strictjson.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", FileChip, err)
	}
	product, err := snp.ParseProduct(c.Product)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileChip, err)
	}
	id, err := hex.DecodeString(c.ChipID)
	if err != nil || len(id) != 64 {
		return nil, fmt.Errorf("%s: chip_id is not 64 bytes in hex", FileChip)
	}
	var fw [3]uint8
	for i, n := range c.Firmware {
		if n < 0 || n > 255 {
			return nil, fmt.Errorf("%s: firmware %v", FileChip, c.Firmware)
		}
		fw[i] = uint8(n)
	}
	p := &PSP{product: product, chipID: [64]byte(id), now: time.Now(), ca: &authority{}, state: State{
		Current: c.Current.tcb(product), Committed: c.Committed.tcb(product), Reported: c.Reported.tcb(product),
		Firmware: snp.FirmwareVersion{Major: fw[0], Minor: fw[1], Build: fw[2]},
		Platform: snp.PlatformInfo(c.Platform), MitVector: c.MitVector, ReportVersion: c.ReportVersion,
		MaskChipID: c.MaskChipID, MaskChipKey: c.MaskChipKey,
	}}
	if err := p.checkState(); err != nil {
		return nil, fmt.Errorf("%s: %w", FileChip, err)
	}
	if err := p.loadKeys(dir); err != nil {
		return nil, err
	}
	if p.vcek, err = p.deriveVCEK(); err != nil {
		return nil, err
	}
	der, err := readFile(dir, FileVCEK)
	if err != nil {
		return nil, err
	}
	if p.vcekCert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("%s: %w", FileVCEK, err)
	}
	if !p.vcek.PublicKey.Equal(p.vcekCert.PublicKey) {
		// The state was edited since: a new TCB means a new VCEK.
		p.vcekCert, err = p.ca.certifyVCEK(p)
		return p, err
	}
	if err := p.vcekCert.CheckSignatureFrom(p.ca.ask); err != nil {
		return nil, fmt.Errorf("%s: %w", FileVCEK, err)
	}
	return p, nil
}

func (p *PSP) loadKeys(dir string) error {
	secret, err := readFile(dir, FileSecret)
	if err != nil {
		return err
	}
	if len(secret) != len(p.secret) {
		return fmt.Errorf("%s: %d bytes, want %d", FileSecret, len(secret), len(p.secret))
	}
	copy(p.secret[:], secret)
	if p.ca.arkKey, err = readKey(dir, FileARKKey); err != nil {
		return err
	}
	if p.ca.askKey, err = readKey(dir, FileASKKey); err != nil {
		return err
	}
	chain, err := readFile(dir, FileChain)
	if err != nil {
		return err
	}
	for _, c := range []**x509.Certificate{&p.ca.ask, &p.ca.ark} {
		block, rest := pem.Decode(chain)
		if block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s: want ASK and ARK", FileChain)
		}
		if *c, err = x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("%s: %w", FileChain, err)
		}
		chain = rest
	}
	if len(bytes.TrimSpace(chain)) != 0 || !p.ca.arkKey.PublicKey.Equal(p.ca.ark.PublicKey) || !p.ca.askKey.PublicKey.Equal(p.ca.ask.PublicKey) {
		return fmt.Errorf("%s does not belong to the keys beside it", FileChain)
	}
	return nil
}

func readFile(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err == nil && len(b) > 64<<10 {
		return nil, fmt.Errorf("%s: %d bytes are too many", name, len(b))
	}
	return b, err
}

func readKey(dir, name string) (*rsa.PrivateKey, error) {
	b, err := readFile(dir, name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: no private key in PEM", name)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: want an RSA key", name)
	}
	return key, nil
}

func keyPEM(k *rsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
