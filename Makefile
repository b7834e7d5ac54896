# attestbox. `make demo` and `make test` set up all that they need: see
# scripts/setup.sh for the Debian packages that they install when root.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: build deb demo scenario1 test test-long bench bench-boot bench-build bench-certify bench-luks bench-measure setup setup-test clean fmt

# The same bytes wherever the tree lies: no paths, no cgo, no VCS stamp.
GOBUILD := CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -ldflags='-s -w -buildid='

# Inlining costs the guest binary 740 KiB, most of it tables. It stays on where the
# time goes (the runtime, ciphers, hashes and curves, bytes); these do the talking.
# TestGuestSize reads this line.
GUESTNOINLINE := attestbox/... github.com/... context crypto/dsa crypto/ecdh crypto/ecdsa crypto/ed25519 crypto/elliptic crypto/hpke crypto/internal/fips140/ecdsa crypto/internal/fips140/rsa crypto/mlkem crypto/rsa crypto/tls/... crypto/x509/... encoding/asn1 encoding/base64 encoding/hex encoding/json encoding/pem flag fmt golang.org/x/net/... golang.org/x/sys/... internal/poll log/... math/big net/... os/... path/... reflect sort syscall time vendor/golang.org/x/crypto/cryptobyte vendor/golang.org/x/net/...
GUESTFLAGS := $(foreach p,$(GUESTNOINLINE),-gcflags='$(p)=-l')

build:
	@. scripts/lib.sh && check_go
	@mkdir -p bin
	$(GOBUILD) -o bin/attestbox .
	$(GOBUILD) $(GUESTFLAGS) -tags guest -o bin/attestbox-guest .
	$(GOBUILD) -tags simdevice -o bin/snp-sim-device .
	$(GOBUILD) -o bin/mkimage ./mkimage

# out/attestbox_VERSION_amd64.deb, the same bytes each time: docs/debian.md.
deb: build
	@scripts/deb.sh

# The owner's program of docs/scenario1.md.
bin/hmac: $(wildcard testdata/scenario1/hmac/*.go)
	@mkdir -p bin
	$(GOBUILD) -o $@ ./testdata/scenario1/hmac

setup:
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test

demo: setup
	@demo/demo.sh

scenario1: setup
	@demo/scenario1.sh

test: setup-test
	@scripts/test.sh

test-long: setup-test
	@scripts/test.sh long

bench: setup-test
	@bench/run.sh

# Certifications per second, what part of them is cryptography, and fetches of
# secrets; the primitives are measured in the same run.
bench-certify:
	@. scripts/lib.sh && check_go
	CGO_ENABLED=0 go test -run '^$$' -v -bench '^Benchmark(Certify|CertifyClients|Handshake|Keys)$$' -benchtime 2s ./internal/server

# Kernel start to switch_root, against initramfs-tools.
bench-boot: setup-test
	@bench/boot.sh

# Building an initramfs, against initramfs-tools, dracut and booster.
bench-build: setup-test
	@bench/build.sh

# Opening and writing disks, against cryptsetup and cp.
bench-luks: setup-test
	@bench/luks.sh

# Launch digests, against sev-snp-measure (REFERENCE=its path) and a bare SHA-256.
bench-measure:
	@. scripts/lib.sh && check_go
	@REFERENCE=$(REFERENCE) bench/measure.sh

fmt:
	gofmt -w $$(git ls-files '*.go')

clean:
	rm -rf bin out
