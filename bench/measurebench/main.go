// Command measurebench helps bench/measure.sh: it writes the files of a launch
// of realistic size, and is the floor that a launch digest is compared with.
//
//	measurebench files DIR      ovmf.fd (4 MiB), vmlinuz (11.6 MB), initrd.img (50 MB)
//	measurebench sha256 FILE    SHA-256 of one mapped file, and nothing else
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"attestbox/internal/measure"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measurebench: "+err.Error())
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("want files DIR or sha256 FILE")
	}
	switch args[0] {
	case "files":
		return files(args[1])
	case "sha256":
		return floor(args[1])
	}
	return fmt.Errorf("unknown subcommand %q", args[0])
}

func files(dir string) error {
	random := rand.NewChaCha8([32]byte{1})
	for _, f := range []struct {
		name string
		size int
	}{{"ovmf.fd", 4 << 20}, {"vmlinuz", 11_600_000}, {"initrd.img", 50_000_000}} {
		b := make([]byte, f.size)
		random.Read(b)
		if f.name == "ovmf.fd" {
			tables := measure.SyntheticFirmware()
			copy(b[len(b)-len(tables):], tables)
		}
		if err := os.WriteFile(filepath.Join(dir, f.name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func floor(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	fmt.Printf("%x\n", sha256.Sum256(b))
	return nil
}
