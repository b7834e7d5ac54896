package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"attestbox/internal/measure"
)

// maxFirmwareFile bounds what is read of a firmware or SVSM image, in bytes.
const maxFirmwareFile = 64 << 20

// load reads and hashes what the flags name. The initramfs is one long hash:
// it is read and hashed beside all the rest, so that nothing waits for it
// longer than its own hash takes.
func (f *measureFlags) load(ctx context.Context, cfg *measure.Config, mode string) error {
	var wg sync.WaitGroup
	var initrdErr error
	if f.initrd != "" {
		wg.Go(func() { cfg.InitrdHash, initrdErr = hashFile(ctx, f.initrd) })
	}
	err := f.loadRest(ctx, cfg, mode)
	wg.Wait()
	if err != nil {
		return err
	}
	return initrdErr
}

func (f *measureFlags) loadRest(ctx context.Context, cfg *measure.Config, mode string) (err error) {
	cfg.Firmware = measure.SyntheticFirmware()
	if f.ovmf != "" {
		if cfg.Firmware, err = readBounded(f.ovmf); err != nil {
			return err
		}
	}
	if f.svsm != "" {
		if cfg.SVSM, err = readBounded(f.svsm); err != nil {
			return err
		}
		if cfg.VarsSize, err = f.varsBytes(); err != nil {
			return err
		}
	}
	if mode == modeSNP {
		chain, err := measure.FirmwareChain(cfg.Firmware)
		if err != nil {
			return err
		}
		if f.foreign = cfg.FirmwareChain != nil && *cfg.FirmwareChain != chain; !f.foreign {
			cfg.FirmwareChain = &chain
		}
	}
	if f.kernel == "" {
		return nil
	}
	if f.initrd == "" { // with one, the table has what else would be missing
		if cfg.UKI, err = isUKI(f.kernel); err != nil {
			return err
		}
	}
	cfg.KernelHash, err = hashFile(ctx, f.kernel)
	return err
}

// isUKI says whether a kernel file is a unified kernel image.
func isUKI(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("measuring: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false, err
	}
	return measure.UKI(file, st.Size())
}

// hashFile is the SHA-256 of a file. Reading runs ahead of hashing by a few
// blocks, small enough to stay in the cache between the two.
func hashFile(ctx context.Context, path string) (*[32]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("measuring: %w", err)
	}
	defer file.Close()
	const blocks, blockSize = 4, 256 << 10
	free, full := make(chan []byte, blocks), make(chan []byte, blocks)
	for range blocks {
		free <- make([]byte, blockSize)
	}
	var readErr error // written before full is closed
	go func() {
		defer close(full)
		for b := range free {
			n, err := file.Read(b)
			if err == nil {
				err = ctx.Err()
			}
			full <- b[:n]
			if err != nil {
				readErr = err
				return
			}
		}
	}()
	h := sha256.New()
	for b := range full {
		h.Write(b)
		free <- b[:blockSize]
	}
	if !errors.Is(readErr, io.EOF) {
		return nil, fmt.Errorf("measuring %q: %w", path, readErr)
	}
	return (*[32]byte)(h.Sum(nil)), nil
}

// readBounded reads a firmware or SVSM image.
func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading firmware: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading firmware %q: %w", path, err)
	}
	if st.Size() > maxFirmwareFile {
		return nil, fmt.Errorf("reading firmware %q: more than %d bytes", path, maxFirmwareFile)
	}
	if st.Mode().IsRegular() {
		b := make([]byte, st.Size())
		if _, err := io.ReadFull(file, b); err != nil {
			return nil, fmt.Errorf("reading firmware %q: %w", path, err)
		}
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFirmwareFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading firmware %q: %w", path, err)
	}
	if len(b) > maxFirmwareFile {
		return nil, fmt.Errorf("reading firmware %q: more than %d bytes", path, maxFirmwareFile)
	}
	return b, nil
}
